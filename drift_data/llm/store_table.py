"""The store of requests as a table that DuckDB and everything else that speaks Arrow can read, as a stream."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

# Columns of the store's view `requests`.
REQUESTS: Final = pa.schema(
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
_ROWS: Final = 1_000  # a batch


class History:
    """All requests of a store and their answers; each read starts from the beginning.

    Args:
        path: of the store's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        reader = pa.RecordBatchReader.from_batches(REQUESTS, self._batches())
        return reader.__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        # DuckDB reads from a thread of its own; the connection is used by one thread at a time.
        database = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
        with closing(database):
            cursor = database.execute(f"SELECT {', '.join(REQUESTS.names)} FROM requests")
            while rows := cursor.fetchmany(_ROWS):
                columns = zip(*rows, strict=True)
                arrays = [pa.array(c, f.type) for c, f in zip(columns, REQUESTS, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, schema=REQUESTS)
