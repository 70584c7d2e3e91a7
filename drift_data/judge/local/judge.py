"""The `local` judge: labels with the shipped classifier or a distilled one, without a key, a GPU or a download.

`dsat_score` is ten times the probability that the turn is DSAT, so a threshold of 5 asks for even odds. Satisfaction is
found by a rule, the phrases of `cues.yaml`, because real logs have too few examples to learn satisfaction from. A label
says how the user took the reply, not whether the reply is right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from drift_data.judge.base import JUDGED_ROWS, JudgedBatch
from drift_data.judge.local.cues import Cues, load_cues
from drift_data.judge.local.features import FeedbackTurns, read_turns
from drift_data.judge.local.model import Classifier, Prediction, load_classifier
from drift_data.judge.rubric import Rubric, load_rubric
from drift_data.schema import DSAT, SAT

_CODE_VERSION: Final = 1  # to be raised when a change of the code below changes labels
_MIN_EXPLAINED_SCORE: Final = 2.0  # lowest dsat_score that gets an item and a reason
_THREAD_COUNT: Final = 2  # threads, each of which judges one batch at a time
_EVIDENCE_CHARACTERS: Final = 200  # characters at the beginning of the message that become the evidence
# What a reason says about the numbers of a turn: (name of the number, lowest value for which the text is used, text).
_NUMBER_REASONS: Final = (
    ("repeated_ago", 1.0, "the very same message was sent before"),
    ("before_known", 0.9, "nearly all its words are in the message before"),
    ("redone_kept", 0.7, "the next reply begins like the judged one"),
    ("quoted_kept", 0.8, "it quotes the beginning of the reply"),
    ("refused", 1.0, "the judged reply is a refusal"),
    ("trace", 1.0, "it shows an error message"),
)
# Text field → what a reason calls this text if its words speak for DSAT.
_TEXT_NAMES: Final = {
    "said": "the message",
    "added": "what it adds to the one before",
    "reply": "the opening of the judged reply",
    "next": "the opening of the next reply",
}
_NO_SINGLE_SIGN: Final = (
    "no single sign: how the message relates to those before it and to the replies, taken together"
)


class LocalJudge:
    """Scores each feedback turn by a trained classifier.

    Args:
        model: the classifier; by default the one that ships.
    """

    inputs: Sequence[str] = ()

    def __init__(self, model: Classifier | None = None) -> None:
        self._model = model or load_classifier()
        self._cues: Cues = load_cues()
        self.rubric: Rubric = load_rubric()
        self.name = self._model.card.name
        self.options: Mapping[str, Any] = {
            "model": self._model.hash,
            "cues": self._cues.hash,
            "code": _CODE_VERSION,
        }

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[JudgedBatch]:
        """Judge batches in order; every feedback turn gets a row."""
        waiting: deque[Future[JudgedBatch]] = deque()
        with ThreadPoolExecutor(_THREAD_COUNT) as threads:  # NumPy and Polars release the interpreter's lock
            for batch in conversations:
                waiting.append(threads.submit(self._judge_batch, batch))
                if len(waiting) > _THREAD_COUNT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _judge_batch(self, batch: pa.RecordBatch) -> JudgedBatch:
        turns = read_turns(batch, self._cues)
        return JudgedBatch(self._make_rows(turns, self._model.predict(turns)))

    def report(self) -> Mapping[str, Any]:
        """Return which classifier was used, and the items that it can name."""
        return {"model": self._model.hash, "items": list(self._model.card.items)}

    def _make_rows(self, turns: FeedbackTurns, predicted: Prediction) -> pa.Table:
        scores = np.round(10 * predicted.dsat, 3)
        explained = scores >= _MIN_EXPLAINED_SCORE
        signs = self._find_signs(turns, scores, explained)
        polarity = pl.col("items").struct.field("polarity")
        strength = pl.col("items").struct.field("strength").cast(pl.Float32)
        by_turn = (
            signs.with_columns(items=pl.struct("name", "polarity", "strength"))
            .group_by("at", maintain_order=True)
            .agg("items", sat_score=strength.filter(polarity == SAT).sum())
        )
        frame = turns.frame.with_columns(
            dsat_score=pl.Series(scores, dtype=pl.Float32), reason=explain_scores(turns, predicted, explained)
        )
        rows = frame.join(by_turn, on="at", how="left", maintain_order="left").select(
            "conversation_id",
            "turn",
            pl.lit(None, pl.String).alias("label"),
            pl.col("sat_score").fill_null(0),
            "dsat_score",
            pl.col("items").fill_null([]),
            "reason",
            evidence=pl.when(pl.col("items").is_not_null()).then(
                pl.col("text").str.head(_EVIDENCE_CHARACTERS)
            ),
            refusal="refusal",
            correct_refusal=pl.lit(None, pl.Boolean),
            judge=pl.lit(self.name),
            rubric=pl.lit(self.rubric.hash),
        )
        return rows.to_arrow().select(JUDGED_ROWS.names).cast(JUDGED_ROWS)

    def _find_signs(self, turns: FeedbackTurns, scores: np.ndarray, explained: np.ndarray) -> pl.DataFrame:
        """Return the items of the turns: satisfaction by its phrases, and one item for each turn with a high score.

        Args:
            turns: the turns of a batch.
            scores: their `dsat_score`, (turns,).
            explained: whether the score is high enough for an item, (turns,).

        Returns:
            `at` (number of the turn), `name`, `polarity`, `strength`.
        """
        satisfied = self._cues.find_signs(turns.frame, SAT).select(
            "at",
            pl.col("item").alias("name"),
            pl.lit(SAT).alias("polarity"),
            pl.col("strength").cast(pl.Int8),
        )
        at = np.flatnonzero(explained) if self._model.card.items else np.empty(0, np.intp)
        names = np.array([*self._model.card.items, ""])
        dissatisfied = pl.DataFrame(
            {
                "at": at,
                "name": names[self._model.choose_items(turns.take(at))],
                "polarity": [DSAT] * len(at),
                "strength": np.clip(np.round(scores[at]), 1, 10).astype(np.int8),
            },
            schema={"at": pl.Int64, "name": pl.String, "polarity": pl.String, "strength": pl.Int8},
        )
        return pl.concat([dissatisfied, satisfied]).sort("at", maintain_order=True)


def explain_scores(turns: FeedbackTurns, predicted: Prediction, explained: np.ndarray) -> pl.Series:
    """Return what speaks for DSAT in each explained turn: what its numbers show, then the texts worded like complaints.

    The texts stand in the order of their log-odds, the highest first.

    Args:
        turns: the turns of a batch.
        predicted: their predictions.
        explained: whether a turn is to be explained, (turns,).

    Returns:
        One text for each explained turn, null for the others.
    """
    found: list[str | None] = [None] * len(turns)
    columns = {name: turns.numbers[:, turns.names.index(name)] for name, _, _ in _NUMBER_REASONS}
    for at in np.flatnonzero(explained):
        seen = [text for name, least, text in _NUMBER_REASONS if columns[name][at] >= least]
        complaining = sorted(
            ((odds[at], field) for field, odds in predicted.text_odds.items() if odds[at] > 0), reverse=True
        )
        if complaining:
            words = ", ".join(f"{_TEXT_NAMES[field]} ({odds:+.1f})" for odds, field in complaining)
            seen.append(f"wording as in complaints: {words}")
        found[at] = "; ".join(seen) or _NO_SINGLE_SIGN
    return pl.Series(found, dtype=pl.String)
