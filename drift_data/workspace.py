"""Paths, atomic tables, manifests and "is this already done?": the one implementation all stages share.

A stage writes into a temporary folder; when it ends without an error and its rows add up, every output is
renamed into place with its `manifest.json` inside. A folder with a manifest is therefore finished, and a process
killed at any moment leaves nothing half-written. This module knows nothing about what the tables mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

MANIFEST = "manifest.json"
ROWS_PER_GROUP = 20_000
BYTES_PER_GROUP = 64 << 20
GROUPS_PER_SHARD = 16
_MAKERS = {  # first part of a folder's name → the Make target that makes it
    "conversations": "convert",
    "preferences": "convert",
    "labels": "label",
    "dsat": "seed",
    "sat": "seed",
    "runs": "iter",
}


class UserError(Exception):
    """A mistake the user can mend. The message says what was wrong, where, and what to do; exit code 1."""


class AccountingError(Exception):
    """A stage lost or invented rows: rows in differ from rows out plus rows dropped. A bug of the tool; exit 2."""


def tool_version() -> str:
    """Return the installed version of the toolkit, or "unknown" when it runs from a bare folder."""
    try:
        return version("drift-toolkit")
    except PackageNotFoundError:
        return "unknown"


class Manifest(BaseModel):
    """What made a finished folder. `digest` covers the content, so an equal rebuild changes nothing downstream."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    tool: str
    options: dict[str, Any]
    inputs: dict[str, str]  # folder in this workspace → its digest when it was read
    files: dict[str, str]  # raw input → sha256 of its bytes
    rows_in: int | None = None
    rows_out: int = 0
    dropped: dict[str, int] = {}
    made_by: dict[str, Any] = {}  # engine, judge or model used
    results: dict[str, Any] = {}  # figures worth keeping: scores, counts of a funnel
    digest: str = ""
    seconds: float = 0.0
    peak_memory_bytes: int = 0  # of this process and the largest of its children, imports included


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, read as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Return one sha256 over the names and bytes of all files below a folder, the manifest left out."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        total.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process or its largest finished child, whichever is more."""
    unit = 1 if sys.platform == "darwin" else 1024
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(usage) * unit


def _json(value: Any) -> Any:
    """Return a value as it reads back from JSON, so that options compare equal after a round trip."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


class TableWriter:
    """Writes record batches of one schema into zstd Parquet shards with bounded memory.

    Rows are buffered until a row group is full: 20,000 rows or 64 MB, whichever comes first.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.schema, self.rows = folder, schema, 0
        self._shards = self._groups = self._buffered_rows = self._buffered_bytes = 0
        self._buffer: list[pa.RecordBatch] = []
        self._file: pq.ParquetWriter | None = None

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Append rows. Columns must be those of the schema; a null in a key column raises `pa.ArrowInvalid`."""
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
        self._groups += 1
        if self._groups % GROUPS_PER_SHARD == 0:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Write what is buffered. A table without rows has one shard without row groups: the schema."""
        if self._buffer:
            self._flush()
        if self._shards == 0:
            self._open()
        self._close_file()


