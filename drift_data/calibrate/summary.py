"""What the quality report says, as it is stored in `quality.json`. Knows no workspace and no HTML."""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import BaseModel

from drift_data.calibrate.bootstrap import RESAMPLES, Estimate, estimate, per_conversation, resampled
from drift_data.calibrate.match import Match
from drift_data.calibrate.metrics import CELLS, Counts, Floats, cells, cohens_kappa, figures, number
from drift_data.calibrate.thresholds import Choice
from drift_data.schema import DSAT, LABELS


class View(BaseModel):
    """One set of labels held against the other side on one set of turns."""

    title: str
    turns: int
    conversations: int
    true: dict[str, int]  # label → turns to which the other side gives it
    given: dict[str, int]
    confusion: dict[str, dict[str, int]]  # label of the other side → given label → turns
    figures: dict[str, Estimate]  # names as in `calibrate.metrics`


class Item(BaseModel):
    """How often a sign was seen, and what the other side says of the turns that show it."""

    name: str
    polarity: str | None  # None: the judge never saw it
    turns: int  # of all labelled turns
    share: float
    strength: float | None  # mean
    labelled: int  # matched turns that show it and got the label of its polarity
    right: int  # of these, turns to which the other side gives the same label
    other: int  # matched turns that show it according to the other side
    found: int  # of these, turns that got the other side's label


class Strength(BaseModel):
    """How many of the other side's DSAT turns of one strength were found."""

    strength: float
    turns: int
    found: int


class Refusal(BaseModel):
    """Whether the judged reply is a refusal, according to both sides."""

    both: int
    only_labels: int
    only_other: int
    neither: int
    kappa: float | None


class Quality(BaseModel):
    """The whole report, apart from the excerpts of turns."""

    labels: str
    judge: str
    other: str
    other_is_gold: bool  # false: another judge, which is no truth
    match: Match
    views: list[View]  # the first is the one to quote
    gain: dict[str, Estimate]  # first view less the second, on the same resamples; empty without thresholds
    choice: Choice | None  # None: the labels have no scores, or there is no gold
    notes: list[str]
    items: list[Item]
    strengths: list[Strength]
    refusal: Refusal | None
    resamples: int = RESAMPLES


def view(title: str, rows: pl.DataFrame, given: pl.Series, seed: int) -> View:
    """Return the figures of labels against `gold_label`, with intervals over the conversations of the rows.

    Args:
        title: which labels, on which turns.
        rows: matched rows.
        given: the labels to hold against theirs, row by row.
        seed: of the resamples.
    """
    counts = _counts(rows, given)
    table = _square(counts.sum(0))
    values, samples = figures(table), _samples(counts, seed)
    return View(
        title=title,
        turns=rows.height,
        conversations=len(counts),
        true=dict(zip(LABELS, map(int, table.sum(1)), strict=True)),
        given=dict(zip(LABELS, map(int, table.sum(0)), strict=True)),
        confusion={
            label: dict(zip(LABELS, map(int, row), strict=True))
            for label, row in zip(LABELS, table, strict=True)
        },
        figures={name: estimate(value, samples[name] if samples else None) for name, value in values.items()},
    )


def gain(rows: pl.DataFrame, new: pl.Series, old: pl.Series, seed: int) -> dict[str, Estimate]:
    """Return by how much each figure of the new labels exceeds that of the old, on the same resamples."""
    counts = np.concatenate([_counts(rows, new), _counts(rows, old)], axis=1)
    sides = [figures(_square(part)) for part in np.split(counts.sum(0), 2)]
    drawn = np.split(resampled(counts, seed), 2, axis=1) if len(counts) > 1 else []
    samples = [figures(_square(part)) for part in drawn]
    return {
        name: estimate(
            sides[0][name] - sides[1][name], samples[0][name] - samples[1][name] if samples else None
        )
        for name in sides[0]
    }


def items(labels: pl.DataFrame, matched: pl.DataFrame) -> list[Item]:
    """Return every sign that either side has seen, the most frequent first."""
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
    return [Item(**row, share=row["turns"] / max(1, labels.height)) for row in table.iter_rows(named=True)]


def strengths(matched: pl.DataFrame) -> list[Strength]:
    """Return, for each strength of the other side's DSAT turns, how many were found."""
    table = (
        matched.filter(pl.col("gold_label") == DSAT)
        .drop_nulls("gold_strength")
        .group_by(strength="gold_strength")
        .agg(pl.len().alias("turns"), (pl.col("label") == DSAT).sum().alias("found"))
        .sort("strength")
    )
    return [Strength(**row) for row in table.iter_rows(named=True)]


def refusal(matched: pl.DataFrame) -> Refusal | None:
    """Return how both sides call the judged replies; None when one of them does not say."""
    known = matched.drop_nulls(["refusal", "gold_refusal"])
    if not known.height:
        return None
    codes = known.select(pl.col("gold_refusal").cast(pl.Int64) * 2 + pl.col("refusal").cast(pl.Int64))
    table = np.bincount(codes.to_series().to_numpy(), minlength=4).reshape(2, 2)
    return Refusal(
        both=int(table[1, 1]),
        only_labels=int(table[0, 1]),
        only_other=int(table[1, 0]),
        neither=int(table[0, 0]),
        kappa=number(cohens_kappa(table)),
    )


def _counts(rows: pl.DataFrame, given: pl.Series) -> Counts:
    return per_conversation(rows["conversation_id"].to_numpy(), cells(rows["gold_label"], given), CELLS)


def _samples(counts: Counts, seed: int) -> dict[str, Floats] | None:
    return figures(_square(resampled(counts, seed))) if len(counts) > 1 else None


def _square(counts: Counts | Floats) -> Counts | Floats:
    """Return (…, 9) counts as (…, 3, 3)."""
    return counts.reshape(*counts.shape[:-1], len(LABELS), len(LABELS))
