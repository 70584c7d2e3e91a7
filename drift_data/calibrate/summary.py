"""Computes everything the quality report says from matched rows; the models are the format of `quality.json`."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import BaseModel

from drift_data.calibrate.bootstrap import (
    BOOTSTRAP_RESAMPLES,
    Estimate,
    count_per_conversation,
    estimate_interval,
    resample_counts,
)
from drift_data.calibrate.match import MatchCounts
from drift_data.calibrate.metrics import (
    CONFUSION_CELLS,
    Counts,
    Floats,
    compute_cohens_kappa,
    compute_metrics,
    find_confusion_cells,
    nan_to_none,
)
from drift_data.calibrate.thresholds import ThresholdChoice
from drift_data.schema import DSAT, LABELS


class Comparison(BaseModel):
    """One set of labels compared with the labels of the other side (gold, or another judge) on one set of turns."""

    title: str  # says which labels, on which turns
    turns: int
    conversations: int
    true: dict[str, int]  # label → turns that have it on the other side
    given: dict[str, int]  # label → turns that have it in this set
    confusion: dict[str, dict[str, int]]  # label of the other side → given label → turns
    figures: dict[str, Estimate]  # metrics as in `metrics.compute_metrics` → value with interval


class ItemQuality(BaseModel):
    """How often the judge saw an item of the rubric, and how the other side labels the turns that show the item."""

    name: str
    polarity: str | None  # SAT or DSAT; None: the judge never saw the item
    turns: int  # labelled turns that show the item
    share: float  # `turns` as a share of all labelled turns
    strength: float | None  # mean strength of the item in `turns`
    labelled: int  # matched turns that show the item and got the label of its polarity
    right: int  # those of `labelled` that have the same label on the other side
    other: int  # matched turns that show the item according to the other side
    found: int  # those of `other` that got the other side's label


class StrengthRecall(BaseModel):
    """How many of the other side's DSAT turns of one strength were labelled DSAT."""

    strength: float
    turns: int  # DSAT turns of this strength on the other side
    found: int  # those of `turns` that were labelled DSAT


class RefusalAgreement(BaseModel):
    """How many judged replies are a refusal according to both sides, one of them, or neither."""

    both: int
    only_labels: int
    only_other: int
    neither: int
    kappa: float | None  # Cohen's κ


class Quality(BaseModel):
    """The whole quality report, apart from the excerpts of turns."""

    labels: str  # folder of the measured label table
    judge: str
    other: str  # file or table of the other side
    other_is_gold: bool  # false: the other side is another judge, which is not taken for the truth
    match: MatchCounts
    views: list[Comparison]  # the first is the one to quote
    # Metric → its value at the chosen thresholds less its value at those in use, on the same resamples. Empty if the
    # thresholds are the same.
    gain: dict[str, Estimate]
    choice: ThresholdChoice | None  # None: the labels have no scores, or there is no gold
    notes: list[str]  # caveats for readers of the figures
    items: list[ItemQuality]
    strengths: list[StrengthRecall]
    refusal: RefusalAgreement | None
    resamples: int = BOOTSTRAP_RESAMPLES


def compare_labels(title: str, rows: pl.DataFrame, given: pl.Series, seed: int) -> Comparison:
    """Compare labels with the column `gold_label`; intervals come from resampling the conversations of the rows.

    Args:
        title: says which labels, on which turns.
        rows: matched rows.
        given: (rows,) labels to compare with `gold_label`.
        seed: seed of the resamples.
    """
    counts = _count_cells(rows, given)
    table = _reshape_to_tables(counts.sum(0))
    values, samples = compute_metrics(table), _resample_metrics(counts, seed)
    return Comparison(
        title=title,
        turns=rows.height,
        conversations=len(counts),
        true=dict(zip(LABELS, map(int, table.sum(1)), strict=True)),
        given=dict(zip(LABELS, map(int, table.sum(0)), strict=True)),
        confusion={
            label: dict(zip(LABELS, map(int, row), strict=True))
            for label, row in zip(LABELS, table, strict=True)
        },
        figures={
            name: estimate_interval(value, samples[name] if samples else None)
            for name, value in values.items()
        },
    )


