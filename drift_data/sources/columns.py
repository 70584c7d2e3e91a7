"""Chats from Arrow batches of a known layout, without a Python object a message. Checks only the columns.

A layout says which raw columns may hold each of ours; the first that the file has is taken. A field of a list
of structs is written "conversation.role".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.schema import MESSAGE, MESSAGES, TableName
from drift_data.sources.fields import timestamp
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.parquet import leaves, open_parquet, parquet_batches
from drift_data.sources.rows import RAW_CHATS, Chats, SetAside
from drift_data.workspace import UserError

_UTC = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps what the conversation table holds."""

    name: str  # of the data set, for messages
    messages: str  # column with list<struct<role, content, …>>
    columns: Mapping[str, Sequence[str]]  # our column → raw columns that may hold it
    required: Sequence[str] = ("conversation_id",)  # of ours, besides the messages
    any_true: Sequence[str] = ()  # ours that are true when any of a list of flags is


def parquet_chats(file: RawFile, layout: Layout, tally: Tally) -> Iterator[Chats | SetAside]:
    """Stream the chats of one Parquet file.

    Raises:
        UserError: it is no Parquet file, or has another layout; the message lists its columns.
    """
    with open_parquet(file) as parquet:
        found: dict[str, str] = {}
        for ours, raws in layout.columns.items():
            there = [raw for raw in raws if leaves(parquet, [raw])]
            if there:
                found[ours] = there[0]
        texts = [f"{layout.messages}.{field}" for field in MESSAGE.names]
        missing = [raw for raw in texts if not leaves(parquet, [raw])]
        missing += [" or ".join(layout.columns[ours]) for ours in layout.required if ours not in found]
        if missing:
            raise UserError(
                f"{file.name} is not in the layout of {layout.name}: {', '.join(missing)} is missing. "
                f"Its columns: {describe(parquet.schema_arrow)}. Choose another SOURCE."
            )
        wanted = [*found.values(), *texts]
        for piece in parquet_batches(file, parquet, wanted, tally, TableName.CONVERSATIONS):
            if isinstance(piece, SetAside):
                yield piece
                continue
            first, batch = piece
            rows = np.arange(first, first + batch.num_rows, dtype=np.int64)
            try:
                table = chats_from_batch(batch, layout, found)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise UserError(
                    f"{file.name} is not in the layout of {layout.name}: a column has another type ({error}). "
                    f"Its columns: {describe(parquet.schema_arrow)}."
                ) from error
            yield Chats(file.name, rows, table)


def chats_from_batch(batch: pa.RecordBatch, layout: Layout, found: Mapping[str, str]) -> pa.RecordBatch:
    """Return a batch in the layout as RAW_CHATS. `found`: our column → the raw one that holds it."""
    columns = []
    for field in RAW_CHATS:
        if field.name == "messages":
            columns.append(messages_of(batch[layout.messages]))
        elif field.name not in found:
            columns.append(pa.nulls(batch.num_rows, field.type))
        elif field.name in layout.any_true:
            column, _, flag = found[field.name].partition(".")
            columns.append(_any(batch[column], flag))
        elif field.type == _UTC:
            columns.append(_timestamps(batch[found[field.name]]))
        else:
            columns.append(_cast(batch[found[field.name]], field.type))
    return pa.RecordBatch.from_arrays(columns, schema=RAW_CHATS)


def messages_of(column: pa.ListArray) -> pa.ListArray:
    """Return a column of lists of structs as MESSAGES: roles and contents only, nulls kept."""
    values, offsets = _flat(column)
    fields = [_cast(values.field(name), pa.string()) for name in MESSAGE.names]
    mask = values.is_null() if values.null_count else None
    structs = pa.StructArray.from_arrays(fields, fields=list(MESSAGE), mask=mask)
    missing = column.is_null() if column.null_count else None
    return pa.ListArray.from_arrays(offsets, structs, type=MESSAGES, mask=missing)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column as another type; bytes that are no UTF-8 pass, they are looked for later."""
    return column.cast(options=pc.CastOptions(kind, allow_invalid_utf8=True))


def _flat(column: pa.ListArray) -> tuple[pa.Array, pa.Array]:
    """Return the values that a column of lists refers to, and offsets into them that begin at 0."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return column.flatten(), pa.array(offsets.astype(np.int32))


def _any(column: pa.ListArray, field: str) -> pa.BooleanArray:
    """Return for every list of structs whether a flag is true in any; null for a null list."""
    values, offsets = _flat(column)
    flags = values.field(field).fill_null(False).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(flags)])
    at = offsets.to_numpy()
    return pa.array(before[at[1:]] > before[at[:-1]], mask=column.is_null().to_numpy(zero_copy_only=False))


def _timestamps(column: pa.Array) -> pa.TimestampArray:
    """Return times as UTC microseconds. Without a zone it is UTC; what is no time becomes null."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(_UTC)
    return pa.array([timestamp(value) for value in column.to_pylist()], _UTC)


def describe(schema: pa.Schema) -> str:
    """Return the columns of a file with their types, short enough for a message."""
    return ", ".join(f"{field.name} ({str(field.type)[:80]})" for field in schema)[:2_000]
