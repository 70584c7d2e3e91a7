"""SPIN: chosen is a reply that users were content with, rejected is the policy's own fresh reply at the same place.

As the paper compares it (arXiv 2510.02341, table 1), the policy sees x alone. Guided, which the paper did not try,
it sees the failing reply and the complaint as DRIFT's policy does: then the logs must hold both a failing and a good
reply at one place, so the examples are the seed pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from drift_train.methods.base import GUIDED, PLAIN, Pair, Reply, sort_by_reward
from drift_train.methods.examples import Example
from drift_train.options import ExamplesName


def is_guided_by_default(examples: ExamplesName) -> bool:
    """Return False: SPIN is never guided (paper, table 1)."""
    return False


def compares_samples(guided: bool) -> bool:
    """Return False: the chosen reply is a logged one."""
    return False


def examples_table(examples: ExamplesName, guided: bool) -> str:
    """Return the table that holds the good replies."""
    if examples == "preferences":
        return "preferences"
    return "seed" if guided else "sat"


def rollout_kinds(guided: bool) -> Sequence[str]:
    """Return the kind of the one reply."""
    return (GUIDED,) if guided else (PLAIN,)


def logged_reply(example: Example) -> str | None:
    """Return the good reply."""
    return example.chosen


def pair_replies(example: Example, samples: Mapping[str, Sequence[Reply]]) -> Iterator[Pair]:
    """Yield the good reply against each sample.

    Where samples are ranked, the one of the highest reward comes first: it is the hardest to tell from the good reply.
    """
    chosen = Reply(example.chosen or "", informed=example.revised)
    for replies in samples.values():
        for reply in sort_by_reward(replies):
            yield chosen, reply
