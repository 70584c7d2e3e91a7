"""Writes the raw chats of any source to `conversations`, and the labels that come with them to a label table.

Each chat is checked and cleaned. It is then written, or dropped for the first reason that applies.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.chats.turns import count_feedback_turns, find_message_starts, mask_feedback_turns
from drift_data.convert.clean import Cleaner, Flags, hash_conversations
from drift_data.convert.ids import UniqueIds
from drift_data.convert.options import CleanOptions
from drift_data.convert.rules import CHAT_RULES, find_broken_rules, find_invalid_utf8
from drift_data.schema import CONVERSATIONS, DROPPED, DROPPED_RAW, LABEL_ROWS
from drift_data.sources.rows import EXCERPT_CHARS, Chats
from drift_data.workspace import Output

_TEXT_COLUMNS: Final = ("conversation_id", "model", "language", "country")
NO_LABEL: Final = "no_label"
INVALID_UTF8: Final = "invalid_utf8"


class ChatTable:
    """Writes chats to `conversations` and their labels to a label table, in the order of the raw files."""

    def __init__(self, source: str, output: Output, labels: Output | None, options: CleanOptions) -> None:
        self._source, self._options = source, options
        self._output, self._labels = output, labels
        self._table = output.table(CONVERSATIONS)
        self._ids = UniqueIds(source)
        self._cleaner = Cleaner(options)
        self.feedback_turns = 0
        if labels is not None:
            labels.table(LABEL_ROWS)
            labels.rows_in = 0

    def add(self, chats: Chats) -> None:
        """Check, clean and write one batch of chats."""
        table, messages = chats.table, chats.table["messages"]
        dropped = _DroppedRows(len(messages))
        for at, problem in chats.problems.items():
            dropped.add(problem, np.arange(len(messages)) == at)
        for name in _TEXT_COLUMNS:
            dropped.add(INVALID_UTF8, find_invalid_utf8(table[name]))
        codes = find_broken_rules(messages, self._options.max_message_chars, self._options.min_turns)
        for code in np.unique(codes[codes > 0]).tolist():
            dropped.add(CHAT_RULES[code - 1], codes == code)
        if (no_text := dropped.find_rows(INVALID_UTF8)).any():
            table = _blank_texts(table, no_text)
        keys = hash_conversations(messages)
        ids, changed = self._ids.assign(table["conversation_id"].to_pylist(), keys.tolist())
        for reason, rows in self._cleaner.find_reasons(table, dropped.good, keys).items():
            dropped.add(reason, rows)
        self._write_dropped(chats, table, ids, dropped)
        self._write_kept(chats, table, pa.array(ids) if changed else table["conversation_id"], dropped.good)

    def _write_kept(self, chats: Chats, table: pa.RecordBatch, ids: pa.StringArray, good: Flags) -> None:
        """Write the good rows to `conversations`, and their labels."""
        source = pa.repeat(self._source, table.num_rows)
        columns = [
            ids,
            source,
            *(table[field.name] for field in CONVERSATIONS if field.name in _COPIED_COLUMNS),
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=CONVERSATIONS)
        if not good.all():
            batch = batch.filter(pa.array(good))
        self.feedback_turns += int(count_feedback_turns(batch["messages"]).sum())
        self._table.write(batch)
        if self._labels is not None:
            self._write_labels(self._labels, chats, batch, np.flatnonzero(good))

    def _write_labels(
        self, output: Output, chats: Chats, kept: pa.RecordBatch, at: npt.NDArray[np.int64]
    ) -> None:
        """Write the labels of the kept chats, and record every feedback turn that has none.

        Args:
            output: the label table.
            chats: the raw batch, with labels in the order of its rows.
            kept: the rows that were written to `conversations`.
            at: position of each kept row in the raw batch.
        """
        messages = kept["messages"]
        turns_of = np.split(
            np.flatnonzero(mask_feedback_turns(messages)), np.cumsum(count_feedback_turns(messages))[:-1]
        )
        starts = find_message_starts(messages)
        rows: list[dict[str, Any]] = []
        dropped: list[dict[str, Any]] = []
        for number, name in enumerate(kept["conversation_id"].to_pylist()):
            labels = chats.labels[at[number]] if chats.labels is not None else ()
            why = chats.unlabelled[at[number]] if chats.unlabelled is not None else {}
            rows.extend({**label, "conversation_id": name} for label in labels)
            labelled = {label["turn"] for label in labels}
            for turn in (turns_of[number] - starts[number]).tolist():
                if turn not in labelled:
                    reason = why.get(turn, NO_LABEL)
                    dropped.append({"conversation_id": name, "turn": turn, "reason": reason, "detail": None})
        output.rows_in = (output.rows_in or 0) + sum(map(len, turns_of))
        output.table(LABEL_ROWS).write_rows(rows)
        output.drop(dropped, DROPPED)

    def _write_dropped(
        self, chats: Chats, table: pa.RecordBatch, ids: list[str], dropped: _DroppedRows
    ) -> None:
        """Record every dropped row with its place, reason and beginning."""
        at = np.flatnonzero(~dropped.good)
        if len(at) == 0:
            return
        has_id = table["conversation_id"].is_valid().to_numpy(zero_copy_only=False)
        beginnings = _read_beginnings(table["messages"], at)
        self._output.drop(
            [
                {
                    "location": f"{chats.file}:{chats.rows[row]}",
                    "conversation_id": ids[row] if has_id[row] else None,
                    "reason": dropped.reasons[row],
                    "excerpt": beginning,
                }
                for row, beginning in zip(at.tolist(), beginnings, strict=True)
            ],
            DROPPED_RAW,
        )


class _DroppedRows:
    """The rows of a batch that are dropped, each for the first reason that was given."""

    def __init__(self, count: int) -> None:
        self.good: Flags = np.ones(count, dtype=np.bool_)  # the rows that are not dropped
        self.reasons: dict[int, str] = {}  # index of a dropped row → reason

    def add(self, reason: str, rows: Flags) -> None:
        """Drop the flagged rows for a reason, unless they are dropped already."""
        rows = rows & self.good
        if rows.any():
            self.reasons |= dict.fromkeys(np.flatnonzero(rows).tolist(), reason)
            self.good = self.good & ~rows

    def find_rows(self, reason: str) -> Flags:
        """Return which rows are dropped for one reason."""
        rows: Flags = np.zeros(len(self.good), dtype=np.bool_)
        rows[[at for at, why in self.reasons.items() if why == reason]] = True
        return rows


_COPIED_COLUMNS = frozenset(CONVERSATIONS.names) - {"conversation_id", "source"}


def _blank_texts(table: pa.RecordBatch, rows: Flags) -> pa.RecordBatch:
    """Return the table with null instead of text in the flagged rows, whose text is not UTF-8."""
    mask = pa.array(rows)
    columns = [
        pc.if_else(mask, None, table[field.name]) if field.name in _TEXT_COLUMNS else table[field.name]
        for field in table.schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _read_beginnings(messages: pa.ListArray, at: npt.NDArray[np.int64]) -> list[str | None]:
    """Return the first EXCERPT_CHARS characters of the conversations at some positions; None where there is no text."""
    starts = find_message_starts(messages)
    first = np.where(starts[at + 1] > starts[at], starts[at], -1)
    contents = messages.flatten().field("content").cast(pa.binary())
    raw = pc.binary_slice(contents.take(pa.array(first, mask=first < 0)), 0, 4 * EXCERPT_CHARS).to_pylist()
    return [value.decode("utf-8", "replace")[:EXCERPT_CHARS] if value is not None else None for value in raw]
