"""Agreement of a reviewer with a judge: κ computed by hand, on the random sample and on all that was reviewed."""

import pytest

from drift_data.review.selection import parse_filter
from tests.helpers.review_sample import HASHED, LABELS, answer, session, to_review

RANDOM, PICKED = parse_filter(""), parse_filter("order=uncertain")


@pytest.fixture
def ann(tmp_path):
    ann = session(to_review(tmp_path), against="labels/other")
    yield ann
    ann.close()


def decide(ann, key, label, chosen=RANDOM):
    ann.decide(answer(ann, key, label, chosen), chosen)


def test_nothing_reviewed_is_no_agreement(ann):
    measured = ann.measure()
    assert (measured.random, measured.every, measured.passed_over, measured.blind) == (None, None, 0, 0)


def test_kappa_is_that_of_the_confusion_table(ann):
    """The judge says D, N, D, S; the person D, D, D, S."""
    said = {("a", 2): "DSAT", ("a", 4): "DSAT", ("b", 2): "DSAT", ("c", 2): "SAT"}
    for key, label in said.items():
        decide(ann, key, label, PICKED)
    every = ann.measure().every
    assert ann.measure().random is None
    assert (every.turns, every.conversations) == (4, 3)
    assert every.confusion["DSAT"] == {"SAT": 0, "DSAT": 2, "NEUTRAL": 1}  # rows are the person's
    # agreement 3/4; by chance 3/4 · 2/4 + 1/4 · 1/4 = 7/16: (12 - 7) / (16 - 7)
    assert every.figures["kappa"].value == pytest.approx(5 / 9)
    # DSAT or not: agreement 3/4; by chance 3/4 · 2/4 + 1/4 · 2/4 = 1/2
    assert every.figures["kappa_dsat"].value == pytest.approx(1 / 2)
    # the second judge says D, S, D, S: agreement 3/4; by chance 3/4 · 2/4 + 1/4 · 2/4 = 1/2
    assert ann.measure().other_every.figures["kappa"].value == pytest.approx(1 / 2)


def test_the_random_sample_is_the_beginning_of_the_hash_order_however_its_turns_came_up(ann):
    for key in HASHED[:2]:
        decide(ann, key, LABELS[key])
    decide(ann, HASHED[4], LABELS[HASHED[4]], PICKED)
    decide(ann, HASHED[2], "SAT", PICKED)
    measured = ann.measure()
    assert (measured.random.turns, measured.every.turns, measured.passed_over) == (2, 4, 0)
    decide(ann, HASHED[3], LABELS[HASHED[3]])
    assert (ann.measure().random.turns, ann.measure().passed_over) == (4, 0)  # the picked one is inside now


def test_turns_that_were_passed_over_are_counted(ann):
    decide(ann, HASHED[0], "SAT")
    decide(ann, HASHED[3], "SAT")
    assert (ann.measure().random.turns, ann.measure().passed_over) == (2, 2)


def test_taking_a_decision_back_takes_it_out_of_the_agreement(ann):
    decide(ann, HASHED[0], LABELS[HASHED[0]])
    decide(ann, HASHED[1], LABELS[HASHED[1]])
    assert ann.measure().every.turns == 2
    ann.undo(ann.journal.find_last("ann").id)
    assert ann.measure().every.turns == ann.measure().random.turns == 1


def test_a_label_given_blind_counts_as_it_was_given(tmp_path):
    ann = session(to_review(tmp_path), blind=True)
    key = HASHED[0]
    wrong = next(label for label in ("SAT", "NEUTRAL", "DSAT") if label != LABELS[key])
    decide(ann, key, wrong)
    decide(ann, key, LABELS[key])  # now the judge's label is in sight
    every = ann.measure().every
    assert every.confusion[wrong][LABELS[key]] == 1 and every.turns == 1
    assert ann.measure().blind == 1 and ann.codes.max() >= 0
    ann.close()
