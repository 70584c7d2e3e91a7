"""Compares a student's labels, and those of the baselines, with a teacher's labels."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import polars as pl

from drift_data.calibrate.summary import Comparison, compare_labels
from drift_data.calibrate.thresholds import decide_labels
from drift_data.distill.thresholds import MAX_CURVE_POINTS, compute_precision_recall
from drift_data.judge.options import Thresholds
from drift_data.schema import DSAT, NEUTRAL, SAT

PHRASE_STRENGTH: Final = 5  # the baseline of phrases calls a turn DSAT from a DSAT phrase of this strength on
# What the report calls the student and the baselines.
DISTILLED_TITLE: Final = "distilled"
SHIPPED_TITLE: Final = "shipped"
PHRASES_TITLE: Final = "phrases"


def add_scores(
    rows: pl.DataFrame, probability: pl.Series, item: pl.Series, change_items: Collection[str]
) -> pl.DataFrame:
    """Return rows with `dsat_score` and `change`, computed as the local judge computes them.

    Args:
        rows: turns.
        probability: (turns,) probability of DSAT.
        item: (turns,) name of an item, or null.
        change_items: items that ask for a change.
    """
    return rows.with_columns(
        dsat_score=(10 * probability.cast(pl.Float64)).round(3),
        change=item.is_in(list(change_items)).fill_null(False),
    )


def find_usual_label(rows: pl.DataFrame) -> str:
    """Return the label that the teacher gives most often."""
    return str(rows["gold_label"].sort().mode(maintain_order=True)[0])


def compare_with_baselines(
    rows: pl.DataFrame,
    thresholds: Thresholds,
    chosen: Thresholds,
    change_items: Collection[str],
    usual: str,
    seed: int,
) -> list[Comparison]:
    """Compare the student at the recipe's thresholds, then at the chosen ones if they differ, then the baselines.

    Args:
        rows: rows of `examples.TaughtTurns`, with `dsat_score` and `change`.
        thresholds: thresholds of the recipe.
        chosen: thresholds chosen on these turns or on others.
        change_items: items that ask for a change.
        usual: the label that the teacher gives most often.
        seed: seed of the intervals' resamples.
    """
    title = f"distilled, DSAT from {thresholds.dsat:g}"
    found = [compare_labels(title, rows, rows.select(decide_labels(thresholds)).to_series(), seed)]
    if chosen != thresholds:
        labels = rows.select(decide_labels(chosen)).to_series()
        found.append(compare_labels(f"distilled, chosen {chosen.dsat:g}", rows, labels, seed))
    return found + [
        compare_labels(name, rows, labels, seed)
        for name, labels in label_by_baselines(rows, thresholds, change_items, usual).items()
    ]


def label_by_baselines(
    rows: pl.DataFrame, thresholds: Thresholds, change_items: Collection[str], usual: str
) -> dict[str, pl.Series]:
    """Return baseline → its labels of the turns; no baseline has learned from the teacher.

    Args:
        rows: rows of `examples.TaughtTurns`.
        thresholds: thresholds of the recipe.
        change_items: items that ask for a change.
        usual: the label that one of the baselines gives to all turns.
    """
    shipped = add_scores(rows, rows["shipped"], rows["shipped_item"], change_items)
    satisfied = pl.col("sat_score") >= thresholds.sat
    phrases = (
        pl.when(pl.col("keyword") >= PHRASE_STRENGTH)
        .then(pl.lit(DSAT))
        .when(satisfied)
        .then(pl.lit(SAT))
        .otherwise(pl.lit(NEUTRAL))
    )
    return {
        SHIPPED_TITLE: shipped.select(decide_labels(thresholds)).to_series(),
        PHRASES_TITLE: rows.select(phrases).to_series(),
        f"all {usual}": pl.Series([usual], dtype=pl.String).new_from_index(0, rows.height),
    }


def compute_all_curves(
    rows: pl.DataFrame, thresholds: Thresholds, change_items: Collection[str]
) -> dict[str, list[tuple[float, float]]]:
    """Return title → (recall, precision) of DSAT at each threshold, for the student and two baselines.

    Args:
        rows: rows of `examples.TaughtTurns`, with `dsat_score` and `change`.
        thresholds: thresholds of the recipe; the SAT threshold is in force.
        change_items: items that ask for a change.
    """
    sides = {
        DISTILLED_TITLE: rows,
        SHIPPED_TITLE: add_scores(rows, rows["shipped"], rows["shipped_item"], change_items),
        PHRASES_TITLE: rows.with_columns(dsat_score="keyword", change=False),
    }
    found = {}
    for name, side in sides.items():
        curve = compute_precision_recall(side, thresholds.sat).select("recall", "precision")
        found[name] = curve[:: -(-curve.height // MAX_CURVE_POINTS) or 1].rows()
    return found
