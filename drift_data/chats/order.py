"""Orders conversations, or turns, by a hash of their names: whoever ranks, splits or samples them does it here.

Each use has a purpose, and a purpose's salt goes into the hash. Orders of two salts are independent of each other, so
what is sampled for one purpose says nothing about where it lies for another. Orders without a salt are older than the
salts and coincide where they order the same names: what they decided is published or paid for, so they stay as they are. The orders of `drift_train` are its own: they
begin with the seed of a run.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Purpose:
    """What names are ordered for.

    Attributes:
        salt: is put before the name. It ends with the version of the rule, and stands in the manifests of what the
            order has decided: another salt means another order, so that nothing is taken for what it is not. Empty:
            the hash is that of the name alone.
    """

    salt: str = ""


SPLIT: Final = Purpose()
"""Which conversations are "test" and are never trained on: those of the smallest hashes."""

HOLD_OUT: Final = Purpose()
"""Which conversations a distilled classifier is measured on and never learns from, when it is one in an odd number
(`distill.hold_out`). The held-out third of the classifier that ships is this one."""

HOLD_OUT_EVEN: Final = Purpose("hold-out/2")
"""The same for one in an even number. Version 1 was the order of HOLD_OUT: its even ranks are GOLD_PART's choosing half,
so that no held-out conversation was ever in the reporting half."""

SAMPLE: Final = Purpose("sample/2")
"""Which conversations `SAMPLE=n` labels: the first n, so that a larger sample holds the smaller one."""

EARLIER_SAMPLE: Final = Purpose()
"""Version 1 of SAMPLE, the order of SPLIT itself: a sample of 1 % of the conversations is the test split. Only samples
that were drawn by it go on with it."""

GOLD_PART: Final = Purpose()
"""On which half of the gold `make calibrate` chooses thresholds, and on which it reports them."""

TEACHER_CAP: Final = Purpose("teacher-cap/2")
"""Which of a teacher's conversations are read when they have more turns than `distill.max_turns`. Version 1 was the
order of SPLIT."""

LEARNING_CURVE: Final = Purpose("learning-curve/2")
"""Which conversations are the first quarter and half of a learning curve. Version 1 was the order of SPLIT."""

REVIEW: Final = Purpose()
"""In which order a person gets the turns (`order=random`, and `Q=to_label`); names are "conversation/turn"."""

EXCERPTS: Final = Purpose()
"""Which turns of a cell of the confusion table are shown; names are "conversation\\0turn"."""

RUBRIC: Final = Purpose()
"""Which conversations a rubric is learned from; names begin with the recipe's seed, "seed\\0conversation"."""


TEST_FRACTION: Final = 0.01
"""Share of the conversations with the split "test", where a recipe does not say otherwise (`mine.test_fraction`)."""


def rank(name: str, purpose: Purpose) -> bytes:
    """Return what names are sorted by in the order of a purpose: 32 bytes, the same on every machine."""
    salted = f"{purpose.salt}\0{name}" if purpose.salt else name
    return hashlib.sha256(salted.encode("utf-8", "surrogatepass")).digest()


def rank_as_number(name: str, purpose: Purpose) -> int:
    """Return the first 64 bits of a name's rank as a number: where it stands between 0 and 2**64."""
    return int.from_bytes(rank(name, purpose)[:8])


def is_one_in(name: str, purpose: Purpose, count: int) -> bool:
    """Say whether a name is in a fixed share of 1/`count` of all names: whether `count` divides its rank."""
    return int.from_bytes(rank(name, purpose)) % count == 0


def take_first(names: Iterable[str], purpose: Purpose, count: int) -> list[str]:
    """Return the names that come first, in order; memory is bounded by `count`."""
    return heapq.nsmallest(count, names, key=lambda name: rank(name, purpose))


def split_of(conversation_id: str, test_fraction: float) -> str:
    """Return "test" for a fixed share of the conversations, else "train"; the same on every machine."""
    return "test" if rank_as_number(conversation_id, SPLIT) < test_fraction * 2**64 else "train"
