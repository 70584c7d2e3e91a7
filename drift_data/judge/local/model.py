"""Stores and applies the classifier: arrays and a card in one file, which is read without pickle.

Four linear models read the hashed n-grams of four texts. Boosted trees read these models' scores together with the
numbers of `features`. A logistic calibration turns the trees' log-odds into a probability. Further linear models, one
for each item, name the item of a DSAT turn.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from drift_data.judge.local.features import FEATURES_VERSION, TEXT_FIELDS, FeedbackTurns
from drift_data.judge.local.ngrams import Grams
from drift_data.judge.local.options import MODEL_FILE
from drift_data.judge.local.trees import DEPTH, Trees
from drift_data.workspace import UserError

DISTILLED_FOLDER: Final = "distilled"  # folder of a workspace; each of its folders holds one classifier
HASH_BITS: Final = 17  # the bucket of an n-gram is given by this many leading bits of its hash
_MAX_UNPACKED_BYTES: Final = 64 << 20  # a larger file is refused

Float64s = npt.NDArray[np.float64]


class ClassifierCard(BaseModel):
    """What a classifier is made of and how good it was. The card is kept inside the classifier's file."""

    model_config = ConfigDict(extra="forbid")

    name: str  # name of the judge, such as "local:shipped-1"
    features: int  # `FEATURES_VERSION` of the features that it reads
    names: tuple[str, ...]  # names of the numbers that it reads, in their order
    data: dict[str, Any]  # what it was trained on: sources, turns, labels, fingerprints of the conversations
    training: dict[str, Any]  # options, library versions
    items: dict[str, int]  # item that it can name → number of examples it learned the item from
    quality: dict[str, Any]  # figures, and where they come from


@dataclass(frozen=True)
class Prediction:
    """What the classifier predicts for each turn."""

    dsat: Float64s  # probability of DSAT, (turns,)
    text_odds: Mapping[str, Float64s]  # text field → log-odds of DSAT by its n-grams, (turns,)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier."""

    card: ClassifierCard
    texts: Mapping[str, npt.NDArray[np.float16]]  # text field → weight of each bucket, (buckets,)
    text_bias: Mapping[str, float]  # text field → bias of its linear model
    trees: Trees
    calibration: tuple[float, float]  # slope and offset that turn the trees' log-odds into calibrated ones
    item_texts: npt.NDArray[np.float16]  # weights of the message's n-grams, (items, buckets)
    item_numbers: npt.NDArray[np.float32]  # weights of the numbers and, last, the bias, (items, numbers + 1)

    @cached_property
    def hash(self) -> str:
        """Return 12 hex digits of a hash of everything that determines a prediction."""
        digest = hashlib.sha256(repr((self.card.features, self.card.names, self.calibration)).encode())
        for _, array in sorted(self._arrays().items()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]

    @cached_property
    def _fast_texts(self) -> dict[str, Float64s]:
        return {field: weights.astype(np.float64) for field, weights in self.texts.items()}

    @cached_property
    def _fast_items(self) -> Float64s:
        return self.item_texts.astype(np.float64)

    def predict(self, turns: FeedbackTurns) -> Prediction:
        """Return the predictions for turns."""
        text_odds = {
            field: score_texts(turns.grams[field], weights, self.text_bias[field])
            for field, weights in self._fast_texts.items()
        }
        numbers = append_text_scores(turns.numbers, text_odds)
        slope, offset = self.calibration
        odds = slope * self.trees.log_odds(numbers) + offset
        return Prediction(1 / (1 + np.exp(-odds)), text_odds)

    def choose_items(self, turns: FeedbackTurns) -> npt.NDArray[np.intp]:
        """Return the item that fits each turn best if the turn is DSAT.

        Returns:
            Positions in `card.items`, (turns,); 0 for every turn if the card has no items.
        """
        if not self.card.items or not len(turns):
            return np.zeros(len(turns), np.intp)
        said = turns.grams["said"]
        cells, sizes = [find_buckets(grams) for grams in said], _compute_length_scales(said)
        scores = [
            sum(grams.sum_weights(text[cell]) for grams, cell in zip(said, cells, strict=True)) / sizes
            + turns.numbers @ numbers[:-1]
            + numbers[-1]
            for text, numbers in zip(self._fast_items, self.item_numbers, strict=True)
        ]
        best: npt.NDArray[np.intp] = np.argmax(scores, axis=0)
        return best

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        texts = {f"text_{field}": weights for field, weights in self.texts.items()}
        return {
            **texts,
            "text_bias": np.array([self.text_bias[field] for field in TEXT_FIELDS], np.float64),
            "tree_features": self.trees.features,
            "tree_thresholds": self.trees.thresholds,
            "tree_leaves": self.trees.leaves,
            "tree_bias": np.array([self.trees.bias], np.float64),
            "calibration": np.array(self.calibration, np.float64),
            "item_texts": self.item_texts,
            "item_numbers": self.item_numbers,
        }

    def save(self, path: Path) -> None:
        """Write the classifier to a file; equal classifiers make equal bytes."""
        card = np.frombuffer(self.card.model_dump_json().encode(), np.uint8)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, array in {"card": card, **self._arrays()}.items():
                buffer = io.BytesIO()
                np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)


