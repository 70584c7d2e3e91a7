"""Says how much replies differ, within and among each other. Knows tokens and vectors, no model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

NGRAMS = (1, 2, 3)


def corpus_distinct(replies: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """Return n → distinct n-grams of all replies together over their number: falls as replies resemble each other."""
    shares: dict[str, float | None] = {}
    for n in NGRAMS:
        grams = [gram for reply in replies for gram in _grams(reply, n)]
        shares[str(n)] = round(len(set(grams)) / len(grams), 6) if grams else None
    return shares


def reply_distinct(replies: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """Return n → mean over replies of distinct n-grams over their number: falls as replies loop.

    A reply of fewer than n tokens has no n-gram and does not count.
    """
    shares: dict[str, float | None] = {}
    for n in NGRAMS:
        each = [len(set(grams)) / len(grams) for reply in replies if (grams := _grams(reply, n))]
        shares[str(n)] = round(math.fsum(each) / len(each), 6) if each else None
    return shares


def _grams(reply: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(reply[i:] for i in range(n)), strict=False))


def mean_cosine_distance(embeddings: torch.Tensor) -> float | None:
    """Return 1 − the mean cosine of two different rows of (replies, hidden); None of fewer than two."""
    n = len(embeddings)
    if n < 2:
        return None
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    total = float(unit.sum(dim=0).square().sum())  # of all n² cosines, n of which are 1
    return round(1 - (total - n) / (n * (n - 1)), 9)
