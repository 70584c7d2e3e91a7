"""The `local` judge: the shipped classifier, or one that `make distill` made. Needs no key, GPU or download.

`dsat_score` is ten times the probability that the turn is DSAT, so a threshold of 5 asks for even odds. SAT is left
to a rule, the phrases of `cues.yaml`: real logs have too few examples to learn it from. A label is about the reply;
whether the reply is right is not asked.
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
from drift_data.judge.local.features import Turns, read_turns
from drift_data.judge.local.model import Model, Predicted, load_model
from drift_data.judge.rubric import Rubric, load_rubric
from drift_data.schema import DSAT, SAT

_CODE: Final = 1  # raised when the code below changes what is labelled
_TOLD: Final = 2.0  # dsat_score from which an item and a reason are given
_THREADS: Final = 2
_EVIDENCE: Final = 200  # characters
# What a reason says of numbers: name, from which value, text.
_NUMBERS: Final = (
    ("repeated_ago", 1.0, "the very same message was sent before"),
    ("before_known", 0.9, "nearly all its words are in the message before"),
    ("redone_kept", 0.7, "the next reply begins like the judged one"),
    ("quoted_kept", 0.8, "it quotes the beginning of the reply"),
    ("refused", 1.0, "the judged reply is a refusal"),
    ("trace", 1.0, "it shows an error message"),
)
# What it says of texts whose words speak for DSAT.
_TEXTS: Final = {
    "said": "the message",
    "added": "what it adds to the one before",
    "reply": "the opening of the judged reply",
    "next": "the opening of the next reply",
}
_TOGETHER: Final = (
    "no single sign: how the message relates to those before it and to the replies, taken together"
)


class LocalJudge:
    """Scores each feedback turn by a trained model.

    Args:
        model: by default the one that ships.
    """

    inputs: Sequence[str] = ()

    def __init__(self, model: Model | None = None) -> None:
        self._model = model or load_model()
        self._cues: Cues = load_cues()
        self.rubric: Rubric = load_rubric()
        self.name = self._model.card.name
        self.options: Mapping[str, Any] = {
            "model": self._model.hash,
            "cues": self._cues.hash,
            "code": _CODE,
        }

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[JudgedBatch]:
        """Judge batch by batch; every feedback turn gets a row."""
        waiting: deque[Future[JudgedBatch]] = deque()
        with ThreadPoolExecutor(_THREADS) as threads:  # NumPy and Polars work outside the interpreter's lock
            for batch in conversations:
                waiting.append(threads.submit(self._judged, batch))
                if len(waiting) > _THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _judged(self, batch: pa.RecordBatch) -> JudgedBatch:
        turns = read_turns(batch, self._cues)
        return JudgedBatch(self._rows(turns, self._model.predict(turns)))

    def report(self) -> Mapping[str, Any]:
        """Return what the model is."""
        return {"model": self._model.hash, "items": list(self._model.card.items)}

    def _rows(self, turns: Turns, predicted: Predicted) -> pa.Table:
        scores = np.round(10 * predicted.dsat, 3)
        told = scores >= _TOLD
        signs = self._signs(turns, predicted, scores, told)
        polarity = pl.col("items").struct.field("polarity")
        strength = pl.col("items").struct.field("strength").cast(pl.Float32)
        by_turn = (
            signs.with_columns(items=pl.struct("name", "polarity", "strength"))
            .group_by("at", maintain_order=True)
            .agg("items", sat_score=strength.filter(polarity == SAT).sum())
        )
        frame = turns.frame.with_columns(
            dsat_score=pl.Series(scores, dtype=pl.Float32), reason=reasons(turns, predicted, told)
        )
        rows = frame.join(by_turn, on="at", how="left", maintain_order="left").select(
            "conversation_id",
            "turn",
            pl.lit(None, pl.String).alias("label"),
            pl.col("sat_score").fill_null(0),
            "dsat_score",
            pl.col("items").fill_null([]),
            "reason",
            evidence=pl.when(pl.col("items").is_not_null()).then(pl.col("text").str.head(_EVIDENCE)),
            refusal="refusal",
            correct_refusal=pl.lit(None, pl.Boolean),
            judge=pl.lit(self.name),
            rubric=pl.lit(self.rubric.hash),
        )
        return rows.to_arrow().select(JUDGED_ROWS.names).cast(JUDGED_ROWS)

    def _signs(
        self, turns: Turns, predicted: Predicted, scores: np.ndarray, told: np.ndarray
    ) -> pl.DataFrame:
        """Return `at`, `name`, `polarity`, `strength`: phrases of satisfaction, and the item of a likely DSAT turn."""
        satisfied = self._cues.signs_in(turns.frame, SAT).select(
            "at",
            pl.col("item").alias("name"),
            pl.lit(SAT).alias("polarity"),
            pl.col("strength").cast(pl.Int8),
        )
        at = np.flatnonzero(told) if self._model.card.items else np.empty(0, np.intp)
        names = np.array([*self._model.card.items, ""])
        dissatisfied = pl.DataFrame(
            {
                "at": at,
                "name": names[self._model.named(turns.take(at))],
                "polarity": [DSAT] * len(at),
                "strength": np.clip(np.round(scores[at]), 1, 10).astype(np.int8),
            },
            schema={"at": pl.Int64, "name": pl.String, "polarity": pl.String, "strength": pl.Int8},
        )
        return pl.concat([dissatisfied, satisfied]).sort("at", maintain_order=True)


def reasons(turns: Turns, predicted: Predicted, told: np.ndarray) -> pl.Series:
    """Return what speaks for DSAT, of turns whose score says so: what the numbers show, and whose words, the loudest first."""
    found: list[str | None] = [None] * len(turns)
    columns = {name: turns.numbers[:, turns.names.index(name)] for name, _, _ in _NUMBERS}
    for at in np.flatnonzero(told):
        seen = [text for name, least, text in _NUMBERS if columns[name][at] >= least]
        loud = sorted(
            ((odds[at], field) for field, odds in predicted.said.items() if odds[at] > 0), reverse=True
        )
        if loud:
            words = ", ".join(f"{_TEXTS[field]} ({odds:+.1f})" for odds, field in loud)
            seen.append(f"wording as in complaints: {words}")
        found[at] = "; ".join(seen) or _TOGETHER
    return pl.Series(found, dtype=pl.String)
