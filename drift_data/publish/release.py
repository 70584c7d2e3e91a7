"""Writes `dsat`, `sat` and `seed` in the layout of the DRIFT release: JSON lines that other code reads.

The release's own keys come first; our ids, items and reasons follow, so that nothing is lost on the way back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drift_data.schema import TableName
from drift_data.workspace import UserError, Workspace, replaced_folder

FILES = ("dsat_data.jsonl", "sat_data.jsonl", "seed-data/train.jsonl", "seed-data/test.jsonl")


def export_release(workspace: Workspace, folder: Path) -> dict[str, int]:
    """Write the four files into a folder; all of them appear at once.

    Args:
        workspace: holds finished `dsat`, `sat` and `seed`.
        folder: made when it is not there; an earlier export in it is replaced.

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
        if not path.is_dir() and path.relative_to(folder).as_posix() not in FILES
    )
    if strangers or (folder.exists() and not folder.is_dir()):
        what = f"holds {', '.join(strangers[:3])}" if strangers else "is a file"
        raise UserError(f"{folder} {what}, which is no earlier export. Choose an empty or new folder.")
    with replaced_folder(folder) as new:
        (new / "seed-data").mkdir()
        seeds = {split: _rows(workspace, TableName.SEED, _seed, split) for split in ("train", "test")}
        contents = (
            _rows(workspace, TableName.DSAT, _dsat),
            _rows(workspace, TableName.SAT, _sat),
            seeds["train"],
            seeds["test"],
        )
        return {name: _write(new / name, rows) for name, rows in zip(FILES, contents, strict=True)}


def _dsat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": row["prompt"],
        "rejected": row["rejected"],
        "user_preference": {"role": "user", "content": row["feedback"]},
        **_ours(row, "items", "reason"),
    }


def _sat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": row["prompt"],
        "chosen": row["chosen"],
        "user_preference": {"role": "user", "content": row["feedback"]},
        **_ours(row, "items", "reason"),
    }


def _seed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": row["prompt"],
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        **_ours(row, "feedback"),
    }


def _ours(row: Mapping[str, Any], *more: str) -> dict[str, Any]:
    return {name: row[name] for name in ("conversation_id", "turn", "split", *more)}


def _rows(
    workspace: Workspace,
    table: str,
    shape: Callable[[Mapping[str, Any]], dict[str, Any]],
    split: str | None = None,
) -> Iterator[dict[str, Any]]:
    for batch in workspace.batches(table, batch_size=500):
        yield from (shape(row) for row in batch.to_pylist() if split in (None, row["split"]))


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    lines = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            lines += 1
    return lines
