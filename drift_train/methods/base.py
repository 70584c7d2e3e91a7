"""What all methods share: the prompts a policy is shown, and the decisions in which methods differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from drift_train.methods.examples import Example
from drift_train.models.render import Message
from drift_train.options import ExamplesName

GUIDED, PLAIN = "guided", "plain"  # kinds of rollout


@dataclass(frozen=True)
class Answer:
    """A reply that may become one side of a pair.

    Attributes:
        text: of the reply.
        cut: it is a rollout that stopped for length, so it has no end to learn.
        informed: it was written in view of a reply and a complaint that the training prompt does not show.
        reward: of a reward model, for rollouts that are ranked.
    """

    text: str
    cut: bool = False
    informed: bool = False
    reward: float | None = None


Pair = tuple[Answer, Answer]  # chosen, rejected


class Method(Protocol):
    """How preference pairs are made of logged and sampled replies (arXiv 2510.02341, table 1)."""

    def table(self, examples: ExamplesName, guided: bool) -> str:
        """Return the table that the examples come from."""
        ...

    def kinds(self, guided: bool) -> Sequence[str]:
        """Return the kinds of rollout that an example needs."""
        ...

    def logged(self, example: Example) -> str | None:
        """Return the reply that a pair takes from the example, or None when both sides are sampled."""
        ...

    def pairs(self, example: Example, samples: Mapping[str, Sequence[Answer]]) -> Iterable[Pair]:
        """Return the pairs that an example may become, the best one first; the first that passes all filters
        is trained on.

        Args:
            example: a row of `table`.
            samples: by kind, as they were sampled; all of them with a reward, or none.
        """
        ...


def shown(kind: str, example: Example, prompt: Sequence[Message], instruction: str) -> list[Message]:
    """Return what the policy is shown for one kind of rollout.

    Args:
        kind: plain shows x alone; guided goes on with the rejected reply and one user turn of complaint and
            instruction (section 3 of the paper).
        example: holds both when it is to be guided.
        prompt: x, perhaps shortened.
        instruction: what the user is made to ask for after the complaint.
    """
    if kind == PLAIN:
        return list(prompt)
    if example.rejected is None or not example.feedback:
        raise ValueError(f"{example.key} has no failing reply with a complaint to guide by")
    return [
        *prompt,
        {"role": "assistant", "content": example.rejected},
        {"role": "user", "content": f"{example.feedback}\n\n{instruction}"},
    ]


def training_prompt(kind: str, messages: Sequence[Message]) -> Sequence[Message]:
    """Return x: what `shown` returned, without the rejected reply and the complaint."""
    return messages[:-2] if kind == GUIDED else messages


def best_first(samples: Iterable[Answer]) -> list[Answer]:
    """Return samples by falling reward, equals in the order of sampling; without rewards as they were sampled."""
    return sorted(samples, key=lambda sample: -(sample.reward or 0.0))
