"""Which orders must not know of each other, which sets must not meet, and which orders must never change."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import combinations
from math import sqrt

import polars as pl
import pytest

from drift_data.calibrate.thresholds import CHOOSING_PART, REPORTING_PART, assign_gold_parts
from drift_data.chats.order import (
    EARLIER_SAMPLE,
    EXCERPTS,
    REVIEW,
    RUBRIC_DRAW,
    SAMPLE,
    SPLIT,
    Purpose,
    choose_split,
    rank,
    rank_as_number,
    take_first,
)
from drift_data.distill.examples import is_held_out
from drift_data.distill.student import is_in_first_part
from drift_data.distill.teacher import cap_turns
from drift_data.review.queue import hash_turn

IDS = [f"conversation-{n}" for n in range(20_000)]
FIRST = 2_000  # a tenth
DEVIATIONS = 5  # from what chance gives: one pair in two million

# Name → the conversations that are chosen. Those that take a part are cut to about a tenth, where the code allows it.
CHOSEN: dict[str, Callable[[], Iterable[str]]] = {
    "sample": lambda: take_first(IDS, SAMPLE, FIRST),
    "test split": lambda: (name for name in IDS if choose_split(name, 0.1) == "test"),
    "calibrate's choosing half": lambda: half(CHOOSING_PART),
    "hold-out, 1 in 2": lambda: (name for name in IDS if is_held_out(name, 2)),
    "hold-out, 1 in 3": lambda: (name for name in IDS if is_held_out(name, 3)),
    "hold-out, 1 in 10": lambda: (name for name in IDS if is_held_out(name, 10)),
    "teacher's cap": lambda: cap_turns(turns(), FIRST)["conversation_id"],
    "learning curve's quarter": lambda: turns().filter(is_in_first_part(turns()["conversation_id"], 0.25))[
        "conversation_id"
    ],
    "reviewer's first": lambda: (
        name.split("/")[0] for name in take_first((f"{name}/2" for name in IDS), REVIEW, FIRST)
    ),
    "excerpts": lambda: (
        name.split("\0")[0] for name in take_first((f"{name}\0002" for name in IDS), EXCERPTS, FIRST)
    ),
    "rubric's draw": lambda: (
        name.split("\0")[1] for name in take_first((f"0\0{name}" for name in IDS), RUBRIC_DRAW, FIRST)
    ),
}
# Two shares of one hash: the tenth is a part of the half, which no option brings together.
SAME_RULE = {name for name in CHOSEN if name.startswith("hold-out")}


def turns() -> pl.DataFrame:
    return pl.DataFrame({"conversation_id": IDS, "turn": 2})


def half(part: str) -> Iterator[str]:
    names = pl.Series(IDS)
    return iter(names.filter(assign_gold_parts(names) == part).to_list())


@cache
def chosen(name: str) -> frozenset[str]:
    return frozenset(CHOSEN[name]())


@cache
def reporting() -> frozenset[str]:
    return frozenset(half(REPORTING_PART))


@pytest.mark.parametrize(
    ("one", "other"), [pair for pair in combinations(CHOSEN, 2) if not SAME_RULE.issuperset(pair)]
)
def test_what_is_chosen_for_one_purpose_says_nothing_of_another(one: str, other: str) -> None:
    first, second = len(chosen(one)) / len(IDS), len(chosen(other)) / len(IDS)
    assert 0.08 < first < 0.55 and 0.08 < second < 0.55
    both = len(chosen(one) & chosen(other))
    spread = sqrt(len(IDS) * first * second * (1 - first) * (1 - second))  # of a hypergeometric number
    assert abs(both - len(IDS) * first * second) < DEVIATIONS * spread


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(lambda name: choose_split(name, 0.1) == "train", "test split", id="train×test"),
        pytest.param(lambda name: not is_held_out(name, 3), "hold-out, 1 in 3", id="learned from×held out"),
        pytest.param(lambda name: name in reporting(), "calibrate's choosing half", id="halves"),
    ],
)
def test_what_is_learned_from_and_what_is_measured_on_do_not_meet(
    one: Callable[[str], bool], other: str
) -> None:
    some = sorted(chosen(other))[:200]
    assert not any(one(name) for name in some)
    assert sum(one(name) for name in IDS[:200]) + sum(name in chosen(other) for name in IDS[:200]) == 200


def test_a_small_sample_is_not_the_test_split() -> None:
    """The defect this guards against: a sample of 1 % was the test split, as the earlier rule still is."""
    names = [f"conversation-{n}" for n in range(100_000)]
    sample = take_first(names, SAMPLE, 1_000)
    assert sum(choose_split(name, 0.01) == "test" for name in sample) < 30  # ten by chance
    earlier = take_first(names, EARLIER_SAMPLE, 900)
    assert all(choose_split(name, 0.01) == "test" for name in earlier)  # what users of such a sample are told


@pytest.mark.parametrize("one_in", [2, 3, 4, 6])
def test_conversations_held_out_of_a_classifier_are_in_both_halves_of_the_gold(one_in: int) -> None:
    held = pl.Series([name for name in IDS if is_held_out(name, one_in)])
    reported = (assign_gold_parts(held) == REPORTING_PART).sum()
    assert abs(reported - len(held) / 2) < DEVIATIONS * sqrt(len(held)) / 2


def test_a_larger_sample_holds_the_smaller_one_and_no_order_depends_on_that_of_the_table() -> None:
    assert take_first(IDS, SAMPLE, 50) == take_first(reversed(IDS), SAMPLE, 500)[:50]
    assert take_first(IDS, SAMPLE, 0) == [] and sorted(take_first(IDS[:5], SAMPLE, 9)) == IDS[:5]


# What orders gave before there were salts (commit 2efd463), over 1,003 names: published, or paid for.
NAMES = [*IDS[:1000], "ü", "会話", "a/b"]
KEYS = [(name, turn) for name in NAMES for turn in (2, 4)]


def fingerprint(found: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(map(str, found)).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("fraction", "count", "print_"),
    [(0.01, 13, "d6ab2dee5a39ef21"), (0.1, 108, "2792bdaaa4cfdbfc"), (0.5, 512, "ccb23394ccdefaea")],
)
def test_the_split_stays_as_it_was(fraction: float, count: int, print_: str) -> None:
    test = [name for name in NAMES if choose_split(name, fraction) == "test"]
    assert (len(test), fingerprint(test)) == (count, print_)


@pytest.mark.parametrize(
    ("one_in", "count", "print_"),
    [(3, 325, "cc6f9f2f49f73ee2"), (5, 226, "1b6893c1cc0bc9dd")],
)
def test_one_conversation_in_an_odd_number_held_out_stays_as_it_was(
    one_in: int, count: int, print_: str
) -> None:
    held = [name for name in NAMES if is_held_out(name, one_in)]
    assert (len(held), fingerprint(held)) == (count, print_)


def test_the_halves_of_the_gold_stay_as_they_were() -> None:
    """The even hashes are the choosing half: the conversations that were held out by one in two."""
    names = pl.Series(NAMES)
    choosing = names.filter(assign_gold_parts(names) == CHOOSING_PART)
    assert (len(choosing), fingerprint(choosing)) == (494, "ca519251ccf6c5cd")


def test_the_reviewers_order_stays_as_it_was() -> None:
    order = sorted(KEYS, key=lambda key: hash_turn(*key))
    assert order[:2] == [("conversation-434", 4), ("conversation-648", 4)]
    assert fingerprint(order) == "6a48ce7dafdec0ac" and hash_turn("conversation-0", 2) == 15306237410522852004


def test_the_order_of_excerpts_stays_as_it_was() -> None:
    order = sorted(KEYS, key=lambda key: rank(f"{key[0]}\0{key[1]}", EXCERPTS))
    assert order[:2] == [("conversation-296", 2), ("conversation-83", 4)]
    assert fingerprint(order) == "c3ff9a9b0fe1b8c0"


@pytest.mark.parametrize(
    ("seed", "print_", "first"),
    [(0, "67ed5d22bd648051", 15586200245858654043), (7, "9e700f8305f93a65", 3316938629681440787)],
)
def test_the_draw_for_a_rubric_stays_as_it_was(seed: int, print_: str, first: int) -> None:
    order = sorted(NAMES, key=lambda name: rank_as_number(f"{seed}\0{name}", RUBRIC_DRAW))
    assert fingerprint(order) == print_
    assert rank_as_number(f"{seed}\0conversation-0", RUBRIC_DRAW) == first
    assert rank_as_number("0\0\ud800", RUBRIC_DRAW) == 13585995309455660762  # half of a character


def test_the_earlier_sample_is_drawn_as_it_was() -> None:
    drawn = take_first(NAMES, EARLIER_SAMPLE, 100)
    assert drawn[:2] == ["conversation-260", "conversation-407"]
    assert fingerprint(drawn) == "a944ae78b888e466"


def test_salts_are_versioned_and_differ() -> None:
    """A salt stands in manifests: with another rule it needs another version."""
    from drift_data.chats import order

    salts = [each.salt for each in vars(order).values() if isinstance(each, Purpose) and each.salt]
    assert sorted(salts) == ["hold-out/2", "learning-curve/2", "sample/2", "teacher-cap/2"]
    assert SPLIT.salt == "" and rank("x", SAMPLE) == hashlib.sha256(b"sample/2\0x").digest()
