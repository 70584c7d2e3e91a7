import random

import numpy as np
import polars as pl
import pytest
import yaml

from drift_data.calibrate.metrics import count_confusion
from drift_data.calibrate.options import ThresholdOptions
from drift_data.calibrate.thresholds import (
    CHOOSING_PART,
    REPORTING_PART,
    _count_grid,
    assign_gold_parts,
    choose_thresholds,
    decide_labels,
    has_change_item,
    read_thresholds,
    render_thresholds,
)
from drift_data.judge.label_rule import decide_label
from drift_data.judge.options import Thresholds
from drift_data.schema import ITEM, LABELS
from drift_data.workspace import UserError
from tests.helpers.quality_sample import PRESENT, RUBRIC, turn

FEW = ThresholdOptions(min_label=1)


def frame(rows):
    """(gold label, sat score, dsat score[, an item asks for change]) a row."""
    table = [(*row, False)[:4] for row in rows]
    return pl.DataFrame(table, schema=["gold_label", "sat_score", "dsat_score", "change"], orient="row")


def random_rows(count, values, seed=0):
    pick = random.Random(seed)
    return frame(
        (pick.choice(LABELS), pick.choice(values), pick.choice(values), pick.random() < 0.5)
        for _ in range(count)
    )


def test_the_rule_as_a_column_is_the_rule_row_by_row():
    rows = random_rows(500, [0, 1, 4.5, 5, 7])
    for thresholds in (PRESENT, Thresholds(sat=1, dsat=7), Thresholds(sat=4.5, dsat=0.5)):
        expected = [
            decide_label(sat, dsat, ["Revision"] if change else ["Negative_Feedback"], thresholds)
            for _, sat, dsat, change in rows.iter_rows()
        ]
        assert rows.select(decide_labels(thresholds)).to_series().to_list() == expected


def test_the_grid_counts_at_every_pair_what_the_rule_gives():
    rows = random_rows(300, [0, 1, 2, 3, 5, 8])
    grid = _count_grid(rows, PRESENT)
    assert grid.sat.tolist() == grid.dsat.tolist() == [1, 2, 3, 5, 8]
    for i, sat in enumerate(grid.sat):
        for j, dsat in enumerate(grid.dsat):
            given = rows.select(decide_labels(Thresholds(sat=sat, dsat=dsat))).to_series()
            assert np.array_equal(grid.confusion[i, j], count_confusion(rows["gold_label"], given)), (
                sat,
                dsat,
            )


def test_the_dsat_threshold_has_the_highest_f_score_and_by_default_precision_counts_more():
    # at 2: 4 of 5 right; at 4: 3 of 3, one missed (F1 6/7 against 8/9); at 6: 1 of 1
    rows = frame(
        [("DSAT", 0, 6), ("DSAT", 0, 4), ("DSAT", 0, 4), ("NEUTRAL", 0, 2), ("DSAT", 0, 2), ("NEUTRAL", 0, 0)]
    )
    assert choose_thresholds(rows, PRESENT, FEW).chosen.dsat == 4
    choice = choose_thresholds(rows, PRESENT, ThresholdOptions(min_label=1, beta=1))
    assert choice.chosen.dsat == 2
    assert [(p.threshold, p.given, p.right) for p in choice.curves["DSAT"]] == [
        (2, 5, 4),
        (4, 3, 3),
        (5, 1, 1),
        (6, 1, 1),
    ]
    assert (
        choice.curves["DSAT"][0].precision == pytest.approx(0.8) and choice.curves["DSAT"][1].recall == 0.75
    )


def test_a_floor_for_precision_and_a_small_beta_both_prefer_precision():
    rows = frame(
        [("DSAT", 0, 6), ("DSAT", 0, 4), ("DSAT", 0, 4), ("NEUTRAL", 0, 2), ("DSAT", 0, 2), ("NEUTRAL", 0, 0)]
    )
    assert choose_thresholds(rows, PRESENT, ThresholdOptions(min_label=1, min_precision=0.9)).chosen.dsat == 4
    assert choose_thresholds(rows, PRESENT, ThresholdOptions(min_label=1, beta=0.5)).chosen.dsat == 4


def test_a_floor_that_cannot_be_reached_leaves_the_threshold_and_says_so():
    rows = frame([("DSAT", 0, 3), ("NEUTRAL", 0, 3), ("SAT", 2, 0)])
    choice = choose_thresholds(rows, PRESENT, ThresholdOptions(min_label=1, min_precision=0.9))
    assert choice.chosen.dsat == 5 and choice.chosen.sat == 2
    assert choice.notes == [
        "DSAT: no threshold reaches a precision of 0.9 on the choosing part (the best has 0.500); the threshold "
        "stays 5."
    ]


