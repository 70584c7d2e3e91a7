"""What a cascade would cost and be worth: the student labels, and the teacher answers where it is uncertain.

The student's scores must be of models that have not seen the turn. Knows neither of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from pydantic import BaseModel

from drift_data.calibrate.metrics import Floats
from drift_data.calibrate.summary import Comparison, compare_labels

SHARES: Final = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
)  # of the turns that the teacher answers
_STEP: Final = 0.001  # scores have three decimals
GOOD: Final = 0.9  # precision and recall of DSAT that the recommended band reaches against the teacher


class CascadeRow(BaseModel):
    """Turns with low ≤ dsat_score < high go to the teacher; without a band the student is alone."""

    low: float | None
    high: float | None
    turns: int  # that the teacher answers
    share_turns: float
    requests: int  # conversations with such a turn
    share_requests: float
    price: float | None  # for all conversations
    teacher: Comparison  # held against the teacher
    gold: Comparison | None  # held against labels to believe, on the turns that have one


def curve(rows: pl.DataFrame, threshold: float, price: float | None, seed: int) -> list[CascadeRow]:
    """Return bands of growing width around a threshold, from none to one that holds everything.

    Args:
        rows: `conversation_id`, `gold_label` (the teacher's), `predicted` (the student's), `dsat_score`, and
            maybe `truth`, with nulls where nobody knows it.
        threshold: of `dsat_score`.
        price: of asking the teacher about all conversations.
        seed: of the intervals.
    """
    return [_band(rows, low, high, price, seed) for low, high in ((None, None), *bands(rows, threshold))]


def bands(
    rows: pl.DataFrame, threshold: float, shares: Sequence[float] = SHARES
) -> list[tuple[float, float]]:
    """Return (low, high) of the bands that hold at least these shares of the turns, nearest to the threshold first.

    Near is meant in log-odds: the same distance above and below.
    """
    scores = rows["dsat_score"].to_numpy().astype(np.float64)
    middle = _odds(np.array([threshold]))[0]
    distances = np.sort(np.abs(_odds(scores) - middle))
    found = []
    for share in shares:
        far = distances[max(0, int(np.ceil(share * len(distances))) - 1)]
        # The far ends are where the odds are cut off: everything beyond belongs to the band.
        low, high = (10 / (1 + np.exp(-(middle + side * far))) for side in (-1, 1))
        low = 0.0 if far >= distances[-1] else np.floor(low / _STEP + 1e-6) * _STEP
        high = max(10.0, threshold) if far >= distances[-1] else np.floor(high / _STEP + 1e-6) * _STEP
        found.append((round(float(low), 3), round(float(high) + _STEP, 3)))
    return list(dict.fromkeys(found))


def recommended(found: Sequence[CascadeRow]) -> CascadeRow | None:
    """Return the narrowest band with which precision and recall of DSAT are `GOOD` beyond chance; maybe no band.

    That is, the lower ends of their intervals are. A figure that no resample changes has none.
    """
    for band in found:
        figures = [band.teacher.figures[f"{name}_DSAT"] for name in ("precision", "recall")]
        ends = [figure.value if figure.low is None else figure.low for figure in figures]
        if all(end is not None and end >= GOOD for end in ends):
            return band
    return None


def _band(
    rows: pl.DataFrame, low: float | None, high: float | None, price: float | None, seed: int
) -> CascadeRow:
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
    return CascadeRow(
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


def _odds(scores: Floats) -> Floats:
    """Return the log-odds of scores, those at the ends cut off where the scores' three decimals end."""
    share = np.clip(scores / 10, _STEP / 20, 1 - _STEP / 20)
    return np.asarray(np.log(share / (1 - share)), np.float64)
