"""Defines `Workspace`, the folder of a project: where its tables lie, which are current, and how a stage makes more."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import ValidationError

from drift_data.schema import find_make_command, find_make_target
from drift_data.workspace.errors import UserError
from drift_data.workspace.manifest import (
    MANIFEST,
    Manifest,
    hash_folder,
    make_plain_json,
    measure_peak_memory,
    read_tool_version,
)
from drift_data.workspace.output import DROPPED_FOLDER, Output, Staging, Unfinished, clear_leftovers


class Workspace:
    """One folder with all tables, models and reports of a project.

    Args:
        root: the folder; it need not exist yet.

    Raises:
        UserError: `root` is a file.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"WORK={root} is a file. Choose a folder, which need not be there yet.")

    def path(self, name: str) -> Path:
        """Return the folder of a table or model, e.g. "conversations", "labels/local", "runs/x/iter1/model"."""
        return self.root / name

    def dropped_path(self, name: str) -> Path:
        """Return the folder of the rows that were left out of a table."""
        return self.root / DROPPED_FOLDER / name

    def manifest(self, name: str) -> Manifest | None:
        """Return a folder's manifest; None: the folder is not finished.

        Raises:
            UserError: the manifest cannot be read.
        """
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
            UserError: the folder is missing, or something that it was made from, directly or indirectly, has changed since.
        """
        return self._require(name, {})

    def _require(self, name: str, visited: dict[str, Manifest]) -> Manifest:
        if name in visited:
            return visited[name]
        manifest = self.manifest(name)
        if manifest is None:
            raise UserError(f"{self.path(name)} is not there yet. Run `{find_make_command(name)}` first.")
        for source, digest in manifest.inputs.items():
            if self._require(source, visited).digest != digest:
                raise UserError(
                    f"{self.path(name)} was made from another {source} than the one that is there now. "
                    f"Run `make {find_make_target(manifest.stage)}` again."
                )
        visited[name] = manifest
        return manifest

    def lineage(self, names: Sequence[str]) -> dict[str, Manifest]:
        """Return the manifests of folders and of everything they were made from, inputs first.

        Raises:
            UserError: one of these folders is missing or not current, as in `require`.
        """
        found: dict[str, Manifest] = {}
        for name in names:
            if name not in found:
                manifest = self.require(name)
                found |= self.lineage(sorted(manifest.inputs)) | {name: manifest}
        return found

    def made_together(self, one: str, other: str) -> bool:
        """Say whether two folders are finished and were made by one stage with the same options and inputs."""
        manifests = [self.manifest(name) for name in (one, other)]
        first, second = ((m.stage, m.options, m.inputs, m.files) if m else None for m in manifests)
        return first is not None and first == second

    def shards(self, name: str) -> list[Path]:
        """Return a table's Parquet files in order."""
        return sorted(self.path(name).glob("part-*.parquet"))

    def batches(
        self, name: str, columns: Sequence[str] | None = None, batch_size: int = 5_000
    ) -> Iterator[pa.RecordBatch]:
        """Yield a table's rows in order, in batches; one row group at a time is in memory.

        Args:
            name: folder of the table.
            columns: names of the columns to read; None: all.
            batch_size: most rows of a batch.
        """
        for shard in self.shards(name):
            with pq.ParquetFile(shard) as file:
                for group in range(file.num_row_groups):
                    yield from file.iter_batches(
                        batch_size, row_groups=[group], columns=list(columns) if columns else None
                    )

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return a whole table. Meant for tables that fit into memory, such as labels or pairs, not conversations.

        Raises:
            UserError: there is no table.
        """
        shards = self.shards(name)
        if not shards:
            raise UserError(f"{self.path(name)} holds no table.")
        return pa.concat_tables([pq.read_table(shard, columns=columns) for shard in shards])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for writing.

        Raises:
            UserError: another process holds it.
        """
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
        """Say whether every output is finished and was made with these options from these inputs.

        Args:
            outputs: names of folders.
            options: options of the stage, as `run` gets them.
            inputs: folder of this workspace → its digest.
            files: raw input → its digest.
        """
        wanted = make_plain_json([options, inputs, files])
        manifests = [self.manifest(name) for name in outputs]
        return all(
            m is not None and make_plain_json([m.options, m.inputs, m.files]) == wanted for m in manifests
        )

    def run(
        self,
        stage: str,
        outputs: Sequence[str],
        build: Callable[[Mapping[str, Output]], None],
        *,
        options: Mapping[str, Any],
        inputs: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        again: bool = False,
        earlier_options: Mapping[str, Any] | None = None,
    ) -> bool:
        """Make the outputs of a stage, unless they are there already from the same options and inputs.

        Args:
            stage: name of the stage, such as "convert".
            outputs: folders that the stage makes; all of them appear together.
            build: fills the outputs, which it gets by name: `outputs["dsat"].table(schema).write(batch)`. It may
                leave an output without files.
            options: everything besides inputs and files that determines the outputs; must survive JSON.
            inputs: folders of this workspace that the stage reads.
            files: raw input → its digest.
            again: run even if the outputs are there already.
            earlier_options: the same options as an earlier version of this toolkit wrote them, when the present version
                follows another rule. Outputs of the earlier rule stay valid: they count as made.

        Returns:
            True when the stage ran, False when everything was there already.

        Raises:
            UserError: an input is missing or not current, or another process holds the workspace.
            AccountingError: the rows in differ from the rows out plus the rows dropped; the old outputs stay.
        """
        digests, files = {name: self.require(name).digest for name in inputs}, dict(files or {})
        with self.lock():
            # An earlier run may have been killed, perhaps just after it had published its outputs.
            clear_leftovers(self.root)
            unfinished = Unfinished(
                self.root, json.dumps(make_plain_json([stage, options, digests, files]), sort_keys=True)
            )
            known = (options,) if earlier_options is None else (options, earlier_options)
            if not again and any(self.is_done(outputs, each, digests, files) for each in known):
                # A run that was killed just after it had published left its unfinished work.
                for name in outputs:
                    unfinished.remove(name)
                print(f"{stage}: up to date ({', '.join(outputs)})", file=sys.stderr)
                return False
            with Staging(self.root, outputs, unfinished) as staging:
                started = time.monotonic()
                build(staging.outputs)
                manifests = []
                for output in staging.outputs.values():
                    rows_out, dropped = output.finish()
                    manifests.append(
                        Manifest(
                            stage=stage,
                            tool=read_tool_version(),
                            options=make_plain_json(options),
                            inputs=digests,
                            files=files,
                            rows_in=output.rows_in,
                            rows_out=rows_out,
                            dropped=dropped,
                            made_by=make_plain_json(output.made_by),
                            results=make_plain_json(output.results),
                            digest=hash_folder(output.folder),
                            seconds=round(time.monotonic() - started, 3),
                            peak_memory_bytes=measure_peak_memory(),
                        )
                    )
                staging.publish(manifests)
            for name in outputs:
                unfinished.remove(name)
        return True
