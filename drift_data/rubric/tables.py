"""Schemas of the tables that show how a rubric was learned: the reasons of each conversation, and the fold's steps.

The column `request` is the key of the request whose answer stands in the row. The store of requests has the whole
exchange under this key.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from drift_data.schema import TEXTS, define_column, define_table

_ITEM: Final = pa.struct(
    [("name", pa.string()), ("definition", pa.string()), ("asks_for_change", pa.bool_())]
)
_ITEMS: Final = pa.list_(pa.field("element", _ITEM))
_REQUEST: Final = define_column(
    "request", pa.string(), "key of the request whose answer stands in the row", required=True
)

REASON_ROWS: Final = define_table(
    "rubric/reasons",
    "a conversation that a rubric was learned from",
    [
        define_column("conversation_id", pa.string(), "the chat", required=True),
        define_column(
            "turn", pa.int32(), "index of the last message that was shown; null: all messages were shown"
        ),
        define_column("label", pa.string(), "`SAT` or `DSAT`: the thumb", required=True),
        define_column(
            "reasons", TEXTS, "why the user gave the thumb; empty: the user shows no sign", required=True
        ),
        _REQUEST,
    ],
)
FOLD_ROWS: Final = define_table(
    "rubric/folds",
    "a step in which reasons are folded into the items of one side",
    [
        define_column("polarity", pa.string(), "`SAT` or `DSAT`: the side", required=True),
        define_column(
            "step",
            pa.int32(),
            "number of the step, from 1; there are two rows if it was repeated for other names",
            required=True,
        ),
        define_column("reasons", TEXTS, "the reasons that the step folds in", required=True),
        define_column("before", _ITEMS, "items before the step", required=True),
        define_column("after", _ITEMS, "items after the step", required=True),
        define_column("problem", pa.string(), "why the step changed nothing; null: its answer was used"),
        _REQUEST,
    ],
)
