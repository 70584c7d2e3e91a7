"""Streams the store of requests as an Arrow table, for DuckDB and other readers of Arrow."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

# Columns of the store's view `requests`.
REQUEST_COLUMNS: Final = pa.schema(
    [
        ("key", pa.string()),
        ("purpose", pa.string()),
        ("model", pa.string()),
        ("sampling", pa.string()),
        ("system", pa.string()),
        ("user", pa.string()),
        ("schema", pa.string()),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("input_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("price", pa.float64()),
        ("backend", pa.string()),
        ("seconds", pa.float64()),
        ("answered_at", pa.string()),
    ]
)
_ROWS_PER_BATCH: Final = 1_000


class StoredRequests:
    """All requests of a store with their answers, as an Arrow stream; each read starts from the beginning.

    Args:
        path: the store's SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        reader = pa.RecordBatchReader.from_batches(REQUEST_COLUMNS, self._batches())
        return reader.__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        # DuckDB reads from another thread than the one that connects; only one thread at a time uses the connection.
        database = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
        with closing(database):
            cursor = database.execute(f"SELECT {', '.join(REQUEST_COLUMNS.names)} FROM requests")
            while rows := cursor.fetchmany(_ROWS_PER_BATCH):
                columns = zip(*rows, strict=True)
                arrays = [pa.array(c, f.type) for c, f in zip(columns, REQUEST_COLUMNS, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, schema=REQUEST_COLUMNS)
