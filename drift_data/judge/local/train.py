"""Trains a classifier from labelled turns, with scikit-learn. Knows where no label comes from.

Two kinds of turns: the teacher's, real ones for which the model is made, and our own written ones, which know the
phrases of many languages. Both weigh the same in all. Everything that is measured, the calibration included, is
out of fold on the teacher's turns, split by conversation.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse
import sklearn
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from drift_data.judge.local.features import FIELDS, VERSION, Turns
from drift_data.judge.local.model import BITS, Card, Floats, Model, buckets, with_texts
from drift_data.judge.local.ngrams import Grams
from drift_data.judge.local.options import TrainOptions
from drift_data.judge.local.trees import DEPTH, Trees
from drift_data.schema import DSAT

Numbers = npt.NDArray[np.int64]
Matrix = Any  # scipy.sparse.csr_matrix

ENOUGH: Final = 50  # examples of an item that it takes to name it
_FOLDS, _INNER = 6, 4
# Newton's steps with conjugate gradients: every loop of it has an end, which those of liblinear have not.
_SOLVER: Final = {"solver": "newton-cg", "tol": 1e-5, "max_iter": 100}


@dataclass(frozen=True)
class Examples:
    """Labelled turns."""

    turns: Turns
    labels: Sequence[str]
    items: Sequence[str | None]  # the main item of each turn

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def conversations(self) -> npt.NDArray[np.str_]:
        """Return the conversation of each turn."""
        return self.turns.frame["conversation_id"].to_numpy()


@dataclass(frozen=True)
class Fitted:
    """A model, and what models that had not seen a turn's conversation say of it."""

    model: Model
    out_of_fold: Floats  # calibrated probability of DSAT of each of the teacher's turns
    guessed: Sequence[str | None]  # the item that these models name, for each of the teacher's turns


def train(
    name: str,
    teacher: Examples,
    written: Examples | None,
    options: TrainOptions,
    data: Mapping[str, Any],
    progress: Callable[[], None] = lambda: None,
) -> Fitted:
    """Fit a classifier and measure it out of fold.

    Args:
        name: of the judge.
        teacher: turns of the logs the model is made for.
        written: our own texts beside them.
        options: of the fit.
        data: description of the turns, for the card.
        progress: called after each of `steps()` parts of the work.

    Raises:
        ValueError: fewer than two conversations with, or without, a DSAT turn.
    """
    both = _Both(teacher, written)
    for kind in (True, False):
        if len(set(both.groups[: len(teacher)][both.dsat[: len(teacher)] == kind])) < 2:
            raise ValueError(
                f"fewer than two conversations have a turn that is {'' if kind else 'not '}{DSAT}: there is nothing "
                "to learn"
            )
    odds = np.zeros(len(teacher))
    guessed = np.zeros(len(teacher), np.intp)
    names = both.item_names()
    for held in _folds(both.groups[: len(teacher)], _FOLDS, options.seed):
        rest = np.setdiff1d(np.arange(len(both.dsat)), held)
        stack = _fit(both, rest, options)
        odds[held] = stack.log_odds(both, held)
        if names:
            guessed[held] = _items(both, rest, names).guess(both, held)
        progress()
    slope, offset = _calibrated(odds, both.dsat[: len(teacher)])
    everything = np.arange(len(both.dsat))
    stack = _fit(both, everything, options)
    items = _items(both, everything, names)
    progress()
    probability = 1 / (1 + np.exp(-(slope * odds + offset)))
    counts = Counter(both.items)
    card = Card(
        name=name,
        features=VERSION,
        names=teacher.turns.names,
        data=dict(data),
        training={**options.model_dump(), "scikit-learn": sklearn.__version__, "folds": _FOLDS},
        items={item: counts[item] for item in names},
        quality={},
    )
    model = Model(
        card=card,
        texts={field: stack.weights[field].astype(np.float16) for field in FIELDS},
        text_bias=stack.bias,
        trees=stack.trees,
        calibration=(slope, offset),
        item_texts=items.texts,
        item_numbers=items.numbers,
    )
    return Fitted(
        model,
        probability,
        [names[item] for item in guessed] if names else [None] * len(teacher),
    )


def steps() -> int:
    """Return how often `train` calls its `progress`."""
    return _FOLDS + 1


class _Both:
    """The teacher's turns and the written ones, one after the other."""

    def __init__(self, teacher: Examples, written: Examples | None) -> None:
        parts = [teacher, written] if written is not None else [teacher]
        self.numbers = np.concatenate([part.turns.numbers for part in parts])
        self.dsat = np.array([label == DSAT for part in parts for label in part.labels])
        self.items = [
            item if label == DSAT else None
            for part in parts
            for item, label in zip(part.items, part.labels, strict=True)
        ]
        self.groups = np.concatenate(
            [np.char.add(f"{at}/", part.conversations.astype(str)) for at, part in enumerate(parts)]
        )
        ratio = 1.0 if written is None else max(1.0, len(written) / len(teacher))
        self.weights = np.concatenate(
            [np.full(len(part), ratio if part is teacher else 1.0) for part in parts]
        )
        self.matrices = {
            field: sparse.vstack([_matrix(part.turns.grams[field], len(part)) for part in parts], "csr")
            for field in FIELDS
        }

    def item_names(self) -> list[str]:
        """Return the items with enough examples, in the order of the alphabet."""
        counts = Counter(item for item in self.items if item is not None)
        names = sorted(item for item, count in counts.items() if count >= ENOUGH)
        return names if len(names) > 1 else []


