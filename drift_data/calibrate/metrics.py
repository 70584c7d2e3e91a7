"""Computes metrics from confusion tables of counts: precision, recall, F1, Cohen's κ.

Every function works on many tables at once (the leading axes). A metric with nothing to divide by is NaN, not 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from drift_data.schema import DSAT, LABELS

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
CONFUSION_CELLS = len(LABELS) ** 2
_DSAT_INDEX = LABELS.index(DSAT)


def find_confusion_cells(truth: pl.Series, given: pl.Series) -> Counts:
    """Return the cell of the confusion table that each turn falls into.

    Args:
        truth: (turns,) true labels.
        given: (turns,) given labels.

    Returns:
        (turns,) numbers from 0 to 8: row of the true label times 3, plus column of the given label.
    """
    rows, columns = (
        labels.replace_strict(LABELS, range(len(LABELS)), return_dtype=pl.Int64).to_numpy()
        for labels in (truth, given)
    )
    return np.asarray(rows * len(LABELS) + columns, np.int64)


def count_confusion(truth: pl.Series, given: pl.Series) -> Counts:
    """Return (3, 3) counts of turns; rows are true labels, columns given labels, both in the order of `LABELS`."""
    counted = np.bincount(find_confusion_cells(truth, given), minlength=CONFUSION_CELLS)
    return counted.reshape(len(LABELS), len(LABELS))


def compute_metrics(table: npt.NDArray[Any]) -> dict[str, Floats]:
    """Return all metrics of confusion tables.

    Args:
        table: (…, 3, 3) counts; rows are the true labels, columns the given ones, in the order of `LABELS`.

    Returns:
        Name → (…) values: "accuracy", "kappa" (three labels), "kappa_dsat" (DSAT against the other two), "macro_f1"
        (mean F1 of the three labels, where a label that occurs on neither side counts 0), "macro_f1_present" (mean F1
        of the labels that occur in the truth), and "precision", "recall", "f1" of each label, such as "f1_DSAT".
    """
    table = np.asarray(table, np.float64)
    right = np.diagonal(table, axis1=-2, axis2=-1)
    true, given = table.sum(-1), table.sum(-2)
    f1 = _divide(2 * right, true + given)
    found = {
        "accuracy": _divide(right.sum(-1), true.sum(-1)),
        "kappa": compute_cohens_kappa(table),
        "kappa_dsat": compute_cohens_kappa(merge_other_labels(table, _DSAT_INDEX)),
        "macro_f1": np.nan_to_num(f1).mean(-1),
        "macro_f1_present": _divide(np.where(true > 0, f1, 0).sum(-1), (true > 0).sum(-1)),
    }
    precision, recall = _divide(right, given), _divide(right, true)
    for at, label in enumerate(LABELS):
        found |= {
            f"precision_{label}": precision[..., at],
            f"recall_{label}": recall[..., at],
            f"f1_{label}": f1[..., at],
        }
    return found


def compute_cohens_kappa(table: npt.NDArray[Any]) -> Floats:
    """Return Cohen's κ of (…, k, k) tables of counts; NaN where chance alone would always agree."""
    table = np.asarray(table, np.float64)
    total = table.sum((-2, -1))
    observed = _divide(np.trace(table, axis1=-2, axis2=-1), total)
    chance = _divide((table.sum(-1) * table.sum(-2)).sum(-1), total * total)
    return _divide(observed - chance, 1 - chance)


def merge_other_labels(table: npt.NDArray[Any], at: int) -> npt.NDArray[Any]:
    """Return tables in which all labels but one are merged.

    Args:
        table: (…, k, k) counts.
        at: index of the label to keep.

    Returns:
        (…, 2, 2) counts; the kept label comes first.
    """
    both, true, given = table[..., at, at], table[..., at, :].sum(-1), table[..., at].sum(-1)
    rest = table.sum((-2, -1)) - true - given + both
    return np.stack([np.stack([both, true - both], -1), np.stack([given - both, rest], -1)], -2)


def compute_f_score(right: npt.ArrayLike, given: npt.ArrayLike, true: npt.ArrayLike, beta: float) -> Floats:
    """Return the F-score of counts; recall weighs `beta` times as much as precision.

    Args:
        right: turns that were given the label and have it in truth.
        given: turns that were given the label.
        true: turns that have the label in truth.
        beta: below 1 prefers precision.

    Returns:
        The F-score, in the shape of the counts; 0 where nothing is right.
    """
    right, weight = np.asarray(right, np.float64), beta * beta
    whole = weight * np.asarray(true, np.float64) + np.asarray(given, np.float64)
    return np.asarray((1 + weight) * right / np.maximum(whole, 1e-9), np.float64)


def nan_to_none(value: float | np.floating[Any] | Floats) -> float | None:
    """Return a single value as a float, and None for NaN, which JSON cannot hold."""
    return None if np.isnan(value) else float(value)


def _divide(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """Return part / whole, NaN where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.asarray(whole, np.float64)
        return np.asarray(np.where(whole == 0, np.nan, part / whole), np.float64)
