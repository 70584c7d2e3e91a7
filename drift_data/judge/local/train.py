"""Trains a classifier on labelled turns, with scikit-learn.

There are two kinds of turns: the teacher's, from the real logs that the classifier is made for, and those of the
written corpus, which has the phrases of many languages. If there are fewer of the teacher's turns, they weigh more, so
that both kinds have the same total weight. Every measurement, the calibration included, is made out of fold on the
teacher's turns, with whole conversations held out.
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

from drift_data.judge.local.features import FEATURES_VERSION, TEXT_FIELDS, FeedbackTurns
from drift_data.judge.local.model import (
    HASH_BITS,
    Classifier,
    ClassifierCard,
    Float64s,
    append_text_scores,
    find_buckets,
)
from drift_data.judge.local.ngrams import Grams
from drift_data.judge.local.options import ClassifierOptions
from drift_data.judge.local.trees import DEPTH, Trees
from drift_data.schema import DSAT

RowNumbers = npt.NDArray[np.int64]
Matrix = Any  # scipy.sparse.csr_matrix

MIN_ITEM_EXAMPLES: Final = 50  # DSAT turns with an item; the classifier cannot name an item that has fewer
# Parts of the teacher's turns. To measure the classifier, each part is predicted by one trained without it.
_OUTER_FOLDS = 6
# Parts of the training turns. The trees learn from the text scores of each part by models trained without it.
_INNER_FOLDS = 4
# Newton steps with conjugate gradients: all of their loops end, whereas those of liblinear may not.
_SOLVER: Final = {"solver": "newton-cg", "tol": 1e-5, "max_iter": 100}


@dataclass(frozen=True)
class LabelledTurns:
    """Feedback turns with their labels."""

    turns: FeedbackTurns
    labels: Sequence[str]
    items: Sequence[str | None]  # the strongest item of each turn

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def conversations(self) -> npt.NDArray[np.str_]:
        """Return the id of each turn's conversation."""
        return self.turns.frame["conversation_id"].to_numpy()


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier, and what models that have not seen a turn's conversation predict for the turn."""

    model: Classifier
    out_of_fold: Float64s  # calibrated probability of DSAT, (teacher's turns,)
    guessed: Sequence[str | None]  # item that such models name for each of the teacher's turns; None: no item


def train_classifier(
    name: str,
    teacher: LabelledTurns,
    written: LabelledTurns | None,
    options: ClassifierOptions,
    data: Mapping[str, Any],
    progress: Callable[[], None] = lambda: None,
) -> TrainedClassifier:
    """Fit a classifier and measure it out of fold.

    Args:
        name: name of the judge, such as "local:shipped-1".
        teacher: turns of the logs that the classifier is made for.
        written: turns of the written corpus; None: train without them.
        options: how the classifier is fitted.
        data: description of the turns, for the card.
        progress: called after each of `count_steps()` parts of the work.

    Raises:
        ValueError: fewer than two conversations have a DSAT turn, or fewer than two have a turn that is not DSAT.
    """
    training = _TrainingSet(teacher, written)
    for kind in (True, False):
        if len(set(training.groups[: len(teacher)][training.dsat[: len(teacher)] == kind])) < 2:
            raise ValueError(
                f"fewer than two conversations have a turn that is {'' if kind else 'not '}{DSAT}: there is nothing "
                "to learn"
            )
    odds = np.zeros(len(teacher))
    guessed = np.zeros(len(teacher), np.intp)
    names = training.list_items()
    for held in _split_folds(training.groups[: len(teacher)], _OUTER_FOLDS, options.seed):
        rest = np.setdiff1d(np.arange(len(training.dsat)), held)
        stack = _fit_stack(training, rest, options)
        odds[held] = stack.log_odds(training, held)
        if names:
            guessed[held] = _fit_items(training, rest, names).guess(training, held)
        progress()
    slope, offset = _fit_calibration(odds, training.dsat[: len(teacher)])
    everything = np.arange(len(training.dsat))
    stack = _fit_stack(training, everything, options)
    items = _fit_items(training, everything, names)
    progress()
    probability = 1 / (1 + np.exp(-(slope * odds + offset)))
    counts = Counter(training.items)
    card = ClassifierCard(
        name=name,
        features=FEATURES_VERSION,
        names=teacher.turns.names,
        data=dict(data),
        training={**options.model_dump(), "scikit-learn": sklearn.__version__, "folds": _OUTER_FOLDS},
        items={item: counts[item] for item in names},
        quality={},
    )
    model = Classifier(
        card=card,
        texts={field: stack.weights[field].astype(np.float16) for field in TEXT_FIELDS},
        text_bias=stack.bias,
        trees=stack.trees,
        calibration=(slope, offset),
        item_texts=items.texts,
        item_numbers=items.numbers,
    )
    return TrainedClassifier(
        model,
        probability,
        [names[item] for item in guessed] if names else [None] * len(teacher),
    )


