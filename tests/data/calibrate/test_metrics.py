import numpy as np
import polars as pl
import pytest

from drift_data.calibrate.bootstrap import count_per_conversation, estimate_interval, resample_counts
from drift_data.calibrate.metrics import (
    compute_cohens_kappa,
    compute_metrics,
    count_confusion,
    find_confusion_cells,
    merge_other_labels,
)
from drift_data.calibrate.summary import compare_labels, measure_gain

# rows true, columns given: SAT, DSAT, NEUTRAL; the table of test_agreement
TABLE = np.array([[1, 0, 1], [0, 3, 1], [0, 1, 3]])


def rows(labels: list[tuple[str, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(labels, schema=["conversation_id", "gold_label", "label"], orient="row")


def test_figures_worked_out_by_hand():
    found = compute_metrics(TABLE)
    assert found["accuracy"] == pytest.approx(0.7)
    # chance: (2·1 + 4·4 + 4·5) / 100 = 0.38
    assert found["kappa"] == pytest.approx(0.32 / 0.62)
    # DSAT against the rest: observed 0.8, chance (4·4 + 6·6) / 100 = 0.52
    assert found["kappa_dsat"] == pytest.approx(0.28 / 0.48)
    assert (found["precision_SAT"], found["recall_SAT"]) == (1, 0.5)
    f1 = (2 / 3, 0.75, 6 / 9)
    assert [found[f"f1_{label}"] for label in ("SAT", "DSAT", "NEUTRAL")] == pytest.approx(f1)
    assert found["macro_f1"] == found["macro_f1_present"] == pytest.approx(sum(f1) / 3)


def test_a_label_that_never_occurs_has_no_figures_and_counts_nothing_in_macro_f1():
    found = compute_metrics(np.array([[0, 0, 0], [0, 2, 0], [0, 0, 2]]))
    assert np.isnan(found["f1_SAT"]) and np.isnan(found["precision_SAT"])
    assert found["macro_f1"] == pytest.approx(2 / 3) and found["macro_f1_present"] == 1


def test_a_label_that_only_the_judge_gives_lowers_macro_f1_of_three_only():
    found = compute_metrics(np.array([[0, 0, 0], [0, 2, 0], [1, 0, 2]]))
    assert found["f1_SAT"] == 0
    assert found["macro_f1_present"] == pytest.approx((1 + 0.8) / 2)
    assert found["macro_f1"] == pytest.approx((1 + 0.8) / 3)


def test_kappa_is_one_for_equal_minus_one_for_opposite_and_undefined_for_a_single_label():
    assert compute_cohens_kappa(np.array([[5, 0], [0, 5]])) == 1
    assert compute_cohens_kappa(np.array([[0, 5], [5, 0]])) == -1
    assert np.isnan(compute_cohens_kappa(np.array([[5, 0], [0, 0]])))
    assert np.isnan(compute_cohens_kappa(np.zeros((2, 2))))


def test_many_tables_give_what_each_gives_alone():
    both = compute_metrics(np.stack([TABLE, TABLE.T]))
    for name, value in both.items():
        assert value.tolist() == pytest.approx(
            [float(compute_metrics(table)[name]) for table in (TABLE, TABLE.T)]
        )
    assert merge_other_labels(TABLE, 1).tolist() == [[3, 1], [1, 5]]


def test_cells_are_counted_by_row_of_the_truth():
    truth, given = pl.Series(["SAT", "DSAT", "DSAT"]), pl.Series(["NEUTRAL", "DSAT", "SAT"])
    assert find_confusion_cells(truth, given).tolist() == [2, 4, 3]
    assert count_confusion(truth, given).tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]


def test_conversations_that_are_all_alike_have_no_interval_since_no_resample_differs():
    turns = [("DSAT", "DSAT"), ("DSAT", "NEUTRAL"), ("NEUTRAL", "NEUTRAL"), ("SAT", "SAT")]
    found = compare_labels(
        "x",
        rows([(f"c{n}", *pair) for n in range(20) for pair in turns]),
        rows([(f"c{n}", *pair) for n in range(20) for pair in turns])["label"],
        0,
    )
    accuracy = found.figures["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high) == (0.75, None, None)
    assert (found.turns, found.conversations) == (80, 20)


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution():
    # 400 conversations of one turn, half of them right: standard error sqrt(0.25 / 400) = 0.025
    frame = rows([(f"c{n}", "DSAT", ("DSAT", "NEUTRAL")[n % 2]) for n in range(400)])
    accuracy = compare_labels("x", frame, frame["label"], 0).figures["accuracy"]
    assert accuracy.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert accuracy.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


def test_the_interval_widens_when_the_same_turns_come_in_few_conversations():
    labels = [("DSAT", "DSAT") if n % 40 < 20 else ("DSAT", "NEUTRAL") for n in range(400)]
    alone = rows([(f"c{n}", *pair) for n, pair in enumerate(labels)])
    together = rows([(f"c{n // 20}", *pair) for n, pair in enumerate(labels)])
    widths = []
    for frame in (alone, together):
        accuracy = compare_labels("x", frame, frame["label"], 0).figures["accuracy"]
        assert accuracy.value == 0.5
        widths.append(accuracy.high - accuracy.low)
    # Equal turns in clusters of 20: the standard error grows by sqrt(20).
    assert widths[1] / widths[0] == pytest.approx(20**0.5, rel=0.15)


def test_the_same_seed_draws_the_same_whatever_the_order_of_the_conversations():
    counts = np.array([[1, 0], [3, 2], [1, 0], [0, 4]])
    one, other = resample_counts(counts, 7), resample_counts(counts[::-1], 7)
    assert np.array_equal(one, other) and not np.array_equal(one, resample_counts(counts, 8))
    assert one.shape == (2_000, 2) and one.mean(0) == pytest.approx(counts.sum(0), rel=0.05)


def test_counts_per_conversation():
    counted = count_per_conversation(["b", "a", "b"], np.array([0, 2, 0]), 3)
    assert counted.tolist() == [[0, 0, 1], [2, 0, 0]]


def test_a_figure_that_many_resamples_leave_undefined_has_no_interval():
    samples = np.array([0.4, 0.6] * 45 + [np.nan] * 10)
    assert estimate_interval(0.5, samples).model_dump() == {"value": 0.5, "low": None, "high": None}
    assert estimate_interval(0.5, samples[:93]).low == 0.4
    assert estimate_interval(np.nan, samples).value is None


def test_a_perfect_share_that_no_resample_changes_has_no_interval():
    assert estimate_interval(1.0, np.ones(100)).model_dump() == {"value": 1.0, "low": None, "high": None}


def test_one_conversation_has_no_interval():
    frame = rows([("c", "DSAT", "DSAT"), ("c", "DSAT", "NEUTRAL")])
    assert compare_labels("x", frame, frame["label"], 0).figures["accuracy"].model_dump() == {
        "value": 0.5,
        "low": None,
        "high": None,
    }


def test_the_gain_is_taken_on_the_same_resamples():
    frame = rows([(f"c{n}", "DSAT", ("DSAT", "NEUTRAL")[n % 2]) for n in range(100)])
    same = measure_gain(frame, frame["label"], frame["label"], 0)["recall_DSAT"]
    assert (same.value, same.low, same.high) == (0, None, None)
    better = measure_gain(frame, frame["gold_label"], frame["label"], 0)["recall_DSAT"]
    assert better.value == 0.5 and better.low == pytest.approx(0.4, abs=0.03)
