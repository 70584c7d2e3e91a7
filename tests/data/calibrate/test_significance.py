"""A threshold stays where it is unless moving it is better beyond chance."""

import polars as pl
import pytest

from drift_data.calibrate.options import ThresholdOptions
from drift_data.calibrate.significance import revert_insignificant_moves
from drift_data.calibrate.thresholds import choose_thresholds
from drift_data.judge.options import Thresholds

PRESENT = Thresholds(sat=5, dsat=5)
OPTIONS = ThresholdOptions(min_label=1, beta=1)
HALF = [("DSAT", 4), ("DSAT", 6), ("NEUTRAL", 0)]  # a threshold of 4 finds twice as many as one of 5


def rows(*conversations):
    return pl.DataFrame(
        [
            {
                "conversation_id": f"c{at}",
                "gold_label": gold,
                "sat_score": 0.0,
                "dsat_score": float(score),
                "change": False,
            }
            for at, turns in enumerate(conversations)
            for gold, score in turns
        ]
    )


def moved(frame, options=OPTIONS):
    return revert_insignificant_moves(frame, choose_thresholds(frame, PRESENT, options), options, seed=0)


def test_a_move_that_many_conversations_bear_out_is_made():
    assert moved(rows(*[HALF] * 20)).chosen.dsat == 4


def test_a_move_that_hangs_on_one_conversation_is_not_made_and_the_report_says_so():
    frame = rows([("DSAT", 4)] * 5, *[[("DSAT", 6), ("NEUTRAL", 4)]] * 4, *[[("DSAT", 6)]] * 6)
    assert choose_thresholds(frame, PRESENT, OPTIONS).chosen.dsat == 4
    choice = moved(frame)
    assert choice.chosen == PRESENT
    assert "not beyond chance" in choice.notes[-1] and "stays 5" in choice.notes[-1]


@pytest.mark.parametrize(("floor", "expected"), [(0.9, 6), (None, 5)])
def test_a_threshold_that_misses_the_floor_for_precision_moves_in_any_case(floor, expected):
    options = ThresholdOptions(min_label=1, beta=1, min_precision=floor)
    frame = rows([("DSAT", 6), ("NEUTRAL", 5)], [("DSAT", 6)], [("NEUTRAL", 0)])
    assert moved(frame, options).chosen.dsat == expected
