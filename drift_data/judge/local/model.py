"""The classifier as it is stored and applied: arrays and a card in one file, read without pickle. Knows no training.

Four linear models read hashed n-grams of four texts; boosted trees read what they say together with the numbers of
`features`; a logistic calibration makes a probability of it. A second linear model names the item of a DSAT turn.
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

from drift_data.judge.local.features import FIELDS, VERSION, Turns
from drift_data.judge.local.ngrams import Grams
from drift_data.judge.local.options import MODEL_FILE
from drift_data.judge.local.trees import DEPTH, Trees
from drift_data.workspace import UserError

DISTILLED: Final = "distilled"  # folder of a workspace: one of these files in each of its folders
BITS: Final = 17  # of the hash: n-grams fall into 2**BITS buckets
_LARGEST: Final = 64 << 20  # bytes of a file, unpacked

Floats = npt.NDArray[np.float64]


class Card(BaseModel):
    """What a model is made of and how good it was; kept inside its file."""

    model_config = ConfigDict(extra="forbid")

    name: str  # of the judge, such as "local:shipped-1"
    features: int  # version of what it reads
    names: tuple[str, ...]  # of the numbers
    data: dict[str, Any]  # what it was trained on: sources, turns, labels, fingerprints of the conversations
    training: dict[str, Any]  # options, library versions
    items: dict[str, int]  # items it can name → examples of each
    quality: dict[str, Any]  # figures and where they come from


@dataclass(frozen=True)
class Predicted:
    """What the model says of each turn."""

    dsat: Floats  # probability
    said: Mapping[str, Floats]  # text → log-odds of its n-grams


@dataclass(frozen=True)
class Model:
    """A trained classifier."""

    card: Card
    texts: Mapping[str, npt.NDArray[np.float16]]  # text → weight of each bucket
    text_bias: Mapping[str, float]
    trees: Trees
    calibration: tuple[float, float]  # slope and offset of the log-odds
    item_texts: npt.NDArray[np.float16]  # (items, buckets)
    item_numbers: npt.NDArray[np.float32]  # (items, numbers + 1): the last is the bias

    @cached_property
    def hash(self) -> str:
        """Return 12 hex digits over everything that determines an answer."""
        digest = hashlib.sha256(repr((self.card.features, self.card.names, self.calibration)).encode())
        for _, array in sorted(self._arrays().items()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]

    @cached_property
    def _fast_texts(self) -> dict[str, Floats]:
        return {field: weights.astype(np.float64) for field, weights in self.texts.items()}

    @cached_property
    def _fast_items(self) -> Floats:
        return self.item_texts.astype(np.float64)

    def predict(self, turns: Turns) -> Predicted:
        """Return what the model says of turns."""
        said = {
            field: text_scores(turns.grams[field], weights, self.text_bias[field])
            for field, weights in self._fast_texts.items()
        }
        numbers = with_texts(turns.numbers, said)
        slope, offset = self.calibration
        odds = slope * self.trees.log_odds(numbers) + offset
        return Predicted(1 / (1 + np.exp(-odds)), said)

    def named(self, turns: Turns) -> npt.NDArray[np.intp]:
        """Return the item that fits a turn best if it is DSAT, by its place in `card.items`; 0 when there is none."""
        if not self.card.items or not len(turns):
            return np.zeros(len(turns), np.intp)
        said = turns.grams["said"]
        cells, sizes = [buckets(grams) for grams in said], _sizes(said)
        scores = [
            sum(grams.sums(text[cell]) for grams, cell in zip(said, cells, strict=True)) / sizes
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
            "text_bias": np.array([self.text_bias[field] for field in FIELDS], np.float64),
            "tree_features": self.trees.features,
            "tree_thresholds": self.trees.thresholds,
            "tree_leaves": self.trees.leaves,
            "tree_bias": np.array([self.trees.bias], np.float64),
            "calibration": np.array(self.calibration, np.float64),
            "item_texts": self.item_texts,
            "item_numbers": self.item_numbers,
        }

    def save(self, path: Path) -> None:
        """Write the model; the same model makes the same bytes."""
        card = np.frombuffer(self.card.model_dump_json().encode(), np.uint8)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, array in {"card": card, **self._arrays()}.items():
                buffer = io.BytesIO()
                np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)


def fingerprint(conversation: str) -> str:
    """Return by which a card knows a conversation that was learned from: 16 hex digits of its id's SHA-256."""
    return hashlib.sha256(conversation.encode()).hexdigest()[:16]


