"""What `convert` left in a workspace, read from outside with DuckDB."""

import json
from pathlib import Path
from typing import Any

import duckdb

from drift_data.convert.options import CleanOptions
from drift_data.convert.stage import convert
from drift_data.workspace import Workspace


def converted(folder: Path, source: str, *inputs: Path | str, **options: Any) -> Workspace:
    """Convert into a fresh workspace below a folder, and return it."""
    workspace = Workspace(folder / "work")
    assert convert(workspace, source, [str(name) for name in inputs], CleanOptions(**options))
    return workspace


def rows(workspace: Workspace, name: str = "conversations") -> list[dict[str, Any]]:
    """Return a table's rows in order."""
    return _read(workspace.path(name))


def dropped(workspace: Workspace, name: str = "conversations") -> list[dict[str, Any]]:
    """Return the rows left out of a table."""
    return _read(workspace.dropped_path(name))


def reasons(workspace: Workspace, name: str = "conversations") -> dict[str, str]:
    """Return location → reason of the rows left out."""
    return {row["location"]: row["reason"] for row in dropped(workspace, name)}


def accounts(workspace: Workspace, raw_rows: int, name: str = "conversations") -> bool:
    """Say whether every raw row is in the table or left out, and the manifest says the same."""
    out, left = len(rows(workspace, name)), len(dropped(workspace, name))
    manifest = json.loads((workspace.path(name) / "manifest.json").read_text())
    stated = (manifest["rows_in"], manifest["rows_out"], sum(manifest["dropped"].values()))
    return raw_rows == out + left and stated == (raw_rows, out, left)


def _read(folder: Path) -> list[dict[str, Any]]:
    files = sorted(map(str, folder.glob("*.parquet")))
    if not files:
        return []
    query = duckdb.sql("select * from read_parquet($files)", params={"files": files})
    found: list[dict[str, Any]] = query.to_arrow_reader().read_all().to_pylist()
    return found
