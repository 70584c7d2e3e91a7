"""Raw chats → the `conversations` table and the labels that came with them. Knows no source.

Each chat is checked, cleaned, and written or set aside under the first reason that applies.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.chats.turns import count_feedback_turns, find_message_starts, mask_feedback_turns
from drift_data.convert.clean import Cleaner, CleanOptions, Flags, conversation_keys
from drift_data.convert.ids import Ids
from drift_data.convert.rules import RULES, broken_rules, invalid_utf8
from drift_data.schema import CONVERSATIONS, DROPPED, DROPPED_RAW, LABEL_ROWS
from drift_data.sources.rows import EXCERPT, Chats
from drift_data.workspace import Output

_TEXTS: Final = ("conversation_id", "model", "language", "country")
NO_LABEL: Final = "no_label"
INVALID_UTF8: Final = "invalid_utf8"


class ChatTable:
    """Writes chats, in order."""

    def __init__(self, source: str, output: Output, labels: Output | None, options: CleanOptions) -> None:
        self._source, self._options = source, options
        self._output, self._labels = output, labels
        self._table = output.table(CONVERSATIONS)
        self._ids = Ids(source)
        self._cleaner = Cleaner(options)
        self.feedback_turns = 0
        if labels is not None:
            labels.table(LABEL_ROWS)
            labels.rows_in = 0

    def add(self, chats: Chats) -> None:
        """Check, clean and write some chats."""
        table, messages = chats.table, chats.table["messages"]
        out = _Leaving(len(messages))
        for at, problem in chats.problems.items():
            out.leave(problem, np.arange(len(messages)) == at)
        for name in _TEXTS:
            out.leave(INVALID_UTF8, invalid_utf8(table[name]))
        codes = broken_rules(messages, self._options.max_message_chars, self._options.min_turns)
        for code in np.unique(codes[codes > 0]).tolist():
            out.leave(RULES[code - 1], codes == code)
        if (no_text := out.under(INVALID_UTF8)).any():
            table = _without_texts(table, no_text)
        keys = conversation_keys(messages)
        ids, changed = self._ids.assign(table["conversation_id"].to_pylist(), keys.tolist())
        for reason, rows in self._cleaner.reasons(table, out.good, keys).items():
            out.leave(reason, rows)
        self._set_aside(chats, table, ids, out)
        self._keep(chats, table, pa.array(ids) if changed else table["conversation_id"], out.good)

    def _keep(self, chats: Chats, table: pa.RecordBatch, ids: pa.StringArray, good: Flags) -> None:
        source = pa.repeat(self._source, table.num_rows)
        columns = [ids, source, *(table[field.name] for field in CONVERSATIONS if field.name in _KEPT)]
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

    def _set_aside(self, chats: Chats, table: pa.RecordBatch, ids: list[str], out: _Leaving) -> None:
        at = np.flatnonzero(~out.good)
        if len(at) == 0:
            return
        own = table["conversation_id"].is_valid().to_numpy(zero_copy_only=False)
        beginnings = _beginnings(table["messages"], at)
        self._output.drop(
            [
                {
                    "location": f"{chats.file}:{chats.rows[row]}",
                    "conversation_id": ids[row] if own[row] else None,
                    "reason": out.reasons[row],
                    "excerpt": beginning,
                }
                for row, beginning in zip(at.tolist(), beginnings, strict=True)
            ],
            DROPPED_RAW,
        )


class _Leaving:
    """Which rows of a batch leave, each for the first reason given."""

    def __init__(self, count: int) -> None:
        self.good: Flags = np.ones(count, dtype=np.bool_)
        self.reasons: dict[int, str] = {}

    def leave(self, reason: str, rows: Flags) -> None:
        """Let rows leave, unless they have left already."""
        rows = rows & self.good
        if rows.any():
            self.reasons |= dict.fromkeys(np.flatnonzero(rows).tolist(), reason)
            self.good = self.good & ~rows

    def under(self, reason: str) -> Flags:
        """Return the rows that leave for one reason."""
        rows: Flags = np.zeros(len(self.good), dtype=np.bool_)
        rows[[at for at, why in self.reasons.items() if why == reason]] = True
        return rows


_KEPT = frozenset(CONVERSATIONS.names) - {"conversation_id", "source"}


def _without_texts(table: pa.RecordBatch, rows: Flags) -> pa.RecordBatch:
    """Return the table with the texts of some rows, which are not UTF-8, as null."""
    mask = pa.array(rows)
    columns = [
        pc.if_else(mask, None, table[field.name]) if field.name in _TEXTS else table[field.name]
        for field in table.schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _beginnings(messages: pa.ListArray, at: npt.NDArray[np.int64]) -> list[str | None]:
    """Return the beginning of the first message of some conversations, None where there is no text."""
    starts = find_message_starts(messages)
    first = np.where(starts[at + 1] > starts[at], starts[at], -1)
    contents = messages.flatten().field("content").cast(pa.binary())
    raw = pc.binary_slice(contents.take(pa.array(first, mask=first < 0)), 0, 4 * EXCERPT).to_pylist()
    return [value.decode("utf-8", "replace")[:EXCERPT] if value is not None else None for value in raw]
