"""Gradient-boosted trees as plain arrays: evaluated in NumPy, stored without pickle. Knows no feature's meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

DEPTH: Final = 3  # of every tree; one that ends earlier is filled up

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trees:
    """Complete binary trees, all evaluated side by side.

    Node i of a tree has the children 2i + 1 (value at most the threshold) and 2i + 2.
    """

    features: npt.NDArray[np.int16]  # (trees, 2**DEPTH - 1)
    thresholds: Floats  # same shape
    leaves: Floats  # (trees, 2**DEPTH)
    bias: float

    @classmethod
    def of(cls, fitted: Any) -> Self:
        """Take over a fitted `sklearn.ensemble.GradientBoostingClassifier` of two classes and `DEPTH` levels."""
        trees = [estimator.tree_ for estimator in fitted.estimators_[:, 0]]
        features = np.zeros((len(trees), 2**DEPTH - 1), np.int16)
        thresholds = np.full(features.shape, np.inf, np.float32)
        leaves = np.zeros((len(trees), 2**DEPTH), np.float32)
        for number, tree in enumerate(trees):
            level = [0]
            for depth in range(DEPTH):
                below = []
                for place, node in enumerate(level, 2**depth - 1):
                    left, right = int(tree.children_left[node]), int(tree.children_right[node])
                    if left < 0:  # a leaf above the last level: always to the left, into itself
                        below += [node, node]
                        continue
                    features[number, place] = tree.feature[node]
                    thresholds[number, place] = _below(tree.threshold[node])
                    below += [left, right]
                level = below
            leaves[number] = fitted.learning_rate * tree.value[level, 0, 0]
        prior = np.clip(fitted.init_.class_prior_[1], 1e-9, 1 - 1e-9)
        return cls(features, thresholds, leaves, float(np.log(prior / (1 - prior))))

    def log_odds(self, numbers: Floats) -> npt.NDArray[np.float64]:
        """Return the log-odds of the second class.

        Args:
            numbers: (rows, features).
        """
        total = np.full(len(numbers), self.bias)
        columns = np.ascontiguousarray(numbers.T)
        for features, thresholds, leaves in zip(self.features, self.thresholds, self.leaves, strict=True):
            at = np.zeros(len(numbers), np.intp)
            for depth in range(DEPTH):
                first = 2**depth - 1
                right = np.zeros(len(numbers), np.bool_)
                for node in range(first, 2 * first + 1):
                    if thresholds[node] != np.inf:
                        above = columns[features[node]] > thresholds[node]
                        right |= above if depth == 0 else above & (at == node - first)
                at = 2 * at + right
            total += leaves[at]
        return total


def _below(threshold: float) -> np.float32:
    """Return the largest float32 that is not above a threshold: values are float32, so the split is the same."""
    near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))
