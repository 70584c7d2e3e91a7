"""Writes `dsat`, `sat` and `seed` in the layout of the DRIFT release: JSON Lines that the authors' code reads.

The release's own keys come first. Our ids, items and reasons follow, so that `SOURCE=drift-release` can read the files
back without loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drift_data.schema import TableName
from drift_data.workspace import UserError, Workspace, replace_folder

RELEASE_FILES = ("dsat_data.jsonl", "sat_data.jsonl", "seed-data/train.jsonl", "seed-data/test.jsonl")


def export_release(workspace: Workspace, folder: Path) -> dict[str, int]:
    """Write the four files of the release into a folder; all of them appear at once.

    Args:
        workspace: holds finished `dsat`, `sat` and `seed`.
        folder: target, created if it does not exist; an earlier export in it is replaced.

    Returns:
        The number of lines of each file.

    Raises:
        UserError: a table is missing or outdated, or the folder holds something else.
    """
    for name in (TableName.DSAT, TableName.SAT, TableName.SEED):
        workspace.require(name)
    folder = folder.absolute()
    strangers = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and path.relative_to(folder).as_posix() not in RELEASE_FILES
    )
    if strangers or (folder.exists() and not folder.is_dir()):
        what = f"holds {', '.join(strangers[:3])}" if strangers else "is a file"
        raise UserError(f"{folder} {what}, which is no earlier export. Choose an empty or new folder.")
    with replace_folder(folder) as new:
        (new / "seed-data").mkdir()
        seeds = {
            split: _iter_release_rows(workspace, TableName.SEED, _shape_seed_row, split)
            for split in ("train", "test")
        }
        contents = (
            _iter_release_rows(workspace, TableName.DSAT, _shape_dsat_row),
            _iter_release_rows(workspace, TableName.SAT, _shape_sat_row),
            seeds["train"],
            seeds["test"],
        )
        return {
            name: _write_json_lines(new / name, rows)
            for name, rows in zip(RELEASE_FILES, contents, strict=True)
        }


def _shape_dsat_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `dsat` as an object of the release."""
    return {
        "prompt": row["prompt"],
        "rejected": row["rejected"],
        "user_preference": {"role": "user", "content": row["feedback"]},
        **_select_columns(row, "items", "reason"),
    }


def _shape_sat_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `sat` as an object of the release."""
    return {
        "prompt": row["prompt"],
        "chosen": row["chosen"],
        "user_preference": {"role": "user", "content": row["feedback"]},
        **_select_columns(row, "items", "reason"),
    }


def _shape_seed_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `seed` as an object of the release."""
    return {
        "prompt": row["prompt"],
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        **_select_columns(row, "feedback"),
    }


def _select_columns(row: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """Return the columns of a row that the release does not have: the key, the split, and `more`."""
    return {name: row[name] for name in ("conversation_id", "turn", "split", *more)}


def _iter_release_rows(
    workspace: Workspace,
    table: str,
    shape: Callable[[Mapping[str, Any]], dict[str, Any]],
    split: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a table's rows in the release's layout; `split` leaves out all rows of another split."""
    for batch in workspace.batches(table, batch_size=500):
        yield from (shape(row) for row in batch.to_pylist() if split in (None, row["split"]))


def _write_json_lines(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write one object a line, and return the number of lines."""
    lines = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            lines += 1
    return lines
