"""Keeps a threshold where it is unless moving it is better beyond chance, on the turns it was chosen on."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from drift_data.calibrate.bootstrap import COVERED, resampled
from drift_data.calibrate.metrics import f_score
from drift_data.calibrate.options import ThresholdOptions
from drift_data.calibrate.thresholds import Choice, decided
from drift_data.schema import DSAT, SAT

_COLUMNS: Final = ("true", "given_new", "right_new", "given_old", "right_old")


def steady(rows: pl.DataFrame, choice: Choice, options: ThresholdOptions, seed: int) -> Choice:
    """Return the choice without the moves that a resample of the conversations often turns into a loss.

    A small choosing part has a best threshold, too, mostly by chance. A threshold of DSAT that misses the floor
    for precision has to move in any case.

    Args:
        rows: the choosing part, with `conversation_id`, `sat_score`, `dsat_score`, `change`, `gold_label`.
        choice: made on these rows.
        options: what counted as better.
        seed: of the resamples.
    """
    kept, notes = choice.chosen, list(choice.notes)
    for label in (DSAT, SAT):
        side = label.lower()
        new, old = getattr(kept, side), getattr(choice.present, side)
        if new == old:
            continue
        back = kept.model_copy(update={side: old})
        marked = rows.with_columns(new=decided(kept) == label, old=decided(back) == label).with_columns(
            gold=pl.col("gold_label") == label
        )
        counts = marked.group_by("conversation_id").agg(
            true=pl.col("gold").sum(),
            given_new=pl.col("new").sum(),
            right_new=(pl.col("new") & pl.col("gold")).sum(),
            given_old=pl.col("old").sum(),
            right_old=(pl.col("old") & pl.col("gold")).sum(),
        )
        found = counts.select(_COLUMNS).to_numpy().astype(np.int64)
        if label == DSAT and options.min_precision is not None:
            given, right = (int(counts[name].sum()) for name in ("given_old", "right_old"))
            if right < options.min_precision * given or not given:
                continue
        true, given_new, right_new, given_old, right_old = resampled(found, seed).T
        gains = f_score(right_new, given_new, true, options.beta) - f_score(
            right_old, given_old, true, options.beta
        )
        if np.quantile(gains, (1 - COVERED) / 2) <= 0:
            kept = back
            notes.append(
                f"{label}: a threshold of {new:g} is better on the turns it was chosen on, but not beyond chance; it "
                f"stays {old:g}."
            )
    return choice.model_copy(update={"chosen": kept, "notes": notes})
