"""Computes bootstrap intervals by drawing whole conversations, because the turns of one conversation are not
independent of each other.

The functions take counts per conversation; the caller computes figures from the summed counts of each resample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from drift_data.calibrate.metrics import Counts, Floats, nan_to_none

BOOTSTRAP_RESAMPLES = 2_000
CONFIDENCE = 0.95  # share of the resampled values that an interval covers
_MIN_DEFINED_SHARE = 0.95  # a figure gets an interval only if this share of the resamples defines the figure
_DRAWS_IN_MEMORY = 2_000_000  # drawn numbers held in memory at once


class Estimate(BaseModel):
    """A figure and its 95 % percentile interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def resample_counts(counts: Counts, seed: int, resamples: int = BOOTSTRAP_RESAMPLES) -> Floats:
    """Return the summed counts of conversations drawn with replacement.

    Conversations with equal counts are drawn together: one multinomial number says how often they are drawn. The
    distribution is the same, and the cost grows only with the number of distinct rows.

    Args:
        counts: (conversations, k).
        seed: equal seeds give equal draws.
        resamples: how many sums to draw.

    Returns:
        (resamples, k) sums.
    """
    kinds, times = np.unique(counts, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWS_IN_MEMORY // len(kinds))
    sums = [
        generator.multinomial(len(counts), times / len(counts), size=min(rows, resamples - start))
        @ kinds.astype(np.float64)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(sums)


def estimate_interval(value: float | np.floating[Any] | Floats, samples: Floats | None) -> Estimate:
    """Return a figure with the percentile interval of its resampled values.

    A figure that has the same value in every resample gets no interval: an interval without width would hide how
    few turns there are.

    Args:
        value: the figure on all conversations.
        samples: the figure on each resample, NaN where a resample does not define the figure; None: nothing was
            resampled.
    """
    known = samples[~np.isnan(samples)] if samples is not None else np.empty(0)
    if samples is None or np.isnan(value) or len(known) < _MIN_DEFINED_SHARE * len(samples):
        return Estimate(value=nan_to_none(value))
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if low == high:
        return Estimate(value=nan_to_none(value))
    return Estimate(value=nan_to_none(value), low=float(low), high=float(high))


def count_per_conversation(conversations: npt.ArrayLike, codes: Counts, kinds: int) -> Counts:
    """Return how often each code occurs in each conversation.

    Args:
        conversations: (turns,) conversation id of each turn.
        codes: (turns,) numbers from 0 to `kinds` - 1.
        kinds: number of codes.

    Returns:
        (conversations, kinds) counts, sorted by conversation id.
    """
    names, rows = np.unique(np.asarray(conversations), return_inverse=True)
    counted = np.bincount(rows * kinds + codes, minlength=len(names) * kinds)
    return counted.reshape(len(names), kinds)