def test_a_label_that_few_turns_have_keeps_its_threshold():
    rows = frame([("DSAT", 0, 3)] * 10 + [("SAT", 3, 0)] * 9)
    choice = choose_thresholds(rows, PRESENT, ThresholdOptions())
    assert (choice.chosen.sat, choice.chosen.dsat) == (5, 3)
    assert choice.notes == [
        "SAT: 9 turns of the choosing part have this label, fewer than calibrate.min_label=10; its threshold stays 5."
    ]
    assert (
        choose_thresholds(frame([*rows.iter_rows(), ("SAT", 3, 0)]), PRESENT, ThresholdOptions()).chosen.sat
        == 3
    )


def test_of_thresholds_that_give_the_same_labels_the_present_one_stays():
    rows = frame([("DSAT", 0, 8), ("NEUTRAL", 0, 2)])
    assert choose_thresholds(rows, PRESENT, FEW).chosen.dsat == 5
    assert choose_thresholds(rows, Thresholds(sat=5, dsat=1), FEW).chosen.dsat == 8


def test_praise_with_a_request_to_change_counts_as_dsat_when_thresholds_are_chosen():
    both = frame([("DSAT", 9, 3, True), ("NEUTRAL", 9, 3, False), ("NEUTRAL", 0, 2)])
    choice = choose_thresholds(both, PRESENT, FEW)
    point = next(p for p in choice.curves["DSAT"] if p.threshold == choice.chosen.dsat)
    assert (choice.chosen.dsat, point.given, point.right) == (3, 1, 1)


def test_no_row_leaves_everything_as_it_is():
    choice = choose_thresholds(
        frame([]).cast(
            {"sat_score": pl.Float32, "dsat_score": pl.Float32, "change": pl.Boolean, "gold_label": pl.String}
        ),
        PRESENT,
        FEW,
    )
    assert choice.chosen == PRESENT and len(choice.notes) == 2


def test_many_distinct_scores_are_thinned_and_a_million_rows_are_quick():
    generator = np.random.default_rng(0)
    count = 1_000_000
    score = generator.random(count) * 50
    rows = pl.DataFrame(
        {
            "gold_label": pl.Series(["NEUTRAL", "DSAT"]).gather((score > 25).astype(int)),
            "sat_score": np.zeros(count),
            "dsat_score": score,
            "change": np.zeros(count, np.bool_),
        }
    )
    choice = choose_thresholds(rows, PRESENT, FEW)
    assert len(choice.curves["DSAT"]) <= 201
    assert choice.chosen.dsat == pytest.approx(25, abs=0.3)


def test_parts_are_made_by_conversation_and_never_change():
    names = pl.Series([f"c{n}" for n in range(1_000)] + ["c0", "c1"])
    parts = assign_gold_parts(names)
    assert parts[0] == parts[1_000] and parts[1] == parts[1_001]
    assert 450 < (parts == CHOOSING_PART).sum() < 550 and set(parts) == {CHOOSING_PART, REPORTING_PART}
    # `printf c0 | sha256sum` ends in b3, which is odd, that of c4 in aa
    assert assign_gold_parts(pl.Series(["c0", "c4"])).to_list() == [REPORTING_PART, CHOOSING_PART]


def test_change_is_read_from_the_items_of_the_rubric():
    rows = [turn("a", 2, 0, 0, "Style", "Praise"), turn("a", 4, 0, 0, "Praise"), turn("a", 6)]
    items = pl.DataFrame(
        {
            "items": pl.Series(
                [row["items"] for row in rows],
                dtype=pl.List(
                    pl.Struct({f.name: pl.Int8 if f.name == "strength" else pl.String for f in ITEM})
                ),
            )
        }
    )
    assert items.select(has_change_item(RUBRIC.change_items)).to_series().to_list() == [True, False, False]


def test_the_fragment_is_a_piece_of_a_recipe_and_reads_back(tmp_path):
    choice = choose_thresholds(frame([("DSAT", 0, 3.25)] * 10), PRESENT, ThresholdOptions())
    text = render_thresholds(choice, "why\nso")
    assert yaml.safe_load(text) == {"label": {"thresholds": {"sat": 5.0, "dsat": 3.25}}}
    assert text.startswith("# why\\nso\n# SAT: 0 turns")
    path = tmp_path / "thresholds.yaml"
    path.write_text(text)
    assert read_thresholds(path) == Thresholds(sat=5, dsat=3.25)


@pytest.mark.parametrize("text", ["", "label: 3", "label: {thresholds: {sat: -1}}", "a: [", "label: {}"])
def test_a_file_without_thresholds_is_said(tmp_path, text):
    path = tmp_path / "thresholds.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="holds no thresholds"):
        read_thresholds(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_thresholds(tmp_path / "nowhere.yaml")
