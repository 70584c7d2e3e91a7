"""Computes calibration and the naming of items for the report; the models are the format of `distill.json`."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import BaseModel

from drift_data.calibrate.bootstrap import Estimate
from drift_data.calibrate.summary import Comparison
from drift_data.calibrate.thresholds import ThresholdChoice
from drift_data.distill.cascade import CascadeBand
from drift_data.distill.cost import TeacherCost
from drift_data.distill.options import Ceiling
from drift_data.distill.thresholds import OperatingPoint
from drift_data.schema import DSAT

_CALIBRATION_BINS = 10  # parts of equal width into which the scale of probabilities is divided


class CalibrationBin(BaseModel):
    """Turns whose predicted probability of DSAT lies in one tenth of the scale."""

    low: float  # lower end of the tenth
    turns: int
    predicted: float  # mean predicted probability
    observed: float  # share of the turns that the teacher calls DSAT


class ItemNaming(BaseModel):
    """How often models that have not seen a turn name its item as the teacher does, among the teacher's DSAT turns."""

    name: str  # item
    examples: int  # turns with the item that the classifier learned from, our written turns included
    turns: int  # turns to which the teacher gives the item
    right: int  # those of `turns` to which the models give it, too
    named: int  # turns to which the models give the item


class LearningCurvePoint(BaseModel):
    """How good a classifier is that learned from a share of the teacher's conversations only."""

    share: float
    view: Comparison | None  # out of fold on the share's own turns; None: too few turns
    held_out: Comparison | None  # on the conversations never learned from, which are the same for every share


class DistillReport(BaseModel):
    """The whole report of a distillation."""

    name: str  # name of the classifier
    teacher: str  # label table or file that the classifier learned from
    judge: str  # who made the teacher's labels
    gold: str | None  # labels to believe rather than the teacher's
    model: str  # hash of the classifier
    labels: dict[str, int]  # label of the teacher → turns learned from
    turns: int  # turns learned from
    conversations: int  # conversations learned from
    written: int  # our own written turns learned from beside them
    notes: list[str]  # what whoever reads the figures must know
    # Out of fold: the student at the recipe's thresholds, then at the chosen ones if they differ, then the baselines.
    views: list[Comparison]
    gain: dict[str, Estimate]  # metric → the student's less the shipped classifier's, on the same resamples
    hold_out: int | None  # one conversation in this many was held out
    held_out: list[Comparison]  # the same sets of labels as in `views`, on conversations never learned from
    choice: ThresholdChoice
    targets: list[OperatingPoint]
    calibration: list[CalibrationBin]
    items: list[ItemNaming]
    learning: list[LearningCurvePoint]
    ceiling: Ceiling | None  # the best that can be learned from this teacher
    curves: dict[
        str, list[tuple[float, float]]
    ]  # title → (recall, precision) of DSAT; on held-out turns if any
    money: TeacherCost | None
    cascade: list[CascadeBand]
    band: CascadeBand | None  # the recommended band


def compute_calibration(rows: pl.DataFrame) -> list[CalibrationBin]:
    """Return the predicted and the observed share of DSAT, for each tenth of the scale that has turns.

    `sklearn.calibration.calibration_curve` gives neither the number of turns of a tenth nor its lower end, and puts a
    probability between two tenths into the lower one.

    Args:
        rows: `probability`, `gold_label`.
    """
    table = (
        rows.select(
            bin=(pl.col("probability") * _CALIBRATION_BINS).floor().clip(0, _CALIBRATION_BINS - 1)
            / _CALIBRATION_BINS,
            probability="probability",
            dsat=pl.col("gold_label") == DSAT,
        )
        .group_by("bin")
        .agg(pl.len().alias("turns"), pl.col("probability").mean(), pl.col("dsat").mean())
        .sort("bin")
    )
    return [
        CalibrationBin(low=low, turns=turns, predicted=predicted, observed=observed)
        for low, turns, predicted, observed in table.iter_rows()
    ]


def measure_item_naming(rows: pl.DataFrame, learned: dict[str, int]) -> list[ItemNaming]:
    """Return for each item that the classifier can name how often it is right, the most frequent first.

    Args:
        rows: `gold_label`, `item` (the teacher's), `guessed` (the models').
        learned: item → number of turns with the item that the classifier learned from.
    """
    told = rows.filter(pl.col("gold_label") == DSAT, pl.col("item").is_in(list(learned)))
    true, guessed = (told[column].to_numpy() for column in ("item", "guessed"))
    found = [
        ItemNaming(
            name=name,
            examples=examples,
            turns=int(np.sum(true == name)),
            right=int(np.sum((true == name) & (guessed == name))),
            named=int(np.sum(guessed == name)),
        )
        for name, examples in learned.items()
    ]
    return sorted(found, key=lambda item: (-item.turns, -item.examples, item.name))
