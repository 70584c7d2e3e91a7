"""Holds a stage's outputs in temporary folders while they are filled, then renames them into place with their manifests.

A process that is killed at any moment leaves either the old folders or the new ones, never a half-written one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from drift_data.workspace.atomic import sync_to_disk
from drift_data.workspace.errors import AccountingError
from drift_data.workspace.manifest import MANIFEST, Manifest
from drift_data.workspace.table import TableWriter

# Folders of a workspace.
_TEMPORARY_FOLDER = ".tmp"  # outputs while they are filled
_UNFINISHED_FOLDER = ".unfinished"  # what a killed stage has done so far, for its next run
DROPPED_FOLDER = "dropped"  # rows that were left out, table by table
_IDENTITY_FILE = "identity.json"  # beside unfinished work: the stage, options and inputs that it belongs to


class Output:
    """One folder that a stage makes: a table with its dropped rows, or files (a model).

    Attributes:
        name: name of the folder in the workspace.
        folder: the temporary folder, in which the stage may write files.
        dropped_folder: the temporary folder of the dropped rows.
        rows_in: number of rows that must end in the table or among the dropped rows; None: rows are not checked.
        made_by: the engine, judge or model that was used, for the manifest.
        results: figures worth keeping, for the manifest.
    """

    def __init__(self, name: str, folder: Path, dropped_folder: Path, unfinished: Unfinished) -> None:
        self.name, self.folder, self.dropped_folder = name, folder, dropped_folder
        self._unfinished = unfinished
        self.rows_in: int | None = None
        self.made_by: dict[str, Any] = {}
        self.results: dict[str, Any] = {}
        self._table: TableWriter | None = None
        self._dropped: TableWriter | None = None
        self._reasons: Counter[str] = Counter()
        folder.mkdir(parents=True)

    @property
    def unfinished(self) -> Path:
        """The folder for work that need not be done again after a kill: finished shards, checkpoints.

        The folder is empty, unless an earlier run with the same options and inputs was killed. Then it holds what that
        run had written; the last file may be half-written. The folder is not part of the output, and it is removed once
        the stage has finished.
        """
        return self._unfinished.folder_of(self.name)

    def table(self, schema: pa.Schema) -> TableWriter:
        """Return the writer of this folder's table. The first call decides the schema."""
        if self._table is None:
            self._table = TableWriter(self.folder, schema)
        return self._table

    def drop(self, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
        """Write rows that are left out of the table to the dropped rows.

        Args:
            rows: each has the columns of `schema`.
            schema: has a column `reason`; the rows of each reason are counted.
        """
        if not rows:
            return
        if self._dropped is None:
            self._dropped = TableWriter(self.dropped_folder, schema)
        self._dropped.write_rows(rows)
        self._reasons.update(str(row["reason"]) for row in rows)

    def finish(self) -> tuple[int, dict[str, int]]:
        """Close the writers and return (number of rows out, reason → number of dropped rows).

        Raises:
            AccountingError: `rows_in` is set and differs from the rows out plus the rows dropped.
        """
        if self._table is not None:
            self._table.close()
        if self._dropped is not None:
            self._dropped.close()
        rows_out = self._table.rows if self._table else 0
        dropped = dict(sorted(self._reasons.items()))
        if self.rows_in is not None and self.rows_in != rows_out + sum(dropped.values()):
            raise AccountingError(
                f"{self.name}: {self.rows_in} rows in, but {rows_out} out and {sum(dropped.values())} dropped. "
                "Nothing was written. This is a bug of the tool: please report it with the input."
            )
        return rows_out, dropped


class Unfinished:
    """Manages the folders of unfinished work, which survive a kill for the next run with the same options and inputs.

    Args:
        root: folder of the workspace.
        identity: JSON of the stage, options and inputs that determine the outputs.
    """

    def __init__(self, root: Path, identity: str) -> None:
        self._root, self._identity = root / _UNFINISHED_FOLDER, identity

    def folder_of(self, name: str) -> Path:
        """Return the folder of an output's unfinished work. Work done with other options or inputs is removed first."""
        folder = self._root / name
        mark = folder / _IDENTITY_FILE
        if not mark.is_file() or mark.read_text() != self._identity:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "work").mkdir(parents=True)
            mark.write_text(self._identity)
        return folder / "work"

    def remove(self, name: str) -> None:
        """Remove the unfinished work of a finished output, and the parent folders that become empty."""
        folder = self._root / name
        if not folder.is_dir():
            return
        shutil.rmtree(folder, ignore_errors=True)
        for parent in (folder.parent, *folder.parent.parents):
            if not parent.is_relative_to(self._root) or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


def clear_leftovers(root: Path) -> None:
    """Remove the temporary folders that a killed run has left behind in a workspace; nothing in them is needed."""
    shutil.rmtree(root / _TEMPORARY_FOLDER, ignore_errors=True)


class Staging:
    """The temporary folders of a stage's outputs. They are removed at the end in any case."""

    def __init__(self, root: Path, names: Sequence[str], unfinished: Unfinished) -> None:
        self.root, self.folder = root, root / _TEMPORARY_FOLDER
        self._names, self._unfinished = names, unfinished
        self.outputs: dict[str, Output] = {}

    def __enter__(self) -> Self:
        clear_leftovers(self.root)
        for name in self._names:
            self.outputs[name] = Output(
                name,
                self.folder / "new" / name,
                self.folder / "new" / DROPPED_FOLDER / name,
                self._unfinished,
            )
        return self

    def publish(self, manifests: Sequence[Manifest]) -> None:
        """Rename the outputs into place: first the dropped rows, then each folder with its manifest inside."""
        for output, manifest in zip(self.outputs.values(), manifests, strict=True):
            (output.folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
            for path in (*output.folder.rglob("*"), *output.dropped_folder.rglob("*")):
                sync_to_disk(path)
        # The old manifests go first: without them the old outputs count as unfinished.
        for output in self.outputs.values():
            old = self.root / output.name
            if old.is_symlink():  # a link to a table of another workspace, whose table stays as it is
                old.unlink()
            (old / MANIFEST).unlink(missing_ok=True)
        for output in self.outputs.values():
            self._replace(output.dropped_folder, self.root / DROPPED_FOLDER / output.name)
        for output in self.outputs.values():
            self._replace(output.folder, self.root / output.name)

    def _replace(self, new: Path, target: Path) -> None:
        if target.exists():
            old = self.folder / "old" / target.relative_to(self.root)
            old.parent.mkdir(parents=True, exist_ok=True)
            target.rename(old)
        if new.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            new.rename(target)
            sync_to_disk(target.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
