"""SPIN: chosen is a reply that users were content with, rejected the policy's own fresh reply at the same place.

As the paper compares it (arXiv 2510.02341, table 1), the policy sees x alone. Guided, which the paper did not try,
it sees the failing reply and the complaint as DRIFT's does: then the logs must hold both a failing and a good
reply at one place, so the examples are the seed pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from drift_train.methods.base import GUIDED, PLAIN, Answer, Pair, best_first
from drift_train.methods.examples import Example
from drift_train.options import ExamplesName


def table(examples: ExamplesName, guided: bool) -> str:
    """Return where the good replies are."""
    if examples == "preferences":
        return "preferences"
    return "seed" if guided else "sat"


def kinds(guided: bool) -> Sequence[str]:
    """Return the kind of the one reply."""
    return (GUIDED,) if guided else (PLAIN,)


def logged(example: Example) -> str | None:
    """Return the good reply."""
    return example.chosen


def pairs(example: Example, samples: Mapping[str, Sequence[Answer]]) -> Iterator[Pair]:
    """Yield the good reply against each sample; ranked, the hardest to tell from it comes first."""
    chosen = Answer(example.chosen or "", informed=example.revised)
    for replies in samples.values():
        for reply in best_first(replies):
            yield chosen, reply
