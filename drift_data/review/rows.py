"""Reads single rows of a table by their number, with bounded memory."""

from __future__ import annotations

import bisect
import glob
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import duckdb
import pyarrow.parquet as pq

from drift_data.workspace import UserError, Workspace

_DUCKDB_MEMORY: Final = "1GB"


class RowReader:
    """Reads rows of one table; a row's number counts from 0 in the order of the table.

    Each read finds the row group of the row and decodes it as far as needed, in some ten milliseconds. Memory keeps no
    rows.

    Args:
        workspace: holds the table.
        table: folder of the table.
        columns: columns to read.
    """

    def __init__(self, workspace: Workspace, table: str, columns: Sequence[str]) -> None:
        self._name = workspace.path(table)
        self._paths = workspace.shards(table)
        counts = [pq.read_metadata(path).num_rows for path in self._paths]
        self._starts: list[int] = [0, *accumulate(counts)]
        self._columns = ", ".join(f'"{column}"' for column in columns)
        self._database = duckdb.connect(config={"memory_limit": _DUCKDB_MEMORY, "threads": 2})

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, number: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            UserError: the file does not exist any more, because the table is being made anew.
        """
        shard = bisect.bisect_right(self._starts, number) - 1
        path = glob.escape(str(self._paths[shard]))  # DuckDB would take the path for a pattern
        query = f"SELECT {self._columns} FROM read_parquet($path, file_row_number = true) WHERE file_row_number = $at"
        try:
            found = self._database.sql(query, params={"path": path, "at": number - self._starts[shard]})
            return dict(found.to_arrow_table().to_pylist()[0])
        except (duckdb.Error, IndexError) as error:
            raise UserError(f"{self._name} has changed meanwhile. Load the page again.") from error
