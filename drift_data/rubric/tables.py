"""The tables that show how a rubric was learned: what came out of each conversation, and each step of the fold.

`request` is the key of the request whose answer stands in the row: the whole exchange is in the store of
requests under it.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

_ITEM: Final = pa.struct(
    [("name", pa.string()), ("definition", pa.string()), ("asks_for_change", pa.bool_())]
)
_ITEMS: Final = pa.list_(pa.field("element", _ITEM))
_TEXTS: Final = pa.list_(pa.field("element", pa.string()))

REASON_ROWS: Final = pa.schema(
    [
        pa.field("conversation_id", pa.string(), nullable=False),
        ("turn", pa.int32()),  # index of the last message that was shown; null: all were
        pa.field("label", pa.string(), nullable=False),  # SAT | DSAT
        pa.field("reasons", _TEXTS, nullable=False),  # none: the user shows no sign
        pa.field("request", pa.string(), nullable=False),
    ]
)
FOLD_ROWS: Final = pa.schema(
    [
        pa.field("polarity", pa.string(), nullable=False),  # SAT | DSAT
        pa.field("step", pa.int32(), nullable=False),  # from 1; twice where only names had to change
        pa.field("reasons", _TEXTS, nullable=False),
        pa.field("before", _ITEMS, nullable=False),
        pa.field("after", _ITEMS, nullable=False),
        ("problem", pa.string()),  # why the step changed nothing
        pa.field("request", pa.string(), nullable=False),
    ]
)