def measure_gain(rows: pl.DataFrame, new: pl.Series, old: pl.Series, seed: int) -> dict[str, Estimate]:
    """Return by how much the new labels exceed the old labels in each metric, on the same resamples.

    Args:
        rows: matched rows.
        new: (rows,) labels.
        old: (rows,) labels.
        seed: seed of the resamples.
    """
    counts = np.concatenate([_count_cells(rows, new), _count_cells(rows, old)], axis=1)
    sides = [compute_metrics(_reshape_to_tables(part)) for part in np.split(counts.sum(0), 2)]
    drawn = np.split(resample_counts(counts, seed), 2, axis=1) if len(counts) > 1 else []
    samples = [compute_metrics(_reshape_to_tables(part)) for part in drawn]
    return {
        name: estimate_interval(
            sides[0][name] - sides[1][name], samples[0][name] - samples[1][name] if samples else None
        )
        for name in sides[0]
    }


def summarize_items(labels: pl.DataFrame, matched: pl.DataFrame) -> list[ItemQuality]:
    """Return every item of the rubric that either side saw, the most frequent first.

    Args:
        labels: all rows of the label table.
        matched: matched rows.
    """
    seen = labels.select("items").explode("items").drop_nulls().unnest("items")
    everywhere = seen.group_by("name").agg(
        pl.col("polarity").first(), pl.len().alias("turns"), pl.col("strength").mean().alias("strength")
    )
    shown = (
        matched.select("label", "gold_label", "items").explode("items").drop_nulls("items").unnest("items")
    )
    sided = shown.filter(pl.col("label") == pl.col("polarity"))
    right = (pl.col("label") == pl.col("gold_label")).sum()
    labelled = sided.group_by("name").agg(pl.len().alias("labelled"), right.alias("right"))
    other = (
        matched.drop_nulls("gold_item")
        .group_by(name="gold_item")
        .agg(pl.len().alias("other"), right.alias("found"))
    )
    table = everywhere.join(other, on="name", how="full", coalesce=True).join(labelled, on="name", how="left")
    counts = ["turns", "labelled", "right", "other", "found"]
    table = table.with_columns(pl.col(counts).fill_null(0)).sort(
        ["turns", "other", "name"], descending=[True, True, False]
    )
    return [
        ItemQuality(**row, share=row["turns"] / max(1, labels.height)) for row in table.iter_rows(named=True)
    ]


def summarize_strengths(matched: pl.DataFrame) -> list[StrengthRecall]:
    """Return how many of the other side's DSAT turns were labelled DSAT, for each strength that they have there."""
    table = (
        matched.filter(pl.col("gold_label") == DSAT)
        .drop_nulls("gold_strength")
        .group_by(strength="gold_strength")
        .agg(pl.len().alias("turns"), (pl.col("label") == DSAT).sum().alias("found"))
        .sort("strength")
    )
    return [StrengthRecall(**row) for row in table.iter_rows(named=True)]


def compare_refusals(matched: pl.DataFrame) -> RefusalAgreement | None:
    """Return how often both sides call the same replies refusals; None when no turn has an answer of both sides."""
    known = matched.drop_nulls(["refusal", "gold_refusal"])
    if not known.height:
        return None
    codes = known.select(pl.col("gold_refusal").cast(pl.Int64) * 2 + pl.col("refusal").cast(pl.Int64))
    table = np.bincount(codes.to_series().to_numpy(), minlength=4).reshape(2, 2)
    return RefusalAgreement(
        both=int(table[1, 1]),
        only_labels=int(table[0, 1]),
        only_other=int(table[1, 0]),
        neither=int(table[0, 0]),
        kappa=nan_to_none(compute_cohens_kappa(table)),
    )


def _count_cells(rows: pl.DataFrame, given: pl.Series) -> Counts:
    """Return (conversations, 9) turns of each conversation in each cell of the confusion table."""
    return count_per_conversation(
        rows["conversation_id"].to_numpy(), find_confusion_cells(rows["gold_label"], given), CONFUSION_CELLS
    )


def _resample_metrics(counts: Counts, seed: int) -> dict[str, Floats] | None:
    """Return metric → (resamples,) values; None for a single conversation, which cannot be resampled."""
    return compute_metrics(_reshape_to_tables(resample_counts(counts, seed))) if len(counts) > 1 else None


def _reshape_to_tables(counts: Counts | Floats) -> Counts | Floats:
    """Return (…, 9) counts as (…, 3, 3)."""
    return counts.reshape(*counts.shape[:-1], len(LABELS), len(LABELS))