def fingerprint_conversation(conversation: str) -> str:
    """Return the fingerprint under which a card lists a training conversation: 16 hex digits of its id's SHA-256."""
    return hashlib.sha256(conversation.encode()).hexdigest()[:16]


def load_classifier(path: Path | None = None) -> Classifier:
    """Read a classifier that `save` wrote; without a path, read the one that ships.

    Raises:
        UserError: the file is missing, holds no classifier, or reads another version of the features.
    """
    source = files(__package__) / MODEL_FILE if path is None else path
    try:
        with source.open("rb") as file:
            arrays = _read_arrays(file)
    except FileNotFoundError as error:
        raise UserError(f"There is no classifier at {source}. `make distill` makes one.") from error
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} is not a classifier of this toolkit: {error}") from error
    try:
        card = ClassifierCard.model_validate_json(arrays["card"].tobytes())
        if card.features != FEATURES_VERSION:
            raise UserError(
                f"{source} reads version {card.features} of the features, and this toolkit makes version "
                f"{FEATURES_VERSION}. Run `make distill` again."
            )
        return _check_arrays(_make_classifier(card, arrays))
    except (KeyError, ValueError, TypeError, IndexError, ValidationError) as error:
        raise UserError(f"{source} is not a classifier of this toolkit: {error}") from error


def _read_arrays(file: Any) -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED_BYTES:
            raise ValueError(f"it holds more than {_MAX_UNPACKED_BYTES >> 20} MB")
        return {
            entry.filename.removesuffix(".npy"): np.load(io.BytesIO(archive.read(entry)), allow_pickle=False)
            for entry in archive.infolist()
        }


def _make_classifier(card: ClassifierCard, arrays: Mapping[str, npt.NDArray[Any]]) -> Classifier:
    slope, offset = arrays["calibration"].tolist()
    return Classifier(
        card=card,
        texts={field: arrays[f"text_{field}"] for field in TEXT_FIELDS},
        text_bias=dict(zip(TEXT_FIELDS, arrays["text_bias"].tolist(), strict=True)),
        trees=Trees(
            arrays["tree_features"],
            arrays["tree_thresholds"],
            arrays["tree_leaves"],
            float(arrays["tree_bias"][0]),
        ),
        calibration=(slope, offset),
        item_texts=arrays["item_texts"],
        item_numbers=arrays["item_numbers"],
    )


def _check_arrays(model: Classifier) -> Classifier:
    """Return the classifier, or raise ValueError if its arrays do not fit together: a damaged file must not label."""
    items, numbers, trees = len(model.card.items), len(model.card.names), model.trees
    inner, leaves = 2**DEPTH - 1, 2**DEPTH
    fits = (
        all(weights.shape == (1 << HASH_BITS,) for weights in model.texts.values())
        and model.item_texts.shape == (items, 1 << HASH_BITS)
        and model.item_numbers.shape == (items, numbers + 1)
        and trees.features.shape == trees.thresholds.shape == (len(trees.leaves), inner)
        and trees.leaves.shape[1] == leaves
        and (
            trees.features.size == 0
            or 0 <= trees.features.min() <= trees.features.max() < numbers + len(TEXT_FIELDS)
        )
    )
    if not fits:
        raise ValueError("its arrays do not fit together")
    finite: list[npt.NDArray[Any]] = [
        model.trees.leaves,
        model.item_numbers,
        model.item_texts,
        *model.texts.values(),
    ]
    if not all(np.isfinite(array).all() for array in finite):
        raise ValueError("it holds numbers that are infinite or not a number")
    return model


def find_buckets(grams: Grams) -> npt.NDArray[np.int64]:
    """Return the bucket of each n-gram, from 0 to 2**HASH_BITS - 1."""
    return (grams.hashes >> np.uint64(64 - HASH_BITS)).astype(np.int64)


def score_texts(by_length: Sequence[Grams], weights: Float64s, bias: float) -> Float64s:
    """Return the log-odds of DSAT of each turn: its n-grams' weights, over the square root of their number, plus bias.

    Args:
        by_length: the n-grams of the turns, one element for each length of n-gram.
        weights: weight of each bucket, (buckets,).
        bias: bias of the linear model.

    Returns:
        Log-odds, (turns,).
    """
    sums = sum(grams.sum_weights(weights[find_buckets(grams)]) for grams in by_length)
    scores: Float64s = sums / _compute_length_scales(by_length) + bias
    return scores


def _compute_length_scales(by_length: Sequence[Grams]) -> Float64s:
    """Return the square root of how many n-grams each turn has, at least 1."""
    scales: Float64s = np.sqrt(np.maximum(sum(grams.lengths for grams in by_length), 1))
    return scales


def append_text_scores(
    numbers: npt.NDArray[np.float32], text_odds: Mapping[str, Float64s]
) -> npt.NDArray[np.float32]:
    """Return the columns that the trees read: the numbers, then the log-odds of each text, (turns, numbers + texts)."""
    return np.column_stack([numbers, *(text_odds[field] for field in TEXT_FIELDS)]).astype(np.float32)