class Output:
    """One folder that a stage makes: a table with its dropped rows, or files (a model)."""

    def __init__(self, name: str, folder: Path, dropped_folder: Path) -> None:
        self.name, self.folder, self.dropped_folder = name, folder, dropped_folder
        self.rows_in: int | None = None
        self.made_by: dict[str, Any] = {}
        self.results: dict[str, Any] = {}
        self._table: TableWriter | None = None
        self._dropped: TableWriter | None = None
        self._reasons: Counter[str] = Counter()
        folder.mkdir(parents=True)

    def table(self, schema: pa.Schema) -> TableWriter:
        """Return the writer of this folder's table; the schema counts at the first call."""
        if self._table is None:
            self._table = TableWriter(self.folder, schema)
        return self._table

    def drop(self, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
        """Set rows aside. Each has the columns of `schema`, among them `reason`."""
        if not rows:
            return
        if self._dropped is None:
            self._dropped = TableWriter(self.dropped_folder, schema)
        self._dropped.write_rows(rows)
        self._reasons.update(str(row["reason"]) for row in rows)

    def finish(self) -> tuple[int, dict[str, int]]:
        """Close the writers, check that no row was lost, return (rows out, dropped by reason)."""
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


class Build:
    """The outputs of a stage while it runs: `build["dsat"].table(schema).write(batch)`."""

    def __init__(self, outputs: Mapping[str, Output]) -> None:
        self._outputs = outputs

    def __getitem__(self, name: str) -> Output:
        return self._outputs[name]


class Workspace:
    """One folder with all tables, models and reports of a project."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, name: str) -> Path:
        """Return the folder of a table or model, e.g. "conversations", "labels/local", "runs/x/iter1/model"."""
        return self.root / name

    def dropped_path(self, name: str) -> Path:
        """Return the folder of the rows left out of a table."""
        return self.root / "dropped" / name

    def manifest(self, name: str) -> Manifest | None:
        """Return a folder's manifest, or None when it is not finished."""
        path = self.path(name) / MANIFEST
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UserError(
                f"{path} is not a manifest of this version of the tool: {error}. Delete {path.parent} and run again."
            ) from error

    def require(self, name: str) -> Manifest:
        """Return the manifest of a finished, current folder such as "labels/local".

        Raises:
            UserError: it is missing, or something it was made from, near or far, has changed since.
        """
        manifest = self.manifest(name)
        if manifest is None:
            target = _MAKERS.get(name.split("/")[0], name)
            raise UserError(f"{self.path(name)} is not there yet. Run `make {target}` first.")
        for source, digest in manifest.inputs.items():
            if self.require(source).digest != digest:
                raise UserError(
                    f"{self.path(name)} was made from another {source} than the one that is there now. "
                    f"Run `make {manifest.stage}` again."
                )
        return manifest

    def shards(self, name: str) -> list[Path]:
        """Return a table's Parquet files in order."""
        return sorted(self.path(name).glob("part-*.parquet"))

    def batches(
        self, name: str, columns: Sequence[str] | None = None, batch_size: int = 5_000
    ) -> Iterator[pa.RecordBatch]:
        """Stream a table in order, a row group in memory at a time."""
        for shard in self.shards(name):
            with pq.ParquetFile(shard) as file:
                for group in range(file.num_row_groups):
                    yield from file.iter_batches(
                        batch_size, row_groups=[group], columns=list(columns) if columns else None
                    )

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a whole table. For tables that fit into memory: labels, pairs, not conversations."""
        shards = self.shards(name)
        if not shards:
            raise UserError(f"{self.path(name)} holds no table.")
        return pa.concat_tables([pq.read_table(shard, columns=columns) for shard in shards])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for writing; a second process is told and stops."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            with lock.acquire(timeout=0):
                yield
        except Timeout:
            raise UserError(
                f"Another process is working in {self.root}. Wait for it to end, or choose another WORK=."
            ) from None

    def is_done(self, outputs: Sequence[str], options: Any, inputs: Any, files: Any) -> bool:
        """Say whether every output exists and was made with these options from these inputs."""
        wanted = _json([options, inputs, files])
        manifests = [self.manifest(name) for name in outputs]
        return all(m is not None and _json([m.options, m.inputs, m.files]) == wanted for m in manifests)

    def run(
        self,
        stage: str,
        outputs: Sequence[str],
        build: Callable[[Build], None],
        *,
        options: Mapping[str, Any],
        inputs: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
    ) -> bool:
        """Make the outputs of a stage, unless they are there already from the same options and inputs.

        Args:
            stage: its name, e.g. "convert".
            outputs: folders it makes, published together.
            build: fills the outputs; may leave one of them empty of files.
            options: everything else that determines the outputs; must survive JSON.
            inputs: folders of this workspace it reads.
            files: raw inputs and their digests.

        Returns:
            True when it ran, False when everything was there already.

        Raises:
            AccountingError: rows in ≠ rows out + rows dropped; nothing is published.
        """
        digests, files = {name: self.require(name).digest for name in inputs}, dict(files or {})
        with self.lock():
            if self.is_done(outputs, options, digests, files):
                print(f"{stage}: up to date ({', '.join(outputs)})", file=sys.stderr)
                return False
            with _Staging(self, outputs) as staging:
                started = time.monotonic()
                build(Build(staging.outputs))
                manifests = []
                for output in staging.outputs.values():
                    rows_out, dropped = output.finish()
                    manifests.append(
                        Manifest(
                            stage=stage,
                            tool=tool_version(),
                            options=_json(options),
                            inputs=digests,
                            files=files,
                            rows_in=output.rows_in,
                            rows_out=rows_out,
                            dropped=dropped,
                            made_by=_json(output.made_by),
                            results=_json(output.results),
                            digest=folder_digest(output.folder),
                            seconds=round(time.monotonic() - started, 3),
                            peak_memory_bytes=peak_memory_bytes(),
                        )
                    )
                staging.publish(manifests)
        return True


class _Staging:
    """Temporary folders of a stage's outputs; removed in any case, also those that a killed run left behind."""

    def __init__(self, workspace: Workspace, names: Sequence[str]) -> None:
        self.workspace = workspace
        self.folder = workspace.root / ".tmp"
        self._names = names
        self.outputs: dict[str, Output] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in self._names:
            self.outputs[name] = Output(
                name, self.folder / "new" / name, self.folder / "new" / "dropped" / name
            )
        return self

    def publish(self, manifests: Sequence[Manifest]) -> None:
        """Rename everything into place: dropped rows first, then each folder with its manifest inside."""
        for output, manifest in zip(self.outputs.values(), manifests, strict=True):
            (output.folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
            for path in output.folder.rglob("*"):
                _sync(path)
        for output in self.outputs.values():  # from here on the old outputs count as unfinished
            (self.workspace.path(output.name) / MANIFEST).unlink(missing_ok=True)
        for output in self.outputs.values():
            self._replace(output.dropped_folder, self.workspace.dropped_path(output.name))
        for output in self.outputs.values():
            self._replace(output.folder, self.workspace.path(output.name))

    def _replace(self, new: Path, target: Path) -> None:
        if target.exists():
            old = self.folder / "old" / target.relative_to(self.workspace.root)
            old.parent.mkdir(parents=True, exist_ok=True)
            target.rename(old)
        if new.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            new.rename(target)
            _sync(target.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file or folder entry to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
