"""Reads chats from Parquet files of a known layout as Arrow batches, without a Python object for each message.

A layout names the raw columns that may hold each column of ours; the first that the file has is read. A field in a list
of structs is written "conversation.role". Only the columns are checked here, not the chats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.schema import MESSAGE, MESSAGES, TableName
from drift_data.sources.fields import parse_timestamp
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.parquet import find_leaves, iter_parquet_batches, open_parquet
from drift_data.sources.rows import RAW_CHATS, Chats, SetAside
from drift_data.workspace import UserError

_UTC = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Layout:
    """The raw columns in which a data set keeps what `conversations` holds."""

    name: str  # name of the data set in error messages
    messages: str  # raw column of type list<struct<role, content, …>>
    columns: Mapping[str, Sequence[str]]  # our column → raw columns that may hold it
    required: Sequence[str] = ("conversation_id",)  # our columns that a file must have, besides the messages
    any_true: Sequence[str] = ()  # our columns that are true if any flag in a raw list of structs is true


def iter_parquet_chats(file: RawFile, layout: Layout, tally: Tally) -> Iterator[Chats | SetAside]:
    """Stream the chats of one Parquet file.

    Raises:
        UserError: it is not a Parquet file, or has another layout; the message lists its columns.
    """
    with open_parquet(file) as parquet:
        found: dict[str, str] = {}
        for ours, raws in layout.columns.items():
            there = [raw for raw in raws if find_leaves(parquet, [raw])]
            if there:
                found[ours] = there[0]
        texts = [f"{layout.messages}.{field}" for field in MESSAGE.names]
        missing = [raw for raw in texts if not find_leaves(parquet, [raw])]
        missing += [" or ".join(layout.columns[ours]) for ours in layout.required if ours not in found]
        if missing:
            raise UserError(
                f"{file.name} is not in the layout of {layout.name}: {', '.join(missing)} is missing. "
                f"Its columns: {describe_columns(parquet.schema_arrow)}. Choose another SOURCE."
            )
        wanted = [*found.values(), *texts]
        for piece in iter_parquet_batches(file, parquet, wanted, tally, TableName.CONVERSATIONS):
            if isinstance(piece, SetAside):
                yield piece
                continue
            first, batch = piece
            rows = np.arange(first, first + batch.num_rows, dtype=np.int64)
            try:
                table = build_chat_batch(batch, layout, found)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise UserError(
                    f"{file.name} is not in the layout of {layout.name}: a column has another type ({error}). "
                    f"Its columns: {describe_columns(parquet.schema_arrow)}."
                ) from error
            yield Chats(file.name, rows, table)


def build_chat_batch(batch: pa.RecordBatch, layout: Layout, found: Mapping[str, str]) -> pa.RecordBatch:
    """Return a raw batch as a batch of RAW_CHATS.

    Args:
        batch: raw rows.
        layout: the layout of the raw rows.
        found: our column → the raw column that holds it; a column of ours without one becomes null.
    """
    columns = []
    for field in RAW_CHATS:
        if field.name == "messages":
            columns.append(build_messages(batch[layout.messages]))
        elif field.name not in found:
            columns.append(pa.nulls(batch.num_rows, field.type))
        elif field.name in layout.any_true:
            column, _, flag = found[field.name].partition(".")
            columns.append(_find_any_flag(batch[column], flag))
        elif field.type == _UTC:
            columns.append(_parse_timestamps(batch[found[field.name]]))
        else:
            columns.append(_cast_column(batch[found[field.name]], field.type))
    return pa.RecordBatch.from_arrays(columns, schema=RAW_CHATS)


def build_messages(column: pa.ListArray) -> pa.ListArray:
    """Return a column of lists of structs as MESSAGES: only roles and contents stay, and nulls stay null."""
    values, offsets = _flatten_lists(column)
    fields = [_cast_column(values.field(name), pa.string()) for name in MESSAGE.names]
    mask = values.is_null() if values.null_count else None
    structs = pa.StructArray.from_arrays(fields, fields=list(MESSAGE), mask=mask)
    missing = column.is_null() if column.null_count else None
    return pa.ListArray.from_arrays(offsets, structs, type=MESSAGES, mask=missing)


def _cast_column(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column as another type; bytes that are not UTF-8 pass, because `convert` looks for them later."""
    return column.cast(options=pc.CastOptions(kind, allow_invalid_utf8=True))


def _flatten_lists(column: pa.ListArray) -> tuple[pa.Array, pa.Array]:
    """Return the values of a column of lists, and offsets into them that begin at 0."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return column.flatten(), pa.array(offsets.astype(np.int32))


def _find_any_flag(column: pa.ListArray, field: str) -> pa.BooleanArray:
    """Return for every list of structs whether a flag is true in any of them; null for a null list."""
    values, offsets = _flatten_lists(column)
    flags = values.field(field).fill_null(False).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(flags)])
    at = offsets.to_numpy()
    return pa.array(before[at[1:]] > before[at[:-1]], mask=column.is_null().to_numpy(zero_copy_only=False))


def _parse_timestamps(column: pa.Array) -> pa.TimestampArray:
    """Return times as UTC microseconds; a time without a zone counts as UTC, and any other value becomes null."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(_UTC)
    return pa.array([parse_timestamp(value) for value in column.to_pylist()], _UTC)


def describe_columns(schema: pa.Schema) -> str:
    """Return the columns of a file with their types as text, short enough for a message."""
    return ", ".join(f"{field.name} ({str(field.type)[:80]})" for field in schema)[:2_000]
