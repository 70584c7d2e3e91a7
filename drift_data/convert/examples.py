"""Writes the ready examples that a data set carries to `preferences`, `dsat`, `sat` or `seed`.

Prompt and reply together must meet the rules for chats. A pair needs two different replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from drift_data.chats.order import choose_split
from drift_data.convert.clean import Cleaner, hash_conversations
from drift_data.convert.ids import UniqueIds
from drift_data.convert.options import CleanOptions
from drift_data.convert.rules import CHAT_RULES, find_broken_rules
from drift_data.schema import DROPPED_RAW, MESSAGES
from drift_data.sources.fields import replace_surrogates
from drift_data.sources.rows import EXCERPT_CHARS, ReadyExample, ReadyExamples
from drift_data.workspace import Output

_REPLY_COLUMNS = ("chosen", "rejected")


class ExampleTable:
    """Writes the examples of one table, in the order of the raw files.

    Only three of the cleaning options apply: evaluation prompts, message length and exact duplicates. Examples state no
    language and no toxicity, and are too short for near duplicates.
    """

    def __init__(
        self, source: str, output: Output, schema: pa.Schema, options: CleanOptions, test_fraction: float
    ) -> None:
        self._output, self._schema, self._options = output, schema, options
        self._test_fraction = test_fraction  # applies to rows without a split of their own
        self._table = output.table(schema)
        self._ids = UniqueIds(source)
        exact = "off" if options.deduplicate == "off" else "exact"
        self._cleaner = Cleaner(options.model_copy(update={"deduplicate": exact}))

    def add(self, examples: ReadyExamples) -> None:
        """Check, clean and write one batch of examples."""
        rows = [dict(example.values or {}) for example in examples.examples]
        reasons = [example.reason for example in examples.examples]
        for at, row in enumerate(rows):
            if reasons[at] is None:
                reasons[at] = self._find_problem(row)
        good = [at for at, reason in enumerate(reasons) if reason is None]
        if good:
            self._check_rows(rows, reasons, good)
        dropped = []
        kept = []
        for at, example in enumerate(examples.examples):
            if reasons[at] is None:
                kept.append(rows[at])
            else:
                dropped.append(_make_dropped_row(examples.file, example, rows[at], reasons[at]))
        self._table.write_rows(kept)
        self._output.drop(dropped, DROPPED_RAW)

    def _find_problem(self, row: Mapping[str, Any]) -> str | None:
        """Return why Arrow cannot hold a row, or that a reply is missing or both are equal; None if all is well."""
        replies = [row[name] for name in _REPLY_COLUMNS if name in row]
        if not all(replies):
            return "no_reply"
        if len(replies) == 2 and replies[0] == replies[1]:
            return "chosen_equals_rejected"
        messages = [*row["prompt"], *(message for reply in replies for message in reply)]
        texts = [row.get(name) for name in ("conversation_id", "feedback", "reason")]
        texts += [text for message in messages for text in message.values()] + list(row.get("items") or ())
        try:
            "".join(text or "" for text in texts).encode()
        except UnicodeEncodeError:
            return "invalid_utf8"
        return None

    def _check_rows(self, rows: list[dict[str, Any]], reasons: list[str | None], good: list[int]) -> None:
        """Check and clean the rows that Arrow can hold.

        Args:
            rows: all rows of the batch; ids and splits are filled in.
            reasons: why each row is dropped, or None; filled in.
            good: positions of the rows to check.
        """
        sides = [name for name in _REPLY_COLUMNS if name in self._schema.names]
        dialogues = [
            pa.array([rows[at]["prompt"] + rows[at][side] for at in good], MESSAGES) for side in sides
        ]
        prompts = hash_conversations(pa.array([rows[at]["prompt"] for at in good], MESSAGES)).tolist()
        turns = [rows[at]["turn"] for at in good] if "turn" in self._schema.names else None
        ids, _ = self._ids.assign([rows[at].get("conversation_id") for at in good], prompts, turns)
        keys = np.array(
            [
                xxhash.xxh3_64_intdigest(b"".join(key.to_bytes(8) for key in each))
                for each in zip(*(hash_conversations(d).tolist() for d in dialogues), strict=True)
            ],
            np.uint64,
        )
        fine = np.ones(len(good), dtype=np.bool_)
        for dialogue in dialogues:
            codes = find_broken_rules(dialogue, self._options.max_message_chars)
            for number in np.flatnonzero(codes).tolist():
                reasons[good[number]] = reasons[good[number]] or CHAT_RULES[codes[number] - 1]
            fine &= codes == 0
        batch = pa.RecordBatch.from_arrays([dialogues[0]], names=["messages"])
        for reason, flags in self._cleaner.find_reasons(batch, fine, keys).items():
            for number in np.flatnonzero(flags).tolist():
                reasons[good[number]] = reason
        for at, name in zip(good, ids, strict=True):
            rows[at]["conversation_id"] = name
            rows[at].setdefault("split", choose_split(name, self._test_fraction))


def _make_dropped_row(
    file: str, example: ReadyExample, row: Mapping[str, Any], reason: str | None
) -> dict[str, Any]:
    excerpt = example.excerpt
    if excerpt is None and row.get("prompt"):
        excerpt = replace_surrogates(str(row["prompt"][0]["content"])[:EXCERPT_CHARS])
    own = row.get("conversation_id")
    return {
        "location": f"{file}:{example.row}",
        "conversation_id": replace_surrogates(own) if own else None,
        "reason": reason,
        "excerpt": excerpt,
    }
