"""Reads raw rows as dictionaries, from JSON and Parquet alike, and makes chats from such rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from drift_data.schema import MESSAGES, TableName
from drift_data.sources.columns import Layout
from drift_data.sources.fields import (
    find_first_value,
    parse_flag,
    parse_messages,
    parse_text,
    parse_timestamp,
)
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.json_rows import NumberedRow, iter_json_rows
from drift_data.sources.parquet import iter_parquet_batches, open_parquet
from drift_data.sources.rows import RAW_CHATS, ChatRow, Piece, SetAside, gather_chats
from drift_data.workspace import UserError


def iter_objects(file: RawFile, tally: Tally, table: str) -> Iterator[NumberedRow | SetAside]:
    """Yield (position, object) for every row of a JSON or Parquet file, in order."""
    if not file.is_parquet:
        yield from iter_json_rows(file, tally, table)
        return
    with open_parquet(file) as parquet:
        columns = [f"{name}.*" for name in parquet.schema_arrow.names] + parquet.schema_arrow.names
        for piece in iter_parquet_batches(file, parquet, columns, tally, table):
            if isinstance(piece, SetAside):
                yield piece
                continue
            first, batch = piece
            rows: list[dict[str, Any] | str]
            try:
                rows = batch.to_pylist()
            except (ValueError, OverflowError):
                rows = [_read_object(batch.slice(at, 1)) for at in range(batch.num_rows)]
            for at, row in enumerate(rows, first):
                if isinstance(row, str):
                    yield SetAside(table, f"{file.name}:{at}", row)
                else:
                    yield at, row


def _read_object(row: Any) -> dict[str, Any] | str:
    """Return a batch of one row as an object, or the reason why Python cannot hold it."""
    try:
        values: list[dict[str, Any]] = row.to_pylist()
    except UnicodeDecodeError:
        return "invalid_utf8"
    except (ValueError, OverflowError):  # a time after the year 9999
        return "value_out_of_range"
    return values[0]


def read_first_object(file: RawFile, among: int = 1) -> dict[str, Any] | None:
    """Return the first readable row of a file, or None if it has no readable row.

    Args:
        file: JSON or Parquet.
        among: number of readable rows to look at; keys that only later rows have are added to the first row.
    """
    rows = (row[1] for row in iter_objects(file, Tally(), "") if not isinstance(row, SetAside))
    first = next(rows, None)
    for row in islice(rows, among - 1):
        first = row | (first or {})
    return first


def check_keys(file: RawFile, row: Mapping[str, Any], required: Sequence[Sequence[str]], name: str) -> None:
    """Check that a row has at least one key of each group in `required`; `name` is the layout's name for the message.

    Raises:
        UserError: a group has no key in the row; the message lists the row's keys.
    """
    missing = [" or ".join(group) for group in required if not any(key in row for key in group)]
    if missing:
        raise UserError(
            f"{file.name} is not in the layout of {name}: {', '.join(missing)} is missing. "
            f"Its keys: {', '.join(map(str, row))[:2_000]}. Choose another SOURCE, or `chat` for own logs."
        )


def iter_object_chats(file: RawFile, layout: Layout, tally: Tally) -> Iterator[Piece]:
    """Stream the chats of one file of JSON objects that has the layout of a Parquet data set."""
    required = [[layout.messages], *(layout.columns[ours] for ours in layout.required)]

    def rows() -> Iterator[ChatRow | SetAside]:
        checked = False
        for row in iter_objects(file, tally, TableName.CONVERSATIONS):
            if isinstance(row, SetAside):
                yield row
                continue
            position, value = row
            if not checked:
                check_keys(file, value, required, layout.name)
                checked = True
            found, problem = parse_messages(value.get(layout.messages))
            values = {ours: _find_value(value, raws) for ours, raws in layout.columns.items()}
            yield ChatRow(position, fit_chat_values(values | {"messages": found}), problem)

    yield from gather_chats(file.name, rows())


def _find_value(row: Mapping[str, Any], raws: Sequence[str]) -> Any:
    """Return a row's value for the first of the raw columns it has; for "column.flag", whether any flag is true."""
    for raw in raws:
        column, _, field = raw.partition(".")
        if field and isinstance(row.get(column), list):
            return any(bool(part.get(field)) for part in row[column] if isinstance(part, Mapping))
    return find_first_value(row, *raws)


def fit_chat_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that fit RAW_CHATS; a value of the wrong type becomes null."""
    kinds = {"timestamp": parse_timestamp, "toxic": parse_flag, "redacted": parse_flag}
    return {
        field.name: values.get(field.name)
        if field.type == MESSAGES
        else kinds.get(field.name, parse_text)(values.get(field.name))
        for field in RAW_CHATS
    }