def load_model(path: Path | None = None) -> Model:
    """Read a model that `save` wrote; without a path, the one that ships.

    Raises:
        UserError: the file is not there, is no model, or reads other features than this version makes.
    """
    source = files(__package__) / MODEL_FILE if path is None else path
    try:
        with source.open("rb") as file:
            arrays = _read(file)
    except FileNotFoundError as error:
        raise UserError(f"No classifier at {source}. `make distill` makes one.") from error
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} is no classifier of this toolkit: {error}") from error
    try:
        card = Card.model_validate_json(arrays["card"].tobytes())
        if card.features != VERSION:
            raise UserError(
                f"{source} was made for features {card.features}, this version makes {VERSION}. "
                "Run `make distill` again."
            )
        return _checked(_model(card, arrays))
    except (KeyError, ValueError, TypeError, IndexError, ValidationError) as error:
        raise UserError(f"{source} is no classifier of this toolkit: {error}") from error


def _read(file: Any) -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
            raise ValueError(f"it holds more than {_LARGEST >> 20} MB")
        return {
            entry.filename.removesuffix(".npy"): np.load(io.BytesIO(archive.read(entry)), allow_pickle=False)
            for entry in archive.infolist()
        }


def _model(card: Card, arrays: Mapping[str, npt.NDArray[Any]]) -> Model:
    slope, offset = arrays["calibration"].tolist()
    return Model(
        card=card,
        texts={field: arrays[f"text_{field}"] for field in FIELDS},
        text_bias=dict(zip(FIELDS, arrays["text_bias"].tolist(), strict=True)),
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


def _checked(model: Model) -> Model:
    """Raise ValueError where arrays do not fit one another: a damaged file must not label anything."""
    items, numbers, trees = len(model.card.items), len(model.card.names), model.trees
    inner, leaves = 2**DEPTH - 1, 2**DEPTH
    fits = (
        all(weights.shape == (1 << BITS,) for weights in model.texts.values())
        and model.item_texts.shape == (items, 1 << BITS)
        and model.item_numbers.shape == (items, numbers + 1)
        and trees.features.shape == trees.thresholds.shape == (len(trees.leaves), inner)
        and trees.leaves.shape[1] == leaves
        and (
            trees.features.size == 0
            or 0 <= trees.features.min() <= trees.features.max() < numbers + len(FIELDS)
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
        raise ValueError("it holds numbers that are none")
    return model


def buckets(grams: Grams) -> npt.NDArray[np.int64]:
    """Return the bucket of each n-gram."""
    return (grams.hashes >> np.uint64(64 - BITS)).astype(np.int64)


def text_scores(said: Sequence[Grams], weights: Floats, bias: float) -> Floats:
    """Return the log-odds of each turn's n-grams: the sum of their weights over the square root of their number."""
    sums = sum(grams.sums(weights[buckets(grams)]) for grams in said)
    scores: Floats = sums / _sizes(said) + bias
    return scores


def _sizes(said: Sequence[Grams]) -> Floats:
    """Return the square root of how many n-grams each turn has."""
    sizes: Floats = np.sqrt(np.maximum(sum(grams.lengths for grams in said), 1))
    return sizes


def with_texts(numbers: npt.NDArray[np.float32], said: Mapping[str, Floats]) -> npt.NDArray[np.float32]:
    """Return what the trees read: (turns, numbers + texts)."""
    return np.column_stack([numbers, *(said[field] for field in FIELDS)]).astype(np.float32)
