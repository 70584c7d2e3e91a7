"""Writes a table as Parquet shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 20_000  # most rows in a row group
BYTES_PER_GROUP = 64 << 20  # bytes in memory after which a row group is written
GROUPS_PER_SHARD = 16  # row groups in a shard


class TableWriter:
    """Writes record batches of one schema into zstd Parquet shards with bounded memory.

    Rows are buffered until a row group is full: 20,000 rows or 64 MiB, whichever comes first.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.schema, self.rows = folder, schema, 0
        self._shards = self._groups = self._buffered_rows = self._buffered_bytes = 0
        self._buffer: list[pa.RecordBatch] = []
        self._file: pq.ParquetWriter | None = None

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Append rows.

        Args:
            rows: must have the columns of the schema; other columns are left out.

        Raises:
            pa.ArrowInvalid: a column that needs a value in every row has a null.
        """
        if rows.schema != self.schema:
            rows = rows.select(self.schema.names).cast(self.schema)
        batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_PER_GROUP):
                part = batch.slice(start, ROWS_PER_GROUP)
                self._buffer.append(part)
                self._buffered_rows += part.num_rows
                self._buffered_bytes += part.nbytes
                if self._buffered_rows >= ROWS_PER_GROUP or self._buffered_bytes >= BYTES_PER_GROUP:
                    self._flush()

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows given as dictionaries."""
        if rows:
            self.write(pa.Table.from_pylist(list(rows), schema=self.schema))

    def _open(self) -> pq.ParquetWriter:
        if self._file is None:
            path = self.folder / f"part-{self._shards:05d}.parquet"
            self._file = pq.ParquetWriter(path, self.schema, compression="zstd", compression_level=1)
            self._shards += 1
        return self._file

    def _flush(self) -> None:
        group = pa.Table.from_batches(self._buffer, schema=self.schema)
        self._open().write_table(group, row_group_size=group.num_rows)
        self.rows += group.num_rows
        self._buffer, self._buffered_rows, self._buffered_bytes = [], 0, 0
        del group
        pa.default_memory_pool().release_unused()  # without this the peak grows with the number of row groups
        self._groups += 1
        if self._groups % GROUPS_PER_SHARD == 0:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Write the rows that are still buffered. A table without rows gets one shard that holds only the schema."""
        if self._buffer:
            self._flush()
        if self._shards == 0:
            self._open()
        self._close_file()
