"""Reads WildChat-1M, WildChat-4.8M and the older WildChat, as Parquet or JSON. Headers and IP hashes are not read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drift_data.schema import TableName
from drift_data.sources.columns import Layout, iter_parquet_chats
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import iter_object_chats
from drift_data.sources.rows import Piece

WILDCHAT_LAYOUT = Layout(
    name="WildChat",
    messages="conversation",
    columns={
        "conversation_id": ("conversation_hash", "conversation_id"),
        "model": ("model",),
        "timestamp": ("timestamp",),
        "language": ("language",),
        "country": ("country",),
        "toxic": ("toxic",),
        "redacted": ("redacted",),
    },
)


def list_tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the names of the tables that WildChat gives."""
    return (TableName.CONVERSATIONS,)


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the chats of all files."""
    for file in files:
        yield from (iter_parquet_chats if file.is_parquet else iter_object_chats)(
            file, WILDCHAT_LAYOUT, tally
        )
