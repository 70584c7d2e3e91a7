"""Reads LMSYS-Chat-1M, as Parquet or JSON. A chat is toxic if the moderation flagged any of its messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drift_data.schema import TableName
from drift_data.sources.columns import Layout, iter_parquet_chats
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import iter_object_chats
from drift_data.sources.rows import Piece

LMSYS_LAYOUT = Layout(
    name="LMSYS-Chat-1M",
    messages="conversation",
    columns={
        "conversation_id": ("conversation_id",),
        "model": ("model",),
        "timestamp": ("tstamp", "timestamp"),
        "language": ("language",),
        "toxic": ("openai_moderation.flagged",),
        "redacted": ("redacted",),
    },
    any_true=("toxic",),
)


def list_tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the names of the tables that LMSYS-Chat-1M gives."""
    return (TableName.CONVERSATIONS,)


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the chats of all files."""
    for file in files:
        yield from (iter_parquet_chats if file.is_parquet else iter_object_chats)(file, LMSYS_LAYOUT, tally)
