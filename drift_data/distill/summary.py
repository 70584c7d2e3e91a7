"""What the report of a distillation says, as it is stored in `distill.json`. Knows no workspace and no HTML."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import BaseModel

from drift_data.calibrate.bootstrap import Estimate
from drift_data.calibrate.summary import Comparison
from drift_data.calibrate.thresholds import ThresholdChoice
from drift_data.distill.cascade import CascadeRow
from drift_data.distill.cost import Money
from drift_data.distill.options import Ceiling
from drift_data.distill.thresholds import Operating
from drift_data.schema import DSAT

_BINS = 10


class Bin(BaseModel):
    """Turns whose probability lies in one tenth of the scale."""

    low: float
    turns: int
    predicted: float  # mean probability
    observed: float  # share that is DSAT according to the teacher


class Named(BaseModel):
    """How often one item was named rightly, among the teacher's DSAT turns."""

    name: str
    examples: int  # it was learned from, our written texts included
    turns: int  # the teacher gives it
    right: int  # of these, named so by models that had not seen them
    named: int  # turns that they name so


class Learning(BaseModel):
    """What a part of the teacher's conversations would have given."""

    share: float
    view: Comparison | None  # out of fold on the part itself; None: too few
    held_out: Comparison | None  # on the conversations never learned from, the same for every part


class Distilled(BaseModel):
    """The whole report."""

    name: str
    teacher: str
    judge: str  # the teacher's
    gold: str | None  # labels to believe beside the teacher's
    model: str  # hash
    labels: dict[str, int]  # the teacher's, of the turns learned from
    turns: int
    conversations: int
    written: int  # of our own turns learned from beside
    notes: list[str]
    views: list[
        Comparison
    ]  # out of fold: the distilled classifier at the recipe's thresholds, then at the chosen
    # one if that differs, then the baselines
    gain: dict[str, Estimate]  # first view less the shipped classifier's
    hold_out: int | None
    held_out: list[Comparison]  # the same sets of labels on conversations never learned from
    choice: ThresholdChoice
    targets: list[Operating]
    calibration: list[Bin]
    items: list[Named]
    learning: list[Learning]
    ceiling: Ceiling | None  # of what can be learned from this teacher
    curves: dict[
        str, list[tuple[float, float]]
    ]  # who → (recall, precision) of DSAT, on held-out turns if there are any
    money: Money | None
    cascade: list[CascadeRow]
    band: CascadeRow | None  # the recommended one


def calibration(rows: pl.DataFrame) -> list[Bin]:
    """Return, for each tenth of the scale that has turns, what was predicted and what was so.

    Args:
        rows: `probability`, `gold_label`.
    """
    table = (
        rows.select(
            bin=(pl.col("probability") * _BINS).floor().clip(0, _BINS - 1) / _BINS,
            probability="probability",
            dsat=pl.col("gold_label") == DSAT,
        )
        .group_by("bin")
        .agg(pl.len().alias("turns"), pl.col("probability").mean(), pl.col("dsat").mean())
        .sort("bin")
    )
    return [
        Bin(low=low, turns=turns, predicted=predicted, observed=observed)
        for low, turns, predicted, observed in table.iter_rows()
    ]


def named_items(rows: pl.DataFrame, learned: dict[str, int]) -> list[Named]:
    """Return for each item that the model can name how often that was right, the most frequent first.

    Args:
        rows: `gold_label`, `item` (the teacher's), `guessed`.
        learned: item → examples.
    """
    told = rows.filter(pl.col("gold_label") == DSAT, pl.col("item").is_in(list(learned)))
    true, guessed = (told[column].to_numpy() for column in ("item", "guessed"))
    found = [
        Named(
            name=name,
            examples=examples,
            turns=int(np.sum(true == name)),
            right=int(np.sum((true == name) & (guessed == name))),
            named=int(np.sum(guessed == name)),
        )
        for name, examples in learned.items()
    ]
    return sorted(found, key=lambda item: (-item.turns, -item.examples, item.name))
