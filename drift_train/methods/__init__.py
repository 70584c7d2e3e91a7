"""How a method makes preference pairs: what the policy is asked, which reply is chosen and which rejected.

A method is a module with the functions of `Method`; `METHODS` finds it by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from drift_train.methods import drift
from drift_train.render import Message


class Method(Protocol):
    """The decisions in which methods differ."""

    def asked(
        self, prompt: Sequence[Message], rejected: str, complaint: str | None, instruction: str
    ) -> Mapping[str, list[Message]]:
        """Return what the policy is shown, by kind of rollout ("guided", "plain").

        Args:
            prompt: the conversation before the rejected reply.
            rejected: the reply that drew the complaint.
            complaint: what the user said to it; None samples without guidance.
            instruction: what the user is made to ask for after the complaint.
        """
        ...

    def prompt(self, kind: str, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the prompt that a pair is trained on, from what the policy was shown."""
        ...

    def pair(self, samples: Mapping[str, str], rejected: str) -> tuple[str, str]:
        """Return (chosen, rejected), given the samples by kind and the reply that drew the complaint."""
        ...


METHODS: Mapping[str, Method] = {"drift": drift}
