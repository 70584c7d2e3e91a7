"""DRIFT: rejected is the reply a user complained about, chosen the policy's own fresh attempt at the same
place.

Guided, the policy sees the rejected reply, the complaint and an instruction; the training prompt shows none of
these (arXiv 2510.02341, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from drift_train.methods.base import GUIDED, PLAIN, Answer, Pair, best_first
from drift_train.methods.examples import Example
from drift_train.options import ExamplesName


def table(examples: ExamplesName, guided: bool) -> str:
    """Return where the rejected replies are."""
    return "dsat" if examples == "logs" else "preferences"


def kinds(guided: bool) -> Sequence[str]:
    """Return the kind of the one attempt."""
    return (GUIDED,) if guided else (PLAIN,)


def logged(example: Example) -> str | None:
    """Return the rejected reply."""
    return example.rejected


def pairs(example: Example, samples: Mapping[str, Sequence[Answer]]) -> Iterator[Pair]:
    """Yield each attempt against the rejected reply."""
    rejected = Answer(example.rejected or "")
    for attempts in samples.values():
        for attempt in best_first(attempts):
            yield attempt, rejected