def count_steps() -> int:
    """Return how often `train_classifier` calls `progress`."""
    return _OUTER_FOLDS + 1


class _TrainingSet:
    """The teacher's turns and the written ones, one after the other."""

    def __init__(self, teacher: LabelledTurns, written: LabelledTurns | None) -> None:
        parts = [teacher, written] if written is not None else [teacher]
        self.numbers = np.concatenate([part.turns.numbers for part in parts])
        self.dsat = np.array([label == DSAT for part in parts for label in part.labels])
        self.items = [
            item if label == DSAT else None
            for part in parts
            for item, label in zip(part.items, part.labels, strict=True)
        ]
        # Conversation of each turn, different between the two parts: a fold holds whole conversations.
        self.groups = np.concatenate(
            [np.char.add(f"{at}/", part.conversations.astype(str)) for at, part in enumerate(parts)]
        )
        # Weight of a teacher's turn: the teacher's turns together weigh at least as much as the written ones.
        ratio = 1.0 if written is None else max(1.0, len(written) / len(teacher))
        self.weights = np.concatenate(
            [np.full(len(part), ratio if part is teacher else 1.0) for part in parts]
        )
        self.matrices = {
            field: sparse.vstack([_make_matrix(part.turns.grams[field], len(part)) for part in parts], "csr")
            for field in TEXT_FIELDS
        }

    def list_items(self) -> list[str]:
        """Return the items with enough examples, in alphabetical order; none if there is only one such item."""
        counts = Counter(item for item in self.items if item is not None)
        names = sorted(item for item, count in counts.items() if count >= MIN_ITEM_EXAMPLES)
        return names if len(names) > 1 else []


@dataclass(frozen=True)
class _StackedModel:
    """The linear models of the texts, and the trees that read these models' scores."""

    weights: Mapping[str, Float64s]  # text field → weight of each bucket, (buckets,)
    bias: dict[str, float]  # text field → bias
    trees: Trees

    def log_odds(self, training: _TrainingSet, rows: RowNumbers) -> Float64s:
        text_odds = {
            field: _score(training.matrices[field][rows], self.weights[field], self.bias[field])
            for field in TEXT_FIELDS
        }
        return self.trees.log_odds(append_text_scores(training.numbers[rows], text_odds))


@dataclass(frozen=True)
class _ItemModels:
    """One linear model for each item, over the n-grams of the message and the numbers."""

    texts: npt.NDArray[np.float16]  # (items, buckets)
    numbers: npt.NDArray[np.float32]  # weights of the numbers and, last, the bias, (items, numbers + 1)

    def guess(self, training: _TrainingSet, rows: RowNumbers) -> npt.NDArray[np.intp]:
        scores = training.matrices["said"][rows] @ self.texts.T.astype(np.float64)
        best: npt.NDArray[np.intp] = np.argmax(
            scores + training.numbers[rows] @ self.numbers[:, :-1].T + self.numbers[:, -1], axis=1
        )
        return best


def _fit_stack(training: _TrainingSet, rows: RowNumbers, options: ClassifierOptions) -> _StackedModel:
    """Fit the linear models of the texts, and the trees, on some turns.

    The trees learn from text scores of models that have not seen the turn's conversation: a model's scores of turns
    that it has seen are too good.
    """
    weights: dict[str, Float64s] = {}
    bias: dict[str, float] = {}
    text_odds: dict[str, Float64s] = {}
    inner = list(_split_folds(training.groups[rows], _INNER_FOLDS, options.seed))
    for field in TEXT_FIELDS:
        scores = np.zeros(len(rows))
        for held in inner:
            kept = np.setdiff1d(np.arange(len(rows)), held)
            part = _fit_text_model(training, field, rows[kept], options)
            scores[held] = _score(training.matrices[field][rows[held]], *part)
        text_odds[field] = scores
        weights[field], bias[field] = _fit_text_model(training, field, rows, options)
    forest = GradientBoostingClassifier(
        n_estimators=options.trees,
        learning_rate=options.learning_rate,
        max_depth=DEPTH,
        min_samples_leaf=15,
        subsample=0.5,
        max_features=0.3,
        random_state=options.seed,
    ).fit(
        append_text_scores(training.numbers[rows], text_odds),
        training.dsat[rows],
        sample_weight=training.weights[rows],
    )
    return _StackedModel(weights, bias, Trees.from_sklearn(forest))


