"""Measures what a cascade would cost and be worth: the student labels, and the teacher answers where the student is
uncertain.

The student's scores must come from models that have not seen the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from pydantic import BaseModel

from drift_data.calibrate.metrics import Floats
from drift_data.calibrate.summary import Comparison, compare_labels

# Shares of the turns that the teacher answers. The report measures a band of scores for each share.
CASCADE_SHARES: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
_SCORE_STEP: Final = 0.001  # scores have three decimals
# Precision and recall of DSAT, against the teacher, that the recommended band reaches.
RECOMMENDED_QUALITY: Final = 0.9


class CascadeBand(BaseModel):
    """A cascade in which the teacher answers the turns with low ≤ dsat_score < high, and the student all others.

    Without `low` and `high`, the student answers alone.
    """

    low: float | None
    high: float | None
    turns: int  # turns that the teacher answers
    share_turns: float  # `turns` as a share of all turns
    requests: int  # conversations with such a turn: one request each
    share_requests: float  # `requests` as a share of all conversations
    price: (
        float | None
    )  # price of the teacher's requests when all conversations of the workspace are labelled
    teacher: Comparison  # the cascade's labels against the teacher's
    gold: Comparison | None  # the cascade's labels against the labels to believe, on the turns that have one


def measure_bands(rows: pl.DataFrame, threshold: float, price: float | None, seed: int) -> list[CascadeBand]:
    """Measure bands of growing width around a threshold: from the student alone to a band that holds every turn.

    Args:
        rows: `conversation_id`, `gold_label` (the teacher's), `predicted` (the student's), `dsat_score`, and
            maybe `truth` (the label to believe, null where unknown).
        threshold: threshold of `dsat_score`.
        price: price of asking the teacher about all conversations; None if it is not known.
        seed: seed of the intervals' resamples.
    """
    return [
        _measure_band(rows, low, high, price, seed)
        for low, high in ((None, None), *find_bands(rows, threshold))
    ]


def find_bands(
    rows: pl.DataFrame, threshold: float, shares: Sequence[float] = CASCADE_SHARES
) -> list[tuple[float, float]]:
    """Return (low, high) of the bands that hold at least the given shares of the turns, the narrowest band first.

    A band reaches as far above the threshold as below it, measured in log-odds.

    Args:
        rows: turns, with `dsat_score`.
        threshold: middle of the bands.
        shares: shares of the turns, rising.
    """
    scores = rows["dsat_score"].to_numpy().astype(np.float64)
    middle = _compute_log_odds(np.array([threshold]))[0]
    distances = np.sort(np.abs(_compute_log_odds(scores) - middle))
    found = []
    for share in shares:
        far = distances[max(0, int(np.ceil(share * len(distances))) - 1)]
        # Log-odds are cut off at both ends of the scale. A band that reaches a cut-off takes every score beyond it.
        low, high = (10 / (1 + np.exp(-(middle + side * far))) for side in (-1, 1))
        low = 0.0 if far >= distances[-1] else np.floor(low / _SCORE_STEP + 1e-6) * _SCORE_STEP
        high = (
            max(10.0, threshold)
            if far >= distances[-1]
            else np.floor(high / _SCORE_STEP + 1e-6) * _SCORE_STEP
        )
        found.append((round(float(low), 3), round(float(high) + _SCORE_STEP, 3)))
    return list(dict.fromkeys(found))


def recommend_band(found: Sequence[CascadeBand]) -> CascadeBand | None:
    """Return the narrowest band whose precision and recall of DSAT reach `RECOMMENDED_QUALITY` beyond chance.

    Beyond chance means that the lower ends of both intervals reach it. A metric without an interval counts by its
    value. None: no band reaches it.
    """
    for band in found:
        figures = [band.teacher.figures[f"{name}_DSAT"] for name in ("precision", "recall")]
        ends = [figure.value if figure.low is None else figure.low for figure in figures]
        if all(end is not None and end >= RECOMMENDED_QUALITY for end in ends):
            return band
    return None


def _measure_band(
    rows: pl.DataFrame, low: float | None, high: float | None, price: float | None, seed: int
) -> CascadeBand:
    """Measure a cascade with one band, or the student alone if `low` and `high` are None."""
    asked = pl.lit(False) if low is None else (pl.col("dsat_score") >= low) & (pl.col("dsat_score") < high)
    rows = rows.with_columns(asked=asked).with_columns(
        given=pl.when("asked").then("gold_label").otherwise("predicted")
    )
    requests = rows.filter("asked")["conversation_id"].n_unique()
    share = requests / rows["conversation_id"].n_unique()
    known = (
        rows.drop_nulls("truth").drop("gold_label").rename({"truth": "gold_label"})
        if "truth" in rows
        else None
    )
    return CascadeBand(
        low=low,
        high=high,
        turns=int(rows["asked"].sum()),
        share_turns=rows["asked"].sum() / rows.height,
        requests=requests,
        share_requests=share,
        price=None if price is None else share * price,
        teacher=compare_labels("against the teacher", rows, rows["given"], seed),
        gold=compare_labels("against gold", known, known["given"], seed)
        if known is not None and known.height
        else None,
    )


def _compute_log_odds(scores: Floats) -> Floats:
    """Return the log-odds of scores from 0 to 10, cut off at half a step of the scores' three decimals."""
    share = np.clip(scores / 10, _SCORE_STEP / 20, 1 - _SCORE_STEP / 20)
    return np.asarray(np.log(share / (1 - share)), np.float64)
