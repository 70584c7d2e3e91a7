"""Takes back a moved threshold if its gain, on the turns on which it was chosen, may be chance."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from drift_data.calibrate.bootstrap import CONFIDENCE, resample_counts
from drift_data.calibrate.metrics import compute_f_score
from drift_data.calibrate.options import ThresholdOptions
from drift_data.calibrate.thresholds import ThresholdChoice, decide_labels
from drift_data.schema import DSAT, SAT

_COUNTS: Final = ("true", "given_new", "right_new", "given_old", "right_old")


def revert_insignificant_moves(
    rows: pl.DataFrame, choice: ThresholdChoice, options: ThresholdOptions, seed: int
) -> ThresholdChoice:
    """Return the choice without the moves whose gain may be chance.

    Even a small choosing part has a best threshold, but that threshold is best mostly by chance. So a move stays only
    if the new F-score exceeds the old one in at least 97.5 % of the bootstrap resamples of the conversations. If
    `min_precision` is set and the old DSAT threshold misses it, or labels no turn DSAT, the DSAT threshold moves
    anyway.

    Args:
        rows: the choosing part, with `conversation_id`, `sat_score`, `dsat_score`, `change`, `gold_label`.
        choice: thresholds chosen on these rows.
        options: what the choice maximised.
        seed: seed of the resamples.
    """
    kept, notes = choice.chosen, list(choice.notes)
    for label in (DSAT, SAT):
        side = label.lower()
        new, old = getattr(kept, side), getattr(choice.present, side)
        if new == old:
            continue
        back = kept.model_copy(update={side: old})
        marked = rows.with_columns(
            new=decide_labels(kept) == label, old=decide_labels(back) == label
        ).with_columns(gold=pl.col("gold_label") == label)
        counts = marked.group_by("conversation_id").agg(
            true=pl.col("gold").sum(),
            given_new=pl.col("new").sum(),
            right_new=(pl.col("new") & pl.col("gold")).sum(),
            given_old=pl.col("old").sum(),
            right_old=(pl.col("old") & pl.col("gold")).sum(),
        )
        found = counts.select(_COUNTS).to_numpy().astype(np.int64)
        if label == DSAT and options.min_precision is not None:
            given, right = (int(counts[name].sum()) for name in ("given_old", "right_old"))
            if right < options.min_precision * given or not given:
                continue
        true, given_new, right_new, given_old, right_old = resample_counts(found, seed).T
        gains = compute_f_score(right_new, given_new, true, options.beta) - compute_f_score(
            right_old, given_old, true, options.beta
        )
        if np.quantile(gains, (1 - CONFIDENCE) / 2) <= 0:
            kept = back
            notes.append(
                f"{label}: a threshold of {new:g} is better on the turns it was chosen on, but not beyond chance; the "
                f"threshold stays {old:g}."
            )
    return choice.model_copy(update={"chosen": kept, "notes": notes})
