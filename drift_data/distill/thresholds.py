"""Chooses the threshold of `dsat_score`, and finds the precision and recall of every other threshold.

The options are those of `make calibrate`. They put precision first, because a false DSAT trains the model away from a
good reply.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from pydantic import BaseModel

from drift_data.calibrate.bootstrap import Estimate
from drift_data.calibrate.metrics import compute_f_score
from drift_data.calibrate.options import ThresholdOptions
from drift_data.calibrate.significance import revert_insignificant_moves
from drift_data.calibrate.summary import compare_labels
from drift_data.calibrate.thresholds import ThresholdChoice, ThresholdPoint, decide_labels
from drift_data.judge.options import Thresholds
from drift_data.schema import DSAT

TARGET_PRECISIONS: Final = (0.6, 0.7, 0.8, 0.9)  # precisions for which the report names a threshold
_MIN_DSAT_TURNS: Final = (
    10  # least number of turns that a threshold must call DSAT; below, its precision is luck
)
MAX_CURVE_POINTS: Final = 200  # most points that the report keeps of a curve


class OperatingPoint(BaseModel):
    """The threshold that reaches a precision with the most recall; None where no threshold does."""

    target: float  # precision to reach
    threshold: float | None
    given: int  # turns that the threshold calls DSAT
    precision: Estimate | None
    recall: Estimate | None


def compute_precision_recall(rows: pl.DataFrame, sat: float) -> pl.DataFrame:
    """Return a table of every DSAT threshold that the scores can tell apart.

    Args:
        rows: `sat_score`, `dsat_score`, `change`, `gold_label`.
        sat: threshold of `sat_score`. A turn that reaches both thresholds is DSAT only if it asks for a change.

    Returns:
        `threshold` (from high to low), `given` (turns called DSAT), `right`, `precision`, `recall`.
    """
    true = int((rows["gold_label"] == DSAT).sum())
    counted = (
        rows.filter((pl.col("sat_score") < sat) | pl.col("change"), pl.col("dsat_score") > 0)
        .group_by(threshold=pl.col("dsat_score").cast(pl.Float64))
        .agg(given=pl.len().cast(pl.Int64), right=(pl.col("gold_label") == DSAT).sum().cast(pl.Int64))
        .sort("threshold", descending=True)
        .with_columns(pl.col("given", "right").cum_sum())
    )
    return counted.with_columns(
        precision=pl.col("right") / pl.col("given"), recall=pl.col("right") / max(1, true)
    )


def choose_dsat_threshold(
    rows: pl.DataFrame, present: Thresholds, options: ThresholdOptions, seed: int
) -> ThresholdChoice:
    """Return the DSAT threshold with the highest F-score, and its curve; the SAT threshold stays.

    The DSAT threshold moves only if the new one is better beyond chance. If `min_precision` is set, it moves only to a
    threshold that reaches that precision.

    Args:
        rows: as for `compute_precision_recall`, with `conversation_id`.
        present: thresholds of the recipe.
        options: what to maximise, and under which conditions.
        seed: seed of the resamples.
    """
    curve = compute_precision_recall(rows, present.sat)
    true, notes, chosen = int((rows["gold_label"] == DSAT).sum()), [], present
    allowed = curve.filter(pl.col("given") >= _MIN_DSAT_TURNS)
    if options.min_precision is not None:
        allowed = allowed.filter(pl.col("precision") >= options.min_precision)
    if allowed.height:
        scores = compute_f_score(allowed["right"].to_numpy(), allowed["given"].to_numpy(), true, options.beta)
        best = float(allowed["threshold"][int(np.argmax(scores))])
        chosen = present.model_copy(update={"dsat": best})
    elif options.min_precision is not None:
        notes.append(
            f"DSAT: no threshold reaches a precision of {options.min_precision:g}; the threshold "
            f"stays {present.dsat:g}."
        )
    points = [
        ThresholdPoint(**row, f1=2 * row["right"] / (row["given"] + true))
        for row in curve[:: -(-curve.height // MAX_CURVE_POINTS) or 1].iter_rows(named=True)
    ]
    choice = ThresholdChoice(present=present, chosen=chosen, notes=notes, curves={DSAT: points})
    return revert_insignificant_moves(rows, choice, options, seed)


def find_operating_points(rows: pl.DataFrame, present: Thresholds, seed: int) -> list[OperatingPoint]:
    """Return, for each precision of `TARGET_PRECISIONS`, the threshold that reaches it, with intervals.

    The thresholds are found and measured on the same turns, so the figures are a little too good.

    Args:
        rows: as for `compute_precision_recall`, with `conversation_id`.
        present: thresholds of the recipe; the SAT threshold is in force.
        seed: seed of the resamples.
    """
    curve = compute_precision_recall(rows, present.sat).filter(pl.col("given") >= _MIN_DSAT_TURNS)
    found = []
    for target in TARGET_PRECISIONS:
        reached = curve.filter(pl.col("precision") >= target)
        if not reached.height:
            found.append(OperatingPoint(target=target, threshold=None, given=0, precision=None, recall=None))
            continue
        threshold = float(reached["threshold"][-1])
        labels = rows.select(decide_labels(present.model_copy(update={"dsat": threshold}))).to_series()
        figures = compare_labels("", rows, labels, seed).figures
        found.append(
            OperatingPoint(
                target=target,
                threshold=threshold,
                given=int(reached["given"][-1]),
                precision=figures["precision_DSAT"],
                recall=figures["recall_DSAT"],
            )
        )
    return found
