"""Measures how much replies vary, each within itself and one from another, from their tokens and embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

NGRAMS = (1, 2, 3)


def measure_distinct_over_all(replies: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """Return n → share of distinct n-grams among those of all replies. It falls as replies resemble one another."""
    shares: dict[str, float | None] = {}
    for n in NGRAMS:
        grams = [gram for reply in replies for gram in _list_ngrams(reply, n)]
        shares[str(n)] = round(len(set(grams)) / len(grams), 6) if grams else None
    return shares


def measure_distinct_within_replies(replies: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """Return n → share of distinct n-grams in a reply, as a mean over replies. It falls as replies loop.

    A reply of fewer than n tokens has no n-gram and is left out of the mean.
    """
    shares: dict[str, float | None] = {}
    for n in NGRAMS:
        each = [len(set(grams)) / len(grams) for reply in replies if (grams := _list_ngrams(reply, n))]
        shares[str(n)] = round(math.fsum(each) / len(each), 6) if each else None
    return shares


def _list_ngrams(reply: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(reply[i:] for i in range(n)), strict=False))


def measure_mean_cosine_distance(embeddings: torch.Tensor) -> float | None:
    """Return 1 − the mean cosine of two different rows of (replies, hidden); None for fewer than two rows."""
    n = len(embeddings)
    if n < 2:
        return None
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    total = float(unit.sum(dim=0).square().sum())  # the sum of all n² cosines; n of them are 1
    return round(1 - (total - n) / (n * (n - 1)), 9)
