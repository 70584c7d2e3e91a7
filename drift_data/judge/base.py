"""The interface of all judges: batches of conversations in, label rows out. Knows not how a judge works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from drift_data.chats.turns import feedback_mask, message_starts
from drift_data.judge.rubric import Rubric
from drift_data.schema import LABEL_ROWS

# What a judge is shown of a conversation.
CONVERSATION_COLUMNS: Final = ("conversation_id", "messages")
# What a judge says: the label table, but `label` may be null where the thresholds have to decide.
JUDGED_ROWS: Final = pa.schema(
    [pa.field(f.name, f.type, f.name == "label" or f.nullable) for f in LABEL_ROWS]
)


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """A feedback turn that a judge could not label: it is dropped with this reason, never guessed."""

    conversation_id: str
    turn: int
    reason: str  # few distinct values, such as "invalid_answer": they are counted
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer to one batch of conversations: each of its feedback turns once, here or there."""

    rows: pa.Table  # JUDGED_ROWS, in the order of the conversations and turns
    unlabelled: Sequence[Unlabelled] = field(default=())


class Judge(Protocol):
    """Whatever gives labels: rules, a classifier, an LLM, or the data set itself."""

    @property
    def name(self) -> str:
        """Kind and model, such as "local:rules-1"; the part before the colon names the table."""

    @property
    def rubric(self) -> Rubric | None:
        """What it looks for. None: its labels come with the data and stand, whatever the thresholds."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Everything else that determines its answers, as JSON: prompt version, sampling parameters."""

    @property
    def inputs(self) -> Sequence[str]:
        """Tables of the workspace it reads besides the conversations."""

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[Judged]:
        """Judge batches with `CONVERSATION_COLUMNS`: one `Judged` a batch, in the same order.

        A judge that has requests in flight may read some batches ahead of its answers; within a batch it
        may work in any order.
        """

    def report(self) -> Mapping[str, Any]:
        """Return what the run took (requests, tokens, price) for the manifest; asked after the last batch."""


def feedback_keys(conversations: pa.RecordBatch) -> list[tuple[str, int]]:
    """Return the keys (conversation_id, turn) of all feedback turns of a batch, in order."""
    starts = message_starts(conversations["messages"])
    at = np.flatnonzero(feedback_mask(conversations["messages"]))
    rows = np.searchsorted(starts, at, side="right") - 1
    ids = conversations["conversation_id"].take(pa.array(rows)).to_pylist()
    return list(zip(ids, (at - starts[rows]).tolist(), strict=True))