def _fit_text_model(
    training: _TrainingSet, field: str, rows: RowNumbers, options: ClassifierOptions
) -> tuple[Float64s, float]:
    return _fit_logistic(
        training.matrices[field][rows],
        training.dsat[rows],
        training.weights[rows],
        options.text_strength,
        field,
    )


def _fit_logistic(
    matrix: Matrix, true: npt.NDArray[np.bool_], weights: Float64s, strength: float, what: str
) -> tuple[Float64s, float]:
    """Fit one linear model and return its weights and bias.

    If the model has not converged after the last step, a warning is printed and the model is used all the same.
    """
    with warnings.catch_warnings():
        # scikit-learn's warning names options that a recipe does not have.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=strength, **_SOLVER).fit(matrix, true, sample_weight=weights)
    if found.n_iter_[0] >= _SOLVER["max_iter"]:
        print(
            f"The linear model of {what} has not converged after {_SOLVER['max_iter']} steps and is used as it is. "
            "Compare the figures of the report with those of a smaller distill.train.text_strength.",
            file=sys.stderr,
        )
    return found.coef_[0], float(found.intercept_[0])


def _score(matrix: Matrix, weights: Float64s, bias: float) -> Float64s:
    """Return the log-odds that a linear model gives each row."""
    scores: Float64s = matrix @ weights + bias
    return scores


def _fit_items(training: _TrainingSet, rows: RowNumbers, names: Sequence[str]) -> _ItemModels:
    """Fit the models that name the item of a DSAT turn."""
    if not names:
        return _ItemModels(
            np.zeros((0, 1 << HASH_BITS), np.float16),
            np.zeros((0, training.numbers.shape[1] + 1), np.float32),
        )
    known = np.array([names.index(item) if item in names else -1 for item in training.items])
    rows = rows[known[rows] >= 0]
    mean, scale = training.numbers[rows].mean(0), training.numbers[rows].std(0) + 1e-6
    numbers = (training.numbers[rows] - mean) / scale
    matrix = sparse.hstack([training.matrices["said"][rows], sparse.csr_matrix(0.3 * numbers)], "csr")
    texts, weights = [], []
    for number in range(len(names)):
        found, bias = _fit_logistic(
            matrix, known[rows] == number, training.weights[rows], 1.0, f"the item {names[number]}"
        )
        texts.append(found[: 1 << HASH_BITS])
        slopes = 0.3 * found[1 << HASH_BITS :] / scale
        weights.append([*slopes, bias - slopes @ mean])
    return _ItemModels(np.array(texts, np.float16), np.array(weights, np.float32))


def _fit_calibration(odds: Float64s, dsat: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the slope and offset that turn out-of-fold log-odds into those of a probability (Platt scaling)."""
    found = LogisticRegression(C=1e3).fit(odds[:, None], dsat)
    return float(found.coef_[0, 0]), float(found.intercept_[0])


def _make_matrix(by_length: Sequence[Grams], count: int) -> Matrix:
    """Return how often each n-gram occurs, divided by the square root of how many n-grams the turn has.

    Args:
        by_length: the n-grams of the turns, one element for each length of n-gram.
        count: number of turns.

    Returns:
        Sparse matrix, (turns, buckets).
    """
    everything = np.arange(count)
    packed = [grams.take(everything) for grams in by_length]
    rows = np.concatenate([np.repeat(everything, grams.lengths) for grams in packed])
    cells = np.concatenate([find_buckets(grams) for grams in packed])
    values = 1 / np.sqrt(np.bincount(rows, minlength=count)[rows])
    return sparse.csr_matrix((values, (rows, cells)), shape=(count, 1 << HASH_BITS))


def _split_folds(groups: npt.NDArray[np.str_], count: int, seed: int) -> Iterator[RowNumbers]:
    """Yield the rows of each fold; all rows of a group are in the same fold."""
    names, group_of_row = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(names)) % count
    for number in range(count):
        held = np.flatnonzero(fold[group_of_row] == number)
        if len(held):
            yield held
