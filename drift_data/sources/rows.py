"""Defines what every source hands to `convert`: chats as Arrow batches, ready examples, and rows that give nothing.

Nothing is checked yet; `convert` deals with nulls, unknown roles and repeated ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from drift_data.schema import CONVERSATIONS

# Columns of the chats that a source hands over; everything may be null, and `convert` adds the column `source`.
RAW_CHATS: Final = pa.schema([pa.field(f.name, f.type) for f in CONVERSATIONS if f.name != "source"])
EXCERPT_CHARS: Final = 200  # number of characters that are recorded of a row that is set aside
_BATCH_ROWS, _BATCH_CHARS = 1_000, 8 << 20  # a batch ends when either number is reached


@dataclass(frozen=True, slots=True)
class SetAside:
    """One raw row that gives no chat and no example, with the reason."""

    table: str  # table that the row would have gone to
    location: str  # "file:row"
    reason: str
    excerpt: str | None = None  # beginning of the raw row

    def make_dropped_row(self) -> dict[str, Any]:
        """Return the raw row as a row of DROPPED_RAW."""
        return {
            "location": self.location,
            "conversation_id": None,
            "reason": self.reason,
            "excerpt": self.excerpt,
        }


@dataclass(frozen=True, slots=True)
class Chats:
    """A batch of chats of one file."""

    file: str
    rows: npt.NDArray[np.int64]  # positions of the chats in the file, (chats,)
    table: pa.RecordBatch  # the chats, with schema RAW_CHATS
    # Index in the batch → why the chat is set aside.
    problems: Mapping[int, str] = field(default_factory=dict)
    # `ChatRow.labels` of each chat; None if the data carries no labels.
    labels: Sequence[Sequence[Mapping[str, Any]]] | None = None
    unlabelled: Sequence[Mapping[int, str]] | None = None  # `ChatRow.unlabelled` of each chat


@dataclass(frozen=True, slots=True)
class ReadyExample:
    """One row of `preferences`, `dsat`, `sat` or `seed` that the data set carries, or why the raw row gives none."""

    row: int  # position in the file
    values: Mapping[str, Any] | None  # columns of the table; `convert` makes a missing id or split
    reason: str | None = None  # why the raw row gives no example
    excerpt: str | None = None  # beginning of a raw row that gives no example


@dataclass(frozen=True, slots=True)
class ReadyExamples:
    """A batch of ready examples of one file, for one table."""

    table: str
    file: str
    examples: Sequence[ReadyExample]


Piece = Chats | ReadyExamples | SetAside


@dataclass(frozen=True, slots=True)
class ChatRow:
    """One chat that a source found in JSON."""

    row: int  # position in the file
    values: Mapping[str, Any]  # columns of RAW_CHATS; a missing column is null
    problem: str | None = None  # why the chat is set aside, if the source knows a reason
    labels: Sequence[Mapping[str, Any]] = ()  # rows of the label table; `convert` fills in `conversation_id`
    unlabelled: Mapping[int, str] = field(default_factory=dict)  # feedback turn without a label → reason


def gather_chats(file: str, rows: Iterable[ChatRow | SetAside], labelled: bool = False) -> Iterator[Piece]:
    """Gather chats into batches of some megabytes; rows set aside pass through."""
    waiting: list[ChatRow] = []
    size = 0
    for row in rows:
        if isinstance(row, SetAside):
            yield row
            continue
        waiting.append(row)
        size += sum(len(message["content"] or "") for message in row.values.get("messages") or ())
        if len(waiting) >= _BATCH_ROWS or size >= _BATCH_CHARS:
            yield _make_chats(file, waiting, labelled)
            waiting, size = [], 0
    if waiting:
        yield _make_chats(file, waiting, labelled)


def _make_chats(file: str, rows: Sequence[ChatRow], labelled: bool) -> Chats:
    """Return chats as one batch; a chat that UTF-8 cannot hold is set aside."""
    problems = {at: row.problem for at, row in enumerate(rows) if row.problem is not None}
    values = [row.values for row in rows]
    try:
        table = pa.RecordBatch.from_pylist(values, schema=RAW_CHATS)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write and UTF-8 cannot
        no_text = {at for at, row in enumerate(values) if not _is_utf8_row(row)}
        problems |= dict.fromkeys(no_text, "invalid_utf8")
        kept = [{} if at in no_text else row for at, row in enumerate(values)]
        table = pa.RecordBatch.from_pylist(kept, schema=RAW_CHATS)
    return Chats(
        file,
        np.array([row.row for row in rows], dtype=np.int64),
        table,
        problems,
        [row.labels for row in rows] if labelled else None,
        [row.unlabelled for row in rows] if labelled else None,
    )


def _is_utf8_row(row: Mapping[str, Any]) -> bool:
    """Return whether UTF-8 can hold every text of a row."""
    try:
        pa.RecordBatch.from_pylist([row], schema=RAW_CHATS)
    except UnicodeEncodeError:
        return False
    return True


def gather_examples(table: str, file: str, rows: Iterable[ReadyExample | SetAside]) -> Iterator[Piece]:
    """Gather examples of one file and table into batches; rows set aside pass through."""
    waiting: list[ReadyExample] = []
    for row in rows:
        if isinstance(row, SetAside):
            yield row
            continue
        waiting.append(row)
        if len(waiting) >= _BATCH_ROWS:
            yield ReadyExamples(table, file, waiting)
            waiting = []
    if waiting:
        yield ReadyExamples(table, file, waiting)


def cut_excerpt(value: object) -> str:
    """Return the first EXCERPT_CHARS characters of a raw row, safe to store."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:EXCERPT_CHARS].encode("utf-8", "replace").decode()
