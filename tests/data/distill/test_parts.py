"""The parts of a distillation that train nothing: who is held out, bands, money, thresholds, what is too few."""

import hashlib

import polars as pl
import pytest

from drift_data.chats.order import LEARNING_CURVE, SAMPLE, rank, take_first
from drift_data.distill.cascade import RECOMMENDED_QUALITY, measure_bands, recommend_band
from drift_data.distill.comparisons import label_by_baselines
from drift_data.distill.cost import read_teacher_cost
from drift_data.distill.examples import is_held_out, load_written_turns
from drift_data.distill.student import check_enough, is_in_first_part
from drift_data.distill.teacher import cap_turns
from drift_data.distill.thresholds import compute_precision_recall
from drift_data.judge.local.model import load_classifier
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import load_rubric
from drift_data.workspace import Manifest, UserError

# One turn a conversation: score, the student's label, the teacher's, and what is so.
TURNS = [
    (1.0, "NEUTRAL", "NEUTRAL", "NEUTRAL"),
    (4.0, "NEUTRAL", "DSAT", "DSAT"),
    (6.0, "DSAT", "NEUTRAL", "DSAT"),
    (9.0, "DSAT", "DSAT", None),
]


def rows() -> pl.DataFrame:
    columns = ["dsat_score", "predicted", "gold_label", "truth"]
    return pl.DataFrame(TURNS, schema=columns, orient="row").with_columns(
        conversation_id=pl.Series([f"c{n}" for n in range(4)]), sat_score=0.0, change=False
    )


def manifest(**more) -> Manifest:
    requests = {"sent": 30, "from_store": 10, "retried": 0, "over_budget": 0}
    made_by = {"requests": requests, "price": {"now": 1.5, "before": 0.5, "budget": None}}
    fields = {
        "stage": "label",
        "options": {},
        "made_by": made_by,
        "rows_in": 100,
        "rows_out": 100,
        "dropped": {},
    }
    return Manifest.model_construct(**(fields | more))


def test_held_out_are_the_conversations_whose_sha256_is_divisible() -> None:
    names = [f"c{n}" for n in range(200)]
    held = [name for name in names if is_held_out(name, 5)]
    assert held == [name for name in names if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 5 == 0]
    assert 20 < len(held) < 60 and not any(is_held_out(name, None) for name in names)


def test_a_wider_band_takes_the_teachers_label_where_the_student_is_nearest_to_the_threshold() -> None:
    bands = measure_bands(rows(), 5.0, 40.0, 0)
    alone, middle, everything = bands[0], next(b for b in bands if b.turns == 2), bands[-1]
    # Alone: of two DSAT given one is right, of two true one is found; agreement 2 of 4, by chance 2 of 4.
    figures = {name: value.value for name, value in alone.teacher.figures.items()}
    assert (alone.low, alone.turns, alone.requests, alone.price) == (None, 0, 0, 0)
    assert [figures[f] for f in ("precision_DSAT", "recall_DSAT", "kappa_dsat")] == [0.5, 0.5, 0]
    # 4.0 and 6.0 are as near as each other: both are asked, half of the requests and of the price.
    assert middle.low is not None and middle.low <= 4 and middle.high is not None and 6 < middle.high <= 9
    assert (middle.share_turns, middle.share_requests, middle.price) == (0.5, 0.5, 20)
    assert middle.teacher.figures["kappa_dsat"].value == 1
    assert (everything.turns, everything.price) == (4, 40)
    assert recommend_band(bands) == next(b for b in bands if b.turns)
    # Against the truth, known for three: the teacher misses 6.0, which the student alone has right.
    assert middle.gold is not None and alone.gold is not None and middle.gold.turns == 3
    for band in (alone, middle):
        assert band.gold is not None
        assert band.gold.figures["precision_DSAT"].value == 1
        assert band.gold.figures["recall_DSAT"].value == 0.5


def test_two_turns_of_one_conversation_are_one_request() -> None:
    both = rows().with_columns(conversation_id=pl.Series(["a", "b", "b", "c"]))
    band = next(b for b in measure_bands(both, 5.0, None, 0) if b.turns == 2)
    assert (band.requests, band.share_requests, band.price) == (1, pytest.approx(1 / 3), None)


def test_money_of_a_sample_is_scaled_to_all_conversations() -> None:
    found = read_teacher_cost(manifest(options={"sample": 200}), 1000)
    assert found is not None
    assert (found.conversations, found.all_conversations) == (200, 1000)
    assert (found.requests, found.all_requests, found.saved_requests) == (40, 200, 160)
    assert (found.price, found.all_price, found.saved_price) == (2.0, pytest.approx(10), pytest.approx(8))


