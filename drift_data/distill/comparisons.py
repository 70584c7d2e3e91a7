"""Holds a student's labels, and those of the baselines, against a teacher's. Trains nothing and reads no file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import polars as pl

from drift_data.calibrate.summary import Comparison, compare_labels
from drift_data.calibrate.thresholds import decide_labels
from drift_data.distill.thresholds import precision_recall
from drift_data.judge.label_rule import Thresholds
from drift_data.schema import DSAT, NEUTRAL, SAT

KEYWORD: Final = 5  # strength from which a phrase of the list makes a turn DSAT
DISTILLED: Final = "distilled"
SHIPPED: Final = "shipped"
PHRASES: Final = "phrases"
_POINTS: Final = 200  # of a curve that are kept


def scored(
    rows: pl.DataFrame, probability: pl.Series, item: pl.Series, change_items: Collection[str]
) -> pl.DataFrame:
    """Return rows with `dsat_score` and `change`, as the local judge makes them of a probability and an item."""
    return rows.with_columns(
        dsat_score=(10 * probability.cast(pl.Float64)).round(3),
        change=item.is_in(list(change_items)).fill_null(False),
    )


def usual_label(rows: pl.DataFrame) -> str:
    """Return the label that the teacher gives most often."""
    return str(rows["gold_label"].sort().mode(maintain_order=True)[0])


def views(
    rows: pl.DataFrame,
    thresholds: Thresholds,
    chosen: Thresholds,
    change_items: Collection[str],
    usual: str,
    seed: int,
) -> list[Comparison]:
    """Return the student's view, the one at the chosen threshold if it is another, and those of the baselines.

    Args:
        rows: of `examples.Taught`, with `dsat_score` and `change`.
        thresholds: of the recipe.
        chosen: on these turns or on others.
        change_items: items that ask for a change.
        usual: the label that the teacher gives most often.
        seed: of the intervals.
    """
    title = f"distilled, DSAT from {thresholds.dsat:g}"
    found = [compare_labels(title, rows, rows.select(decide_labels(thresholds)).to_series(), seed)]
    if chosen != thresholds:
        labels = rows.select(decide_labels(chosen)).to_series()
        found.append(compare_labels(f"distilled, chosen {chosen.dsat:g}", rows, labels, seed))
    return found + [
        compare_labels(name, rows, labels, seed)
        for name, labels in baselines(rows, thresholds, change_items, usual).items()
    ]


def baselines(
    rows: pl.DataFrame, thresholds: Thresholds, change_items: Collection[str], usual: str
) -> dict[str, pl.Series]:
    """Return the labels of those who have learned nothing from the teacher."""
    shipped = scored(rows, rows["shipped"], rows["shipped_item"], change_items)
    satisfied = pl.col("sat_score") >= thresholds.sat
    phrases = (
        pl.when(pl.col("keyword") >= KEYWORD)
        .then(pl.lit(DSAT))
        .when(satisfied)
        .then(pl.lit(SAT))
        .otherwise(pl.lit(NEUTRAL))
    )
    return {
        SHIPPED: shipped.select(decide_labels(thresholds)).to_series(),
        PHRASES: rows.select(phrases).to_series(),
        f"all {usual}": pl.Series([usual], dtype=pl.String).new_from_index(0, rows.height),
    }


def precision_recalls(
    rows: pl.DataFrame, thresholds: Thresholds, change_items: Collection[str]
) -> dict[str, list[tuple[float, float]]]:
    """Return (recall, precision) of DSAT at every threshold: of the student, the shipped classifier, the phrases."""
    sides = {
        DISTILLED: rows,
        SHIPPED: scored(rows, rows["shipped"], rows["shipped_item"], change_items),
        PHRASES: rows.with_columns(dsat_score="keyword", change=False),
    }
    found = {}
    for name, side in sides.items():
        curve = precision_recall(side, thresholds.sat).select("recall", "precision")
        found[name] = curve[:: -(-curve.height // _POINTS) or 1].rows()
    return found
