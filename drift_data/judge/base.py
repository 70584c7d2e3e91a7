"""Defines what every judge has in common: it takes batches of conversations and returns label rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from drift_data.chats.turns import find_message_starts, mask_feedback_turns
from drift_data.judge.rubric import Rubric
from drift_data.schema import LABEL_ROWS

# The columns of `conversations` that a judge reads.
CONVERSATION_COLUMNS: Final = ("conversation_id", "messages")
# The rows that a judge returns: those of the label table, where a null `label` is left to the thresholds.
JUDGED_ROWS: Final = pa.schema(
    [pa.field(f.name, f.type, f.name == "label" or f.nullable) for f in LABEL_ROWS]
)


@dataclass(frozen=True, slots=True)
class UnlabelledTurn:
    """A feedback turn that a judge could not label. The label stage drops it with this reason and guesses nothing."""

    conversation_id: str
    turn: int
    reason: str  # one of few values, such as "invalid_answer", since the stage counts drops by reason
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class JudgedBatch:
    """A judge's answer to one batch of conversations: each feedback turn is in `rows` or in `unlabelled`, once."""

    rows: pa.Table  # schema `JUDGED_ROWS`, in the order of the conversations and their turns
    unlabelled: Sequence[UnlabelledTurn] = field(default=())


class Judge(Protocol):
    """Labels feedback turns: a classifier, a language model, or the data set's own labels."""

    @property
    def name(self) -> str:
        """Return kind and model, such as "local:rules-1"; the part before the colon names the label table."""

    @property
    def rubric(self) -> Rubric | None:
        """Return the items the judge looks for; None if its labels come with the data, so that no threshold applies."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Return everything else that determines the answers, as JSON: prompt version, sampling parameters."""

    @property
    def inputs(self) -> Sequence[str]:
        """Return the names of the workspace tables that the judge reads besides `conversations`."""

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[JudgedBatch]:
        """Judge batches with `CONVERSATION_COLUMNS`; yield one `JudgedBatch` for each, in the same order.

        A judge that has requests in flight may read some batches ahead of its answers; within a batch it
        may work in any order.
        """

    def report(self) -> Mapping[str, Any]:
        """Return what the run took (requests, tokens, price), for the manifest. The stage asks after the last batch."""


def list_feedback_keys(conversations: pa.RecordBatch) -> list[tuple[str, int]]:
    """Return the key (conversation_id, turn) of every feedback turn of a batch, in order."""
    starts = find_message_starts(conversations["messages"])
    at = np.flatnonzero(mask_feedback_turns(conversations["messages"]))
    rows = np.searchsorted(starts, at, side="right") - 1
    ids = conversations["conversation_id"].take(pa.array(rows)).to_pylist()
    return list(zip(ids, (at - starts[rows]).tolist(), strict=True))
