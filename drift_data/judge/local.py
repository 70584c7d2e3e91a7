"""The `local` judge: rules shipped as data, and requests made again. Needs no key, model or download.

It reads the ends of the user's message, the messages before it, and how the judged reply opens; not whether
the reply is right. Built for precision of DSAT: a missed complaint costs data, an invented one costs quality.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from drift_data.judge.base import JUDGED_ROWS, Judged
from drift_data.judge.cues import Cues, load_cues
from drift_data.judge.reask import asked_again
from drift_data.judge.rubric import Rubric, load_rubric
from drift_data.turns import feedback_mask, message_starts

_RULES = 1  # raised when the code below changes what is labelled
_EVIDENCE = 200  # characters


class LocalJudge:
    """Scores items by cue phrases and by comparison with the user's earlier messages."""

    inputs: Sequence[str] = ()

    def __init__(self, cues: Cues | None = None, rubric: Rubric | None = None) -> None:
        self._cues = cues or load_cues()
        self.rubric = rubric or load_rubric()
        unknown = {sign.item for sign in self._cues.signs} - self.rubric.polarities.keys()
        if unknown:
            raise ValueError(f"cues for items that the rubric does not have: {', '.join(sorted(unknown))}")
        self.name = f"local:rules-{self._cues.version}"
        self.options: Mapping[str, Any] = {"cues": self._cues.hash, "rules": _RULES}

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[Judged]:
        """Judge batch by batch; every feedback turn gets a row."""
        for batch in conversations:
            yield Judged(self._rows(feedback_frame(batch)))

    def report(self) -> Mapping[str, Any]:
        """Return nothing: it took nothing."""
        return {}

    def _rows(self, turns: pl.DataFrame) -> pa.Table:
        turns = turns.with_columns(
            refusal=self._cues.refusals(turns["reply"]),
            code=turns["reply"].str.contains("```", literal=True),
        )
        signs = self._signs(turns)
        polarity = pl.col("items").struct.field("polarity")
        strength = pl.col("items").struct.field("strength").cast(pl.Float32)
        scored = (
            signs.with_columns(items=pl.struct("name", "polarity", "strength"))
            .group_by("at", maintain_order=True)
            .agg(
                "items",
                sat_score=strength.filter(polarity == "SAT").sum(),
                dsat_score=strength.filter(polarity == "DSAT").sum(),
                reason=pl.col("why").str.join("; "),
            )
        )
        rows = turns.join(scored, on="at", how="left", maintain_order="left").select(
            "conversation_id",
            "turn",
            pl.lit(None, pl.String).alias("label"),
            pl.col("sat_score", "dsat_score").fill_null(0),
            pl.col("items").fill_null([]),
            "reason",
            evidence=pl.when(pl.col("reason").is_not_null()).then(pl.col("text").str.head(_EVIDENCE)),
            refusal="refusal",
            correct_refusal=pl.lit(None, pl.Boolean),
            judge=pl.lit(self.name),
            rubric=pl.lit(self.rubric.hash),
        )
        return rows.to_arrow().select(JUDGED_ROWS.names).cast(JUDGED_ROWS)

    def _signs(self, turns: pl.DataFrame) -> pl.DataFrame:
        """Return `at`, `name`, `polarity`, `strength`, `why` of every sign, each item once a turn."""
        phrase = pl.col("phrase").str.replace_all(r"[\x01-\x03 ]+", " ").str.strip_chars()
        phrases = self._cues.signs_in(turns).select(
            "at", "strength", name="item", why=pl.format('{}: "{}"', "item", phrase)
        )
        again = asked_again(turns).select(
            "at", "strength", name=pl.lit("Revision"), why=pl.format("Revision: {}", "how")
        )
        return (
            pl.concat([phrases, again.select(phrases.columns)])
            .sort("at", "strength", "name", descending=[False, True, False])
            .unique(["at", "name"], keep="first", maintain_order=True)
            .with_columns(
                polarity=pl.col("name").replace_strict(self.rubric.polarities, return_dtype=pl.String)
            )
        )


def feedback_frame(conversations: pa.RecordBatch) -> pl.DataFrame:
    """Return one row a feedback turn, in order.

    Columns: `at` (0, 1, …), `conversation_id`, `turn`, `text` (the user's message), `reply` (the judged one),
    `before` (the previous user message, null at first), `seen` (the user sent the very same text earlier).
    """
    messages = conversations["messages"]
    starts, flat = message_starts(messages), messages.flatten()
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    every = pl.DataFrame(
        {
            "row": row,
            "turn": np.arange(len(row)) - starts[row],
            "feedback": feedback_mask(messages),
            "role": pl.Series(flat.field("role")),
            "text": pl.Series(flat.field("content")).fill_null(""),
        }
    )
    user = every.with_columns(reply=pl.col("text").shift(1)).filter(pl.col("role") == "user")
    turns = user.with_columns(
        before=pl.col("text").shift(1).over("row"),
        seen=pl.int_range(pl.len()).over("row", pl.col("text").str.strip_chars()) > 0,
    ).filter("feedback")
    ids = conversations["conversation_id"].take(turns["row"].to_arrow())
    return turns.with_row_index("at").with_columns(conversation_id=pl.Series(ids, dtype=pl.String))
