"""Orders conversations, or turns, by a hash of their names. Every stage that ranks, splits or samples them does it here.

Each use has a purpose, and the purpose's salt goes into the hash. Orders with different salts are independent of each
other: whether a conversation is sampled for one purpose says nothing about where it stands for another. Some purposes
have no salt, because they are older than the salts. Two unsalted purposes put the same names into the same order. The
decisions of these purposes are published or paid for, so their orders must not change. `drift_train` has orders of its
own, whose hashes begin with the seed of a run.
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
        salt: text that is put before a name when the name is hashed; empty: the name alone is hashed. The salt ends with
            the version of the rule. Manifests record the salts of the orders that decided their content, so that results
            of one order are never taken for results of another.
    """

    salt: str = ""


SPLIT: Final = Purpose()
"""Decides which conversations are "test" and are never trained on: those with the smallest hashes."""

HOLD_OUT: Final = Purpose()
"""Decides which conversations a distilled classifier is measured on and never learns from, when `distill.hold_out` is
odd. The held-out third of the classifier that ships was drawn in this order."""

HOLD_OUT_EVEN: Final = Purpose("hold-out/2")
"""Decides what HOLD_OUT decides, when `distill.hold_out` is even. Version 1 was the order of HOLD_OUT. There, all held-out
conversations have even ranks, and GOLD_PART puts even ranks into the half on which thresholds are chosen, so that no
held-out conversation was ever in the half on which they are reported."""

SAMPLE: Final = Purpose("sample/2")
"""Decides which conversations `SAMPLE=n` labels: the first n, so that a larger sample holds the smaller one."""

EARLIER_SAMPLE: Final = Purpose()
"""Version 1 of SAMPLE. It equals the order of SPLIT, so a sample of 1 % of the conversations was the test split. A sample
that was drawn in this order keeps its conversations; new conversations are drawn in the order of SAMPLE."""

GOLD_PART: Final = Purpose()
"""Decides on which half of the gold labels `make calibrate` chooses thresholds, and on which half it reports them."""

TEACHER_CAP: Final = Purpose("teacher-cap/2")
"""Decides which conversations of a teacher's labels are read when they have more turns than `distill.max_turns`. Version
1 was the order of SPLIT."""

LEARNING_CURVE: Final = Purpose("learning-curve/2")
"""Decides from which quarter and which half of the conversations the models of a learning curve learn. Version 1 was the
order of SPLIT."""

REVIEW: Final = Purpose()
"""Decides in which order a person gets the turns (`order=random`, and `Q=to_label`); the names are "conversation/turn"."""

EXCERPTS: Final = Purpose()
"""Decides which turns the quality page shows for a cell of the confusion table; the names are "conversation\\0turn"."""

RUBRIC_DRAW: Final = Purpose()
"""Decides which conversations a rubric is learned from; the names are "seed\\0conversation", with the recipe's seed."""


TEST_FRACTION: Final = 0.01
"""Share of the conversations that get the split "test", unless a recipe sets `mine.test_fraction`."""


def rank(name: str, purpose: Purpose) -> bytes:
    """Return a name's sort key in the order of a purpose: a hash of 32 bytes, the same on every machine."""
    salted = f"{purpose.salt}\0{name}" if purpose.salt else name
    return hashlib.sha256(salted.encode("utf-8", "surrogatepass")).digest()


def rank_as_number(name: str, purpose: Purpose) -> int:
    """Return the first 64 bits of a name's rank as a number; ranks spread evenly from 0 to 2**64."""
    return int.from_bytes(rank(name, purpose)[:8])


def is_one_in(name: str, purpose: Purpose, count: int) -> bool:
    """Say whether a name belongs to a fixed share of 1/`count` of all names: those whose rank `count` divides."""
    return int.from_bytes(rank(name, purpose)) % count == 0


def take_first(names: Iterable[str], purpose: Purpose, count: int) -> list[str]:
    """Return the `count` names that come first in the order of a purpose; memory is bounded by `count`."""
    return heapq.nsmallest(count, names, key=lambda name: rank(name, purpose))


def choose_split(conversation_id: str, test_fraction: float) -> str:
    """Return the split of a conversation: "test" for a fixed share of them, else "train"; the same on every machine.

    Args:
        conversation_id: the conversation.
        test_fraction: share of the conversations that get "test", 0 to 1.
    """
    return "test" if rank_as_number(conversation_id, SPLIT) < test_fraction * 2**64 else "train"
