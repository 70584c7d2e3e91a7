"""From confusion tables to figures: precision, recall, F1, Cohen's κ. Knows no label table, only counts.

Everything works on many tables at once. A figure with nothing to divide by is NaN, and never 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from drift_data.schema import DSAT, LABELS

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
CELLS = len(LABELS) ** 2
_DSAT = LABELS.index(DSAT)


def cells(truth: pl.Series, given: pl.Series) -> Counts:
    """Return the cell of the confusion table that each turn falls into: 0 to 8, row by row."""
    rows, columns = (
        labels.replace_strict(LABELS, range(len(LABELS)), return_dtype=pl.Int64).to_numpy()
        for labels in (truth, given)
    )
    return np.asarray(rows * len(LABELS) + columns, np.int64)


def confusion(truth: pl.Series, given: pl.Series) -> Counts:
    """Return how often each true label (row) was given each label (column), in the order of `LABELS`."""
    counted = np.bincount(cells(truth, given), minlength=CELLS)
    return counted.reshape(len(LABELS), len(LABELS))


def figures(table: npt.NDArray[Any]) -> dict[str, Floats]:
    """Return all figures of confusion tables.

    Args:
        table: (…, 3, 3) counts; rows are the true labels, columns the given ones, in the order of `LABELS`.

    Returns:
        Name → (…) values: "accuracy", "kappa" (three labels), "kappa_dsat" (DSAT against the rest), "macro_f1"
        (over the three labels, one that occurs on neither side counts 0), "macro_f1_present" (over the labels
        that the truth has), and "precision", "recall", "f1" of each label, such as "f1_DSAT".
    """
    table = np.asarray(table, np.float64)
    right = np.diagonal(table, axis1=-2, axis2=-1)
    true, given = table.sum(-1), table.sum(-2)
    f1 = _ratio(2 * right, true + given)
    found = {
        "accuracy": _ratio(right.sum(-1), true.sum(-1)),
        "kappa": cohens_kappa(table),
        "kappa_dsat": cohens_kappa(against_rest(table, _DSAT)),
        "macro_f1": np.nan_to_num(f1).mean(-1),
        "macro_f1_present": _ratio(np.where(true > 0, f1, 0).sum(-1), (true > 0).sum(-1)),
    }
    precision, recall = _ratio(right, given), _ratio(right, true)
    for at, label in enumerate(LABELS):
        found |= {
            f"precision_{label}": precision[..., at],
            f"recall_{label}": recall[..., at],
            f"f1_{label}": f1[..., at],
        }
    return found


def cohens_kappa(table: npt.NDArray[Any]) -> Floats:
    """Return Cohen's κ of (…, k, k) tables of counts; NaN where chance alone would always agree."""
    table = np.asarray(table, np.float64)
    total = table.sum((-2, -1))
    observed = _ratio(np.trace(table, axis1=-2, axis2=-1), total)
    chance = _ratio((table.sum(-1) * table.sum(-2)).sum(-1), total * total)
    return _ratio(observed - chance, 1 - chance)


def against_rest(table: npt.NDArray[Any], at: int) -> npt.NDArray[Any]:
    """Return (…, 2, 2): one label against all others."""
    both, true, given = table[..., at, at], table[..., at, :].sum(-1), table[..., at].sum(-1)
    rest = table.sum((-2, -1)) - true - given + both
    return np.stack([np.stack([both, true - both], -1), np.stack([given - both, rest], -1)], -2)


def f_score(right: npt.ArrayLike, given: npt.ArrayLike, true: npt.ArrayLike, beta: float) -> Floats:
    """Return the F-score of counts, recall weighing `beta` times as much as precision; 0 where nothing is right."""
    right, weight = np.asarray(right, np.float64), beta * beta
    whole = weight * np.asarray(true, np.float64) + np.asarray(given, np.float64)
    return np.asarray((1 + weight) * right / np.maximum(whole, 1e-9), np.float64)


def number(value: float | np.floating[Any] | Floats) -> float | None:
    """Return a single figure as it is stored: None for NaN."""
    return None if np.isnan(value) else float(value)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.asarray(whole, np.float64)
        return np.asarray(np.where(whole == 0, np.nan, part / whole), np.float64)
