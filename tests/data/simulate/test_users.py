"""Simulated users: their words name what is wrong, vary, and are not easy to tell apart."""

import re
from random import Random

import pytest

from drift_data.simulate import users
from drift_data.simulate.world import DIMENSIONS, draw_random_task, parse_request, spoil, word_request

NEGATIVE = re.compile(r"\b(no|not|wrong|forgot|off|why|bad|mistake|sorry|forget)\b|\?")


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_complaint_is_about_the_dimension_it_names(dimension: str) -> None:
    rng = Random(0)
    said = set()
    for _ in range(300):
        task = draw_random_task(rng)
        held = spoil(task, [dimension], rng)
        text = users.word_complaint(task, held, dimension, rng)
        assert "{" not in text
        assert parse_request(text) is None
        said.add(text)
        bare = {
            text.format(want="W", got="G") for text in users.choose_complaint_phrases(task, held, dimension)
        }
        others = [d for d in DIMENSIONS if d != dimension]
        assert all(bare.isdisjoint(users.choose_complaint_phrases(task, held, other)) for other in others)
    assert len(said) > 80


def test_a_complaint_about_stars_says_whether_they_are_missing_or_unwanted() -> None:
    rng = Random(1)
    task = draw_random_task(rng)
    missing = users.choose_complaint_phrases(task.__class__(**{**vars(task), "stars": True}), task, "stars")
    unwanted = users.choose_complaint_phrases(task.__class__(**{**vars(task), "stars": False}), task, "stars")
    assert missing == users.COMPLAINTS["stars missing"]
    assert unwanted == users.COMPLAINTS["stars unwanted"]


def test_there_are_dozens_of_phrasings_of_each_kind() -> None:
    complaints = [phrase for phrases in users.COMPLAINTS.values() for phrase in phrases]
    assert len(complaints) >= 60
    assert len(users.THANKS) >= 24
    assert len({*users.NEXT_LEADS, *users.HARD_NEXT_LEADS, *users.SMALL_TALK, *users.HARD_SMALL_TALK}) >= 36


def test_negative_words_alone_do_not_tell_a_complaint() -> None:
    complaints = [phrase for phrases in users.COMPLAINTS.values() for phrase in phrases]
    without = [phrase for phrase in complaints if not NEGATIVE.search(phrase)]
    assert len(without) >= len(complaints) // 4
    assert sum(bool(NEGATIVE.search(phrase)) for phrase in users.THANKS) >= 4
    assert (
        sum(bool(NEGATIVE.search(phrase)) for phrase in (*users.HARD_NEXT_LEADS, *users.HARD_SMALL_TALK))
        >= 10
    )


def test_a_change_of_task_keeps_the_new_request_readable() -> None:
    rng = Random(2)
    for hard in (True, False):
        for _ in range(100):
            before, task = draw_random_task(rng), draw_random_task(rng)
            text = users.word_next_request(word_request(task, rng), before, hard, rng)
            assert parse_request(text) == task
