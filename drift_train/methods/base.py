"""Defines what a method decides (`Method`), and makes the prompts that all methods show to a policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from drift_train.methods.examples import Example
from drift_train.models.render import Message, Messages
from drift_train.options import ExamplesName

GUIDED, PLAIN = "guided", "plain"  # kinds of rollout: with the complaint in view, or from the prompt x alone


@dataclass(frozen=True)
class Reply:
    """A logged or sampled reply that may become one side of a pair.

    Attributes:
        text: what the reply says.
        cut: the reply is a rollout that stopped for length, so it has no end to learn.
        informed: the reply was written in view of an earlier reply and a complaint that the training prompt does not
            show.
        reward: the reward model's number for a rollout; None where rollouts are not ranked.
    """

    text: str
    cut: bool = False
    informed: bool = False
    reward: float | None = None


Pair = tuple[Reply, Reply]  # chosen, rejected


class Method(Protocol):
    """How preference pairs are made of logged and sampled replies (arXiv 2510.02341, table 1).

    A method is guided when a rollout shows the policy the failing reply and the complaint about it. The recipe may
    choose that (`loop.rollout.guidance`); where it does not, the method does.
    """

    def is_guided_by_default(self, examples: ExamplesName) -> bool:
        """Say whether rollouts show the complaint when the recipe leaves the choice to the method."""
        ...

    def compares_samples(self, guided: bool) -> bool:
        """Say whether a pair is two samples of one prompt, which a reward model has to rank."""
        ...

    def examples_table(self, examples: ExamplesName, guided: bool) -> str:
        """Return the name of the table that the examples come from."""
        ...

    def rollout_kinds(self, guided: bool) -> Sequence[str]:
        """Return the kinds of rollout that an example needs: `GUIDED`, `PLAIN` or both."""
        ...

    def logged_reply(self, example: Example) -> str | None:
        """Return the reply that a pair takes from the example, or None when both sides are sampled."""
        ...

    def pair_replies(self, example: Example, samples: Mapping[str, Sequence[Reply]]) -> Iterable[Pair]:
        """Return the pairs that an example may become, the best one first; the first that passes all filters
        is trained on.

        Args:
            example: a row of `examples_table`.
            samples: kind of rollout → replies in the order of sampling; either all have a reward, or none.
        """
        ...


def rollout_prompt(kind: str, example: Example, prompt: Messages, instruction: str) -> list[Message]:
    """Return the messages that the policy is shown for one kind of rollout.

    Args:
        kind: `PLAIN` shows x alone; `GUIDED` goes on with the rejected reply and one user turn of complaint and
            instruction (section 3 of the paper).
        example: must hold a rejected reply and a complaint for a guided rollout.
        prompt: x, perhaps shortened.
        instruction: what the user is made to ask for after the complaint.

    Raises:
        ValueError: the rollout is guided, and the example lacks the rejected reply or the complaint.
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


def training_prompt(kind: str, messages: Messages) -> Messages:
    """Return x: the messages of `rollout_prompt` without the rejected reply and the complaint."""
    return messages[:-2] if kind == GUIDED else messages


def sort_by_reward(samples: Iterable[Reply]) -> list[Reply]:
    """Return samples by falling reward. Equal rewards, and samples without one, keep the order of sampling."""
    return sorted(samples, key=lambda sample: -(sample.reward or 0.0))
