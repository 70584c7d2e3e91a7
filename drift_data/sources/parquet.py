"""Streams raw Parquet files as Arrow batches with bounded memory.

Only the requested leaf columns are decoded, one row group at a time. If a row group cannot be decoded, each of its rows
is set aside. A file without a footer is not a Parquet file and stops the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.rows import SetAside
from drift_data.workspace import UserError

BATCH_BYTES = 32 << 20  # size of a decoded batch, by the file's own estimate
MAX_BATCH_ROWS = 5_000
UNREADABLE_ROW_GROUP = "unreadable_row_group"


@contextmanager
def open_parquet(file: RawFile) -> Iterator[pq.ParquetFile]:
    """Open a raw file as Parquet.

    Raises:
        UserError: the file is empty, cut off, or of another kind.
    """
    try:
        if file.on_hub:
            parquet = pq.ParquetFile(file.open(), pre_buffer=True)  # makes few, long requests
        else:
            parquet = pq.ParquetFile(file.url, buffer_size=1 << 20)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{file.name} is not a whole Parquet file ({error}). Get it again, or leave it out."
        ) from error
    with parquet:
        yield parquet


def find_leaves(parquet: pq.ParquetFile, wanted: Sequence[str]) -> list[str]:
    """Return the full paths of the wanted leaf columns that the file has.

    A name is a column ("model"), a field of a list of structs ("conversation.role"), or a whole nested column
    ("messages.*").
    """
    paths = [parquet.schema.column(i).path for i in range(len(parquet.schema))]
    found = []
    for path in paths:
        parts = path.split(".")
        if (
            path in wanted
            or f"{parts[0]}.*" in wanted
            or (len(parts) == 4 and f"{parts[0]}.{parts[3]}" in wanted)
        ):
            found.append(path)
    return found


def iter_parquet_batches(
    file: RawFile, parquet: pq.ParquetFile, wanted: Sequence[str], tally: Tally, table: str
) -> Iterator[tuple[int, pa.RecordBatch] | SetAside]:
    """Yield (number of the first row, batch) for the whole file, in order.

    Args:
        file: the raw file.
        parquet: the same file, open.
        wanted: leaf columns, as for `find_leaves`; columns that the file does not have are ignored.
        tally: gets the number of rows that the file's metadata states.
        table: name of the table that the rows are for.
    """
    columns = find_leaves(parquet, wanted)
    first = 0
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        tally.rows[table] += metadata.num_rows
        done = 0
        try:
            rows = _choose_batch_rows(metadata, columns)
            # One column holds nearly all bytes: threads would gain nothing and cost memory.
            for batch in parquet.iter_batches(rows, [group], columns, use_threads=False):
                yield first + done, batch
                done += batch.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            if file.on_hub:
                raise  # the connection failed, more likely than the bytes are bad, so no row is given up
            for row in range(first + done, first + metadata.num_rows):
                yield SetAside(
                    table, f"{file.name}:{row}", UNREADABLE_ROW_GROUP, f"row group {group}: {error}"[:500]
                )
        first += metadata.num_rows
        tally.read_bytes(file, file.size * metadata.num_rows / max(1, parquet.metadata.num_rows))


def _choose_batch_rows(group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    """Return how many rows of a row group make a batch of about BATCH_BYTES."""
    parts = [group.column(i) for i in range(group.num_columns)]
    size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema in columns)
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES * group.num_rows / max(1, size))))