@pytest.mark.parametrize("reason", ["over_budget", "no_answer"])
def test_what_was_never_answered_took_no_money(reason: str) -> None:
    found = read_teacher_cost(manifest(dropped={reason: 50, "invalid_answer": 3}), 1000)
    assert found is not None and (found.conversations, found.all_requests) == (500, 80)


def test_labels_without_requests_or_a_price_have_no_cost_or_no_price() -> None:
    assert (
        read_teacher_cost(None, 10) is None
        and read_teacher_cost(manifest(made_by={"model": "simulated"}), 10) is None
    )
    free = {"requests": {"sent": 5, "from_store": 0}, "price": {"now": 0, "before": 0, "budget": None}}
    found = read_teacher_cost(manifest(made_by=free), 10)
    assert found is not None and (found.price, found.saved_price) == (None, None)


def test_precision_and_recall_at_every_score() -> None:
    found = compute_precision_recall(rows(), 5)
    assert found["threshold"].to_list() == [9, 6, 4, 1]
    assert found["precision"].to_list() == [1, 1 / 2, 2 / 3, 1 / 2]
    assert found["recall"].to_list() == [1 / 2, 1 / 2, 1, 1]


def test_baselines_are_the_shipped_classifier_phrases_and_one_label() -> None:
    table = pl.DataFrame(
        {
            "sat_score": [0.0, 6.0, 0.0],
            "keyword": [5.0, 0.0, 4.0],
            "shipped": [0.1, 0.2, 0.9],
            "shipped_item": [None, None, "Revision"],
        }
    )
    found = label_by_baselines(table, Thresholds(sat=5, dsat=5), ["Revision"], "SAT")
    assert [labels.to_list() for labels in found.values()] == [
        ["NEUTRAL", "SAT", "DSAT"],
        ["DSAT", "SAT", "NEUTRAL"],
        ["SAT", "SAT", "SAT"],
    ]


def test_a_cap_keeps_whole_conversations() -> None:
    table = pl.DataFrame({"conversation_id": [f"c{n // 3}" for n in range(30)], "turn": list(range(30))})
    kept = cap_turns(table, 10)
    assert kept.height == 9 and kept.group_by("conversation_id").len()["len"].to_list() == [3, 3, 3]


def test_too_few_labels_say_how_many_there_are() -> None:
    table = pl.DataFrame(
        {
            "conversation_id": [f"c{n}" for n in range(60)],
            "gold_label": ["DSAT"] * 19 + ["NEUTRAL"] * 41,
        }
    )
    with pytest.raises(UserError, match="19 DSAT turns in 19 conversations and 41 other turns"):
        check_enough(table)
    check_enough(table.with_columns(gold_label=pl.Series(["DSAT"] * 20 + ["SAT"] * 40)))


def test_a_quarter_of_a_sample_is_a_quarter_of_its_conversations() -> None:
    sampled = take_first((f"c{n}" for n in range(400)), SAMPLE, 40)
    names = sorted(sampled, key=lambda name: rank(name, LEARNING_CURVE))
    sample = pl.Series([name for name in names for _ in range(3)])
    quarter, half = is_in_first_part(sample, 0.25), is_in_first_part(sample, 0.5)
    assert sample.filter(quarter).to_list() == [name for name in names[:10] for _ in range(3)]
    assert half.sum() == 60 and (half | ~quarter).all()


def test_a_band_is_recommended_by_the_lower_ends_of_its_intervals() -> None:
    """19 of 20 complaints found alone is 0.95, but no more than luck; asking about the missed one makes it sure."""
    turns = [(2.0, "NEUTRAL", "DSAT"), *[(9.0, "DSAT", "DSAT")] * 19, *[(1.0, "NEUTRAL", "NEUTRAL")] * 20]
    table = pl.DataFrame(turns, schema=["dsat_score", "predicted", "gold_label"], orient="row").with_columns(
        conversation_id=pl.Series([f"c{n}" for n in range(40)]), sat_score=0.0, change=False
    )
    found = measure_bands(table, 5.0, None, 0)
    alone = found[0].teacher.figures["recall_DSAT"]
    assert alone.value == 0.95 and alone.low is not None and alone.low < RECOMMENDED_QUALITY
    band = recommend_band(found)
    assert band is not None and band.turns > 0 and band.teacher.figures["recall_DSAT"].value == 1
    many = pl.concat(
        [table.with_columns(conversation_id=pl.col("conversation_id") + f"/{n}") for n in range(50)]
    )
    sure = recommend_band(measure_bands(many, 5.0, None, 0))
    assert sure is not None and sure.turns == 0


def test_the_digest_of_the_written_conversations_is_that_of_the_texts_alone() -> None:
    """It stands in the options of finished classifiers, so nothing but another text or label may change it."""
    shipped = load_classifier()
    assert (
        load_written_turns(load_rubric(None), with_items=True).digest
        == shipped.card.data["written"]["digest"]
    )
