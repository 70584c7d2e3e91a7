"""Which threshold of `dsat_score` gives which precision and recall, and which one to take. Knows no model.

Precision comes first, as in calibration and with its options: a false DSAT trains the model away from a good reply.
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
from drift_data.judge.label_rule import Thresholds
from drift_data.schema import DSAT

TARGETS: Final = (0.6, 0.7, 0.8, 0.9)  # precision
_LEAST: Final = 10  # turns that must be called DSAT before a precision is more than luck
_POINTS: Final = 200  # of the curve that are kept


class Operating(BaseModel):
    """The threshold that reaches a precision with the most recall; None where none does."""

    target: float
    threshold: float | None
    given: int
    precision: Estimate | None
    recall: Estimate | None


def precision_recall(rows: pl.DataFrame, sat: float) -> pl.DataFrame:
    """Return for every distinct score, from high to low: `threshold`, `given`, `right`, `precision`, `recall`.

    Args:
        rows: `sat_score`, `dsat_score`, `change`, `gold_label`.
        sat: threshold of `sat_score`. A turn with both sides strong is DSAT only where it asks for a change.
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


def operating(
    rows: pl.DataFrame, present: Thresholds, options: ThresholdOptions, seed: int
) -> ThresholdChoice:
    """Return the threshold of DSAT with the highest F-score, and the curve; the one of SAT stays.

    It moves only where that is better beyond chance, and keeps to `min_precision` where one is asked for.

    Args:
        rows: as for `precision_recall`, with `conversation_id`.
        present: the thresholds of the recipe.
        options: what counts as better.
        seed: of the resamples.
    """
    curve = precision_recall(rows, present.sat)
    true, notes, chosen = int((rows["gold_label"] == DSAT).sum()), [], present
    allowed = curve.filter(pl.col("given") >= _LEAST)
    if options.min_precision is not None:
        allowed = allowed.filter(pl.col("precision") >= options.min_precision)
    if allowed.height:
        scores = compute_f_score(allowed["right"].to_numpy(), allowed["given"].to_numpy(), true, options.beta)
        best = float(allowed["threshold"][int(np.argmax(scores))])
        chosen = present.model_copy(update={"dsat": best})
    elif options.min_precision is not None:
        notes.append(
            f"DSAT: no threshold reaches a precision of {options.min_precision:g}; it stays {present.dsat:g}."
        )
    points = [
        ThresholdPoint(**row, f1=2 * row["right"] / (row["given"] + true))
        for row in curve[:: -(-curve.height // _POINTS) or 1].iter_rows(named=True)
    ]
    choice = ThresholdChoice(present=present, chosen=chosen, notes=notes, curves={DSAT: points})
    return revert_insignificant_moves(rows, choice, options, seed)


def targets(rows: pl.DataFrame, present: Thresholds, seed: int) -> list[Operating]:
    """Return what it takes to reach each precision of `TARGETS`, with intervals; chosen and measured on the same turns."""
    curve = precision_recall(rows, present.sat).filter(pl.col("given") >= _LEAST)
    found = []
    for target in TARGETS:
        reached = curve.filter(pl.col("precision") >= target)
        if not reached.height:
            found.append(Operating(target=target, threshold=None, given=0, precision=None, recall=None))
            continue
        threshold = float(reached["threshold"][-1])
        labels = rows.select(decide_labels(present.model_copy(update={"dsat": threshold}))).to_series()
        figures = compare_labels("", rows, labels, seed).figures
        found.append(
            Operating(
                target=target,
                threshold=threshold,
                given=int(reached["given"][-1]),
                precision=figures["precision_DSAT"],
                recall=figures["recall_DSAT"],
            )
        )
    return found