@dataclass(frozen=True)
class _Stack:
    """Linear models of the texts, and the trees above them."""

    weights: Mapping[str, Floats]
    bias: dict[str, float]
    trees: Trees

    def log_odds(self, both: _Both, rows: Numbers) -> Floats:
        said = {
            field: _scores(both.matrices[field][rows], self.weights[field], self.bias[field])
            for field in FIELDS
        }
        return self.trees.log_odds(with_texts(both.numbers[rows], said))


@dataclass(frozen=True)
class _Items:
    """One linear model an item: n-grams of the message, numbers, and a bias."""

    texts: npt.NDArray[np.float16]
    numbers: npt.NDArray[np.float32]

    def guess(self, both: _Both, rows: Numbers) -> npt.NDArray[np.intp]:
        scores = both.matrices["said"][rows] @ self.texts.T.astype(np.float64)
        best: npt.NDArray[np.intp] = np.argmax(
            scores + both.numbers[rows] @ self.numbers[:, :-1].T + self.numbers[:, -1], axis=1
        )
        return best


def _fit(both: _Both, rows: Numbers, options: TrainOptions) -> _Stack:
    """Fit on some turns. The trees see what models of other conversations make of each text."""
    weights: dict[str, Floats] = {}
    bias: dict[str, float] = {}
    said: dict[str, Floats] = {}
    inner = list(_folds(both.groups[rows], _INNER, options.seed))
    for field in FIELDS:
        scores = np.zeros(len(rows))
        for held in inner:
            kept = np.setdiff1d(np.arange(len(rows)), held)
            part = _linear(both, field, rows[kept], options)
            scores[held] = _scores(both.matrices[field][rows[held]], *part)
        said[field] = scores
        weights[field], bias[field] = _linear(both, field, rows, options)
    forest = GradientBoostingClassifier(
        n_estimators=options.trees,
        learning_rate=options.learning_rate,
        max_depth=DEPTH,
        min_samples_leaf=15,
        subsample=0.5,
        max_features=0.3,
        random_state=options.seed,
    ).fit(with_texts(both.numbers[rows], said), both.dsat[rows], sample_weight=both.weights[rows])
    return _Stack(weights, bias, Trees.of(forest))


def _linear(both: _Both, field: str, rows: Numbers, options: TrainOptions) -> tuple[Floats, float]:
    return _logistic(
        both.matrices[field][rows], both.dsat[rows], both.weights[rows], options.text_strength, field
    )


def _logistic(
    matrix: Matrix, true: npt.NDArray[np.bool_], weights: Floats, strength: float, what: str
) -> tuple[Floats, float]:
    """Fit one linear model; say so when it is not done after its last step, which costs quality and no more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it names options that nobody can set here
        found = LogisticRegression(C=strength, **_SOLVER).fit(matrix, true, sample_weight=weights)
    if found.n_iter_[0] >= _SOLVER["max_iter"]:
        print(
            f"The linear model of {what} has not converged after {_SOLVER['max_iter']} steps and is used as it is. "
            "Compare the figures of the report with those of a smaller distill.train.text_strength.",
            file=sys.stderr,
        )
    return found.coef_[0], float(found.intercept_[0])


def _scores(matrix: Matrix, weights: Floats, bias: float) -> Floats:
    scores: Floats = matrix @ weights + bias
    return scores


def _items(both: _Both, rows: Numbers, names: Sequence[str]) -> _Items:
    """Fit the models that name the item of a DSAT turn."""
    if not names:
        return _Items(
            np.zeros((0, 1 << BITS), np.float16), np.zeros((0, both.numbers.shape[1] + 1), np.float32)
        )
    known = np.array([names.index(item) if item in names else -1 for item in both.items])
    rows = rows[known[rows] >= 0]
    mean, scale = both.numbers[rows].mean(0), both.numbers[rows].std(0) + 1e-6
    numbers = (both.numbers[rows] - mean) / scale
    matrix = sparse.hstack([both.matrices["said"][rows], sparse.csr_matrix(0.3 * numbers)], "csr")
    texts, weights = [], []
    for number in range(len(names)):
        found, bias = _logistic(
            matrix, known[rows] == number, both.weights[rows], 1.0, f"the item {names[number]}"
        )
        texts.append(found[: 1 << BITS])
        slopes = 0.3 * found[1 << BITS :] / scale
        weights.append([*slopes, bias - slopes @ mean])
    return _Items(np.array(texts, np.float16), np.array(weights, np.float32))


def _calibrated(odds: Floats, dsat: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and offset that make out-of-fold log-odds a probability (Platt)."""
    found = LogisticRegression(C=1e3).fit(odds[:, None], dsat)
    return float(found.coef_[0, 0]), float(found.intercept_[0])


def _matrix(said: Sequence[Grams], count: int) -> Matrix:
    """Return (turns, buckets): how often each n-gram occurs, over the square root of how many there are."""
    everything = np.arange(count)
    packed = [grams.take(everything) for grams in said]
    rows = np.concatenate([np.repeat(everything, grams.lengths) for grams in packed])
    cells = np.concatenate([buckets(grams) for grams in packed])
    values = 1 / np.sqrt(np.bincount(rows, minlength=count)[rows])
    return sparse.csr_matrix((values, (rows, cells)), shape=(count, 1 << BITS))


def _folds(groups: npt.NDArray[np.str_], count: int, seed: int) -> Iterator[Numbers]:
    """Yield the rows of each fold; a group's rows are all in one."""
    names, of = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(names)) % count
    for number in range(count):
        held = np.flatnonzero(fold[of] == number)
        if len(held):
            yield held
