"""Reads single rows of a table by their number, with bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from drift_data.workspace import UserError, Workspace


class RowReader:
    """Reads rows of one table; a row's number counts from 0 in the order of the table.

    Each read decodes as much of the row's row group as it needs, which takes some ten milliseconds. Memory keeps no
    rows.

    Args:
        workspace: holds the table.
        table: folder of the table.
        columns: columns to read.
    """

    def __init__(self, workspace: Workspace, table: str, columns: Sequence[str]) -> None:
        self._path = workspace.path(table)
        # glob=False: a path with brackets is not a pattern.
        self._rows = pl.scan_parquet(workspace.shards(table), glob=False).select(columns)

    def read(self, number: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            UserError: the row's file does not exist any more, because the table is being made anew.
        """
        try:
            return self._rows.slice(number, 1).collect().row(0, named=True)
        except (PolarsError, OSError) as error:
            raise UserError(f"{self._path} has changed meanwhile. Load the page again.") from error
