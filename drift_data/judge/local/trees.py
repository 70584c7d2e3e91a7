"""Gradient-boosted trees as plain arrays, which are evaluated in NumPy and stored without pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

DEPTH: Final = 3  # levels of every tree; a branch that ends earlier is filled up with copies of its leaf
_TREES_AT_ONCE: Final = (
    16  # trees evaluated together: the decisions of their nodes fit into the processor's cache
)

Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trees:
    """Complete binary trees, all evaluated side by side.

    Node i of a tree has the children 2i + 1 (taken when the value is at most the threshold) and 2i + 2.
    """

    features: npt.NDArray[np.int16]  # column that each node reads, (trees, 2**DEPTH - 1)
    thresholds: Float32s  # threshold of each node, (trees, 2**DEPTH - 1)
    leaves: Float32s  # log-odds that each leaf adds, (trees, 2**DEPTH)
    bias: float  # log-odds before any tree

    @classmethod
    def from_sklearn(cls, fitted: Any) -> Self:
        """Copy a fitted `sklearn.ensemble.GradientBoostingClassifier` of two classes and `DEPTH` levels."""
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
                    if left < 0:  # a leaf above the last level stands for both of its children
                        below += [node, node]
                        continue
                    features[number, place] = tree.feature[node]
                    thresholds[number, place] = _round_down(tree.threshold[node])
                    below += [left, right]
                level = below
            leaves[number] = fitted.learning_rate * tree.value[level, 0, 0]
        prior = np.clip(fitted.init_.class_prior_[1], 1e-9, 1 - 1e-9)
        return cls(features, thresholds, leaves, float(np.log(prior / (1 - prior))))

    def log_odds(self, numbers: Float32s) -> npt.NDArray[np.float64]:
        """Return the log-odds of the second class.

        Args:
            numbers: features of each row, (rows, features).

        Returns:
            Log-odds of each row, (rows,).
        """
        total = np.full(len(numbers), self.bias)
        columns = np.ascontiguousarray(numbers.T)
        for first in range(0, len(self.leaves), _TREES_AT_ONCE):
            block = slice(first, first + _TREES_AT_ONCE)
            above = columns[self.features[block]] > self.thresholds[block][..., None]  # (trees, nodes, rows)
            for leaves, at in zip(self.leaves[block], _find_leaves(above.view(np.uint8)), strict=True):
                total += leaves.take(at)
        return total


def _find_leaves(above: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Return the leaf in which each row ends in each tree, (trees, rows).

    From the last level upwards, each node takes over the leaf that its left or its right child has found.

    Args:
        above: 1 where a value is above its node's threshold, (trees, nodes, rows).
    """
    at = above[:, 2 ** (DEPTH - 1) - 1 :]
    for depth in reversed(range(DEPTH - 1)):
        here = above[:, 2**depth - 1 : 2 ** (depth + 1) - 1]
        left, right = at[:, 0::2], at[:, 1::2] + np.uint8(2 ** (DEPTH - 1 - depth))
        at = left ^ ((left ^ right) & -here)  # `np.where(here, right, left)`, twice as fast
    return at[:, 0].astype(np.intp)


def _round_down(threshold: float) -> np.float32:
    """Return the largest float32 that is not above a threshold; since values are float32, the split is the same."""
    near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))
