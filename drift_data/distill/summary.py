"""Defines the report of a distillation, the format of `distill.json`, and computes its calibration and item naming."""

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

    name: str  # name of the item
    examples: int  # turns with the item that the classifier learned from, our written turns included
    turns: int  # turns to which the teacher gives the item
    right: int  # those of `turns` to which the models give it, too
    named: int  # turns to which the models give the item


class LearningCurvePoint(BaseModel):
    """How good a classifier is that learned from a share of the teacher's conversations only."""

    share: float  # share of the conversations
    view: Comparison | None  # out of fold, on the turns of the share; None: too few turns
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
    written: int  # our own written turns learned from beside the teacher's
    notes: list[str]  # caveats for readers of the figures
    # Out of fold: the student at the recipe's thresholds, then at the chosen ones if they differ, then the baselines.
    views: list[Comparison]
    gain: dict[str, Estimate]  # metric → the student's less the shipped classifier's, on the same resamples
    hold_out: int | None  # one conversation in this many was held out
    held_out: list[Comparison]  # the same sets of labels as in `views`, on conversations never learned from
    choice: ThresholdChoice
    targets: list[OperatingPoint]  # a threshold for each precision of `thresholds.TARGET_PRECISIONS`
    calibration: list[CalibrationBin]
    items: list[ItemNaming]
    learning: list[LearningCurvePoint]
    ceiling: Ceiling | None  # the best that can be learned from this teacher
    # Title → (recall, precision) of DSAT at each threshold, on the held-out turns or, without any, out of fold.
    curves: dict[str, list[tuple[float, float]]]
    money: TeacherCost | None  # None: the teacher's labels took no request
    cascade: list[CascadeBand]  # the student alone, then bands of growing width
    band: CascadeBand | None  # the recommended band; None: no band is good enough


def compute_calibration(rows: pl.DataFrame) -> list[CalibrationBin]:
    """Return the predicted and the observed share of DSAT, for each tenth of the scale that has turns.

    `sklearn.calibration.calibration_curve` gives neither the number of turns of a tenth nor its lower end, and puts a
    probability on the border of two tenths into the lower one.

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
    """Return how often the classifier names each item rightly, for the items that it can name; frequent items first.

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
