"""Reads single rows of a table by their number, with bounded memory. Knows not what they mean."""

from __future__ import annotations

import bisect
import glob
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import duckdb
import pyarrow.parquet as pq

from drift_data.workspace import UserError, Workspace

_MEMORY: Final = "1GB"


class Rows:
    """Rows of one table, by number from 0 in its order.

    A row's row group is looked up and decoded as far as needed (some ten milliseconds); nothing is kept.
    """

    def __init__(self, workspace: Workspace, table: str, columns: Sequence[str]) -> None:
        self._name = workspace.path(table)
        self._paths = workspace.shards(table)
        counts = [pq.read_metadata(path).num_rows for path in self._paths]
        self._starts: list[int] = [0, *accumulate(counts)]
        self._columns = ", ".join(f'"{column}"' for column in columns)
        self._database = duckdb.connect(config={"memory_limit": _MEMORY, "threads": 2})

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, number: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            UserError: the file is no longer there: the table is being made anew.
        """
        shard = bisect.bisect_right(self._starts, number) - 1
        path = glob.escape(str(self._paths[shard]))  # a path, not a pattern
        query = f"SELECT {self._columns} FROM read_parquet($path, file_row_number = true) WHERE file_row_number = $at"
        try:
            found = self._database.sql(query, params={"path": path, "at": number - self._starts[shard]})
            return dict(found.to_arrow_table().to_pylist()[0])
        except (duckdb.Error, IndexError) as error:
            raise UserError(f"{self._name} has changed meanwhile. Load the page again.") from error
