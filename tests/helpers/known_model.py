"""A classifier whose score of every message is known: it looks for a few words, and for nothing else."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from drift_data.judge.local.cues import load_cues
from drift_data.judge.local.features import FEATURES_VERSION, TEXT_FIELDS, read_turns
from drift_data.judge.local.model import HASH_BITS, Classifier, ClassifierCard, find_buckets
from drift_data.judge.local.ngrams import FoldedTexts, hash_word_runs
from drift_data.judge.local.trees import DEPTH, Trees
from drift_data.schema import CONVERSATIONS

SCORES: Mapping[str, float] = {
    "wrong": 8.5,
    "again": 7,
    "shorter": 7,
    "long": 7,
    "meant": 3,
}  # word → dsat_score
OTHERWISE = 0.1
NAME = "local:known"
# A word's weight tells its score, however many other n-grams the message has: of 1,400 at most, its share is 1 / 37.
_LEVELS = (3.0, 7.0, 8.5)
_WEIGHTS = (1.0, 100.0, 10_000.0)
_BETWEEN = (0.01, 1.5, 150.0)  # what the message's n-grams are worth below each weight


def known_model() -> Classifier:
    """Return the classifier; the highest word of a message counts, once said or a few times."""
    said = np.zeros(1 << HASH_BITS, np.float16)
    for word, score in SCORES.items():
        [alone] = hash_word_runs(FoldedTexts([word], 100).hash_words(), 1)
        said[find_buckets(alone)] = _WEIGHTS[_LEVELS.index(score)]
    nothing = np.zeros(1 << HASH_BITS, np.float16)
    empty = pa.RecordBatch.from_pylist([], schema=CONVERSATIONS)
    names = read_turns(empty, load_cues()).names
    thresholds = np.full((1, 2**DEPTH - 1), np.inf, np.float32)
    thresholds[0, :3] = _BETWEEN[1], _BETWEEN[0], _BETWEEN[2]
    chance = np.repeat([OTHERWISE, *_LEVELS], 2) / 10
    return Classifier(
        card=ClassifierCard(
            name=NAME, features=FEATURES_VERSION, names=names, data={}, training={}, items={}, quality={}
        ),
        texts={field: said if field == "said" else nothing for field in TEXT_FIELDS},
        text_bias=dict.fromkeys(TEXT_FIELDS, 0.0),
        trees=Trees(
            np.full(thresholds.shape, len(names) + TEXT_FIELDS.index("said"), np.int16),
            thresholds,
            np.log(chance / (1 - chance)).astype(np.float32)[None, :],
            0.0,
        ),
        calibration=(1.0, 0.0),
        item_texts=np.zeros((0, 1 << HASH_BITS), np.float16),
        item_numbers=np.zeros((0, len(names) + 1), np.float32),
    )


def write_known_model(path: Path) -> Path:
    known_model().save(path)
    return path
