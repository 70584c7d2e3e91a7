"""DRIFT: rejected is the reply a user complained about, chosen is the policy's own fresh attempt at the same place.

Guided, the policy sees the rejected reply, the complaint and an instruction; the training prompt shows none of
these (arXiv 2510.02341, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from drift_train.methods.base import GUIDED, PLAIN, Pair, Reply, sort_by_reward
from drift_train.methods.examples import Example
from drift_train.options import ExamplesName


def is_guided_by_default(examples: ExamplesName) -> bool:
    """Return True for logs and False for preference pairs (paper, table 1)."""
    return examples == "logs"


def compares_samples(guided: bool) -> bool:
    """Return False: the rejected reply is a logged one."""
    return False


def examples_table(examples: ExamplesName, guided: bool) -> str:
    """Return the table that holds the rejected replies."""
    return "dsat" if examples == "logs" else "preferences"


def rollout_kinds(guided: bool) -> Sequence[str]:
    """Return the kind of the one attempt."""
    return (GUIDED,) if guided else (PLAIN,)


def logged_reply(example: Example) -> str | None:
    """Return the rejected reply."""
    return example.rejected


def pair_replies(example: Example, samples: Mapping[str, Sequence[Reply]]) -> Iterator[Pair]:
    """Yield each attempt against the rejected reply, the attempt of the highest reward first."""
    rejected = Reply(example.rejected or "")
    for attempts in samples.values():
        for attempt in sort_by_reward(attempts):
            yield attempt, rejected
