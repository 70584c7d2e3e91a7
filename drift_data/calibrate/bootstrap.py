"""Bootstrap intervals that resample conversations: the turns of one conversation are no independent draws.

It knows counts per conversation and nothing of what they count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from drift_data.calibrate.metrics import Counts, Floats, number

RESAMPLES = 2_000
COVERED = 0.95
_DEFINED = 0.95  # of the resamples must have the figure; else it has no interval
_AT_ONCE = 2_000_000  # drawn numbers held in memory


class Estimate(BaseModel):
    """A figure and its 95 % percentile interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def resampled(counts: Counts, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Return the summed counts of conversations drawn with replacement.

    Conversations with equal counts are drawn as one kind: the same distribution, at the cost of the kinds.

    Args:
        counts: (conversations, k).
        seed: equal seeds give equal draws.
        resamples: how many.

    Returns:
        (resamples, k).
    """
    kinds, times = np.unique(counts, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // len(kinds))
    sums = [
        generator.multinomial(len(counts), times / len(counts), size=min(rows, resamples - start))
        @ kinds.astype(np.float64)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(sums)


def estimate(value: float | np.floating[Any] | Floats, samples: Floats | None) -> Estimate:
    """Return a figure with the percentile interval of its resampled values.

    A figure that no resample changes has no interval: that says nothing of how few turns there are.

    Args:
        value: the figure itself.
        samples: of the resamples, NaN where one does not define it; None: there is nothing to resample.
    """
    known = samples[~np.isnan(samples)] if samples is not None else np.empty(0)
    if samples is None or np.isnan(value) or len(known) < _DEFINED * len(samples):
        return Estimate(value=number(value))
    low, high = np.quantile(known, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    if low == high:
        return Estimate(value=number(value))
    return Estimate(value=number(value), low=float(low), high=float(high))


def per_conversation(conversations: npt.ArrayLike, codes: Counts, kinds: int) -> Counts:
    """Return how often each code from 0 to `kinds` - 1 occurs in each conversation: (conversations, kinds)."""
    names, rows = np.unique(np.asarray(conversations), return_inverse=True)
    counted = np.bincount(rows * kinds + codes, minlength=len(names) * kinds)
    return counted.reshape(len(names), kinds)
