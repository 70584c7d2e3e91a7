"""What every source hands to `convert`: chats as Arrow batches, ready examples, and rows that cannot be read.

Nothing here is checked yet: nulls, unknown roles and repeated ids are `convert`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from drift_data.schema import CONVERSATIONS

# The conversation table as a source finds it: everything may be null. `source` is added later.
RAW_CHATS: Final = pa.schema([pa.field(f.name, f.type) for f in CONVERSATIONS if f.name != "source"])
EXCERPT: Final = 200  # characters of a row that was set aside
_BATCH_ROWS, _BATCH_CHARS = 1_000, 8 << 20


@dataclass(frozen=True, slots=True)
class SetAside:
    """One raw row that gives nothing, with the reason."""

    table: str  # that it would have gone to
    location: str  # file:row
    reason: str
    excerpt: str | None = None

    def dropped(self) -> dict[str, Any]:
        """Return it as a row of DROPPED_RAW."""
        return {
            "location": self.location,
            "conversation_id": None,
            "reason": self.reason,
            "excerpt": self.excerpt,
        }


@dataclass(frozen=True, slots=True)
class Chats:
    """Some chats of one file."""

    file: str
    rows: npt.NDArray[np.int64]  # their positions in the file
    table: pa.RecordBatch  # RAW_CHATS
    problems: Mapping[int, str] = field(default_factory=dict)  # index in the batch → why it is set aside
    labels: Sequence[Sequence[Mapping[str, Any]]] | None = None  # as in ChatRow, if the data carries labels
    unlabelled: Sequence[Mapping[int, str]] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One row of `preferences`, `dsat`, `sat` or `seed`, or the reason why it is none."""

    row: int  # position in the file
    values: Mapping[str, Any] | None  # columns of the table; an id or split that is missing is made later
    reason: str | None = None
    excerpt: str | None = None


@dataclass(frozen=True, slots=True)
class Examples:
    """Some examples of one file, for one table."""

    table: str
    file: str
    examples: Sequence[Example]


Piece = Chats | Examples | SetAside


@dataclass(frozen=True, slots=True)
class ChatRow:
    """One chat as a source finds it in JSON."""

    row: int  # position in the file
    values: Mapping[str, Any]  # columns of RAW_CHATS; what is missing is null
    problem: str | None = None  # why it is set aside, if the source knows already
    labels: Sequence[Mapping[str, Any]] = ()  # rows of the label table; `convert` fills in `conversation_id`
    unlabelled: Mapping[int, str] = field(default_factory=dict)  # feedback turn without label → reason


def chats_from_rows(file: str, rows: Iterable[ChatRow | SetAside], labelled: bool = False) -> Iterator[Piece]:
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
            yield _batch(file, waiting, labelled)
            waiting, size = [], 0
    if waiting:
        yield _batch(file, waiting, labelled)


def _batch(file: str, rows: Sequence[ChatRow], labelled: bool) -> Chats:
    problems = {at: row.problem for at, row in enumerate(rows) if row.problem is not None}
    values = [row.values for row in rows]
    try:
        table = pa.RecordBatch.from_pylist(values, schema=RAW_CHATS)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write and UTF-8 cannot
        no_text = {at for at, row in enumerate(values) if not _is_text(row)}
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


def _is_text(row: Mapping[str, Any]) -> bool:
    try:
        pa.RecordBatch.from_pylist([row], schema=RAW_CHATS)
    except UnicodeEncodeError:
        return False
    return True


def examples_from_rows(table: str, file: str, rows: Iterable[Example | SetAside]) -> Iterator[Piece]:
    """Gather examples of one file and table into batches; rows set aside pass through."""
    waiting: list[Example] = []
    for row in rows:
        if isinstance(row, SetAside):
            yield row
            continue
        waiting.append(row)
        if len(waiting) >= _BATCH_ROWS:
            yield Examples(table, file, waiting)
            waiting = []
    if waiting:
        yield Examples(table, file, waiting)


def excerpt(value: object) -> str:
    """Return the beginning of a raw row, safe to store."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:EXCERPT].encode("utf-8", "replace").decode()
