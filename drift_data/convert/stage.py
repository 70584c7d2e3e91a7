"""Runs the convert stage: raw data of any source becomes `conversations` with its labels, or ready examples.

Rows are streamed, so memory depends on the size of a row group. Every raw row ends in a table, or in `dropped/` with its
reason. The readers count the rows independently, so a lost row is noticed.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
from tqdm import tqdm

from drift_data.chats.order import TEST_FRACTION
from drift_data.convert.chats import ChatTable
from drift_data.convert.examples import ExampleTable
from drift_data.convert.options import CleanOptions
from drift_data.schema import DROPPED_RAW, DSAT_ROWS, PREFERENCES, SAT_ROWS, SEED_ROWS, TableName
from drift_data.sources import (
    chat,
    drift_release,
    lmsys,
    simulated,
    ultrafeedback,
    wildchat,
    wildfeedback,
)
from drift_data.sources.inputs import RawFile, Tally, collect_digests, find_raw_files
from drift_data.sources.rows import Chats, Piece, ReadyExamples
from drift_data.workspace import Output, UserError, Workspace, hash_file

CONVERT_STAGE: Final = "convert"


class Source(Protocol):
    """The functions that every module of `sources` offers."""

    def list_tables(self, files: Sequence[RawFile]) -> tuple[str, ...]:
        """Return the names of the tables that these files give."""

    def read(self, files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
        """Stream the rows of the files in order, and count them in the tally."""


SOURCES: Final[dict[str, Source]] = {
    "wildchat": wildchat,
    "wildfeedback": wildfeedback,
    "lmsys": lmsys,
    "ultrafeedback": ultrafeedback,
    "drift-release": drift_release,
    "chat": chat,
    "simulated": simulated,
}
_EXAMPLE_SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    TableName.PREFERENCES: PREFERENCES,
    TableName.DSAT: DSAT_ROWS,
    TableName.SAT: SAT_ROWS,
    TableName.SEED: SEED_ROWS,
}


def convert(
    workspace: Workspace,
    source: str,
    inputs: Sequence[str],
    options: CleanOptions,
    test_fraction: float = TEST_FRACTION,
) -> bool:
    """Turn the raw data of one source into tables of the workspace.

    Args:
        workspace: gets the tables.
        source: a key of SOURCES.
        inputs: files, folders, globs, or one Hub id; may be empty for "simulated", which then reads the
            workspace's own simulated logs.
        options: which rows are kept.
        test_fraction: share of ready examples (pairs, DSAT; 0 to 1) that get the split "test" if the data set has no
            split of its own; conversations get their split when they are mined.

    Returns:
        False if the same tables were there already.

    Raises:
        UserError: the input does not exist, or is not in the layout of the source.
    """
    if source not in SOURCES:
        raise UserError(f"SOURCE={source} is not known. Choose one of {', '.join(SOURCES)}.")
    reader = SOURCES[source]
    own = ("simulated/logs", "simulated/truth") if source == "simulated" and not inputs else ()
    for name in own:
        workspace.require(name)
    files = find_raw_files(inputs or [str(workspace.path(name)) for name in own[:1]])
    hashes = {} if own else collect_digests(files)
    if options.exclude_prompts:
        path = Path(options.exclude_prompts).expanduser()
        if not path.is_file():
            raise UserError(f"exclude_prompts: there is no file {path}.")
        hashes[f"exclude_prompts: {options.exclude_prompts}"] = hash_file(path)

    def build(outputs: Mapping[str, Output]) -> None:
        with _translate_hub_errors(files):
            _build_tables(outputs, source, reader, files, tables, options, test_fraction)

    with _translate_hub_errors(files):
        tables = reader.list_tables(files)
    return workspace.run(
        CONVERT_STAGE,
        tables,
        build,
        options={
            "source": source,
            "clean": options.model_dump(mode="json"),
            **({"test_fraction": test_fraction} if set(tables) & set(_EXAMPLE_SCHEMAS) else {}),
        },
        inputs=own,
        files=hashes,
    )


@contextmanager
def _translate_hub_errors(files: Sequence[RawFile]) -> Iterator[None]:
    """Turn network errors into a `UserError` if the files are on the Hub: the user can run the stage again."""
    if not any(file.on_hub for file in files):
        yield
        return
    from httpx import HTTPError

    try:
        yield
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise  # this machine's disk is full; the Hub is not to blame
        raise UserError(
            f"Reading from the Hub broke off: {error}. Nothing was written; run it again."
        ) from error


def _build_tables(
    outputs: Mapping[str, Output],
    source: str,
    reader: Source,
    files: Sequence[RawFile],
    tables: Sequence[str],
    options: CleanOptions,
    test_fraction: float,
) -> None:
    """Read all files and write the tables of the stage; the arguments are those of `convert`."""
    chats = None
    if TableName.CONVERSATIONS in tables:
        labels = next((name for name in tables if name.startswith("labels/")), None)
        chats = ChatTable(
            source, outputs[TableName.CONVERSATIONS], outputs[labels] if labels else None, options
        )
    examples = {
        name: ExampleTable(source, outputs[name], _EXAMPLE_SCHEMAS[name], options, test_fraction)
        for name in tables
        if name in _EXAMPLE_SCHEMAS
    }
    tally = Tally()
    size = sum(file.size for file in files)
    with tqdm(
        total=size, desc=CONVERT_STAGE, unit="B", unit_scale=True, mininterval=0.5, file=sys.stderr
    ) as tally.bar:
        for piece in reader.read(files, tally):
            if isinstance(piece, Chats):
                assert chats is not None, f"{source} gives chats but names no table for them"
                chats.add(piece)
            elif isinstance(piece, ReadyExamples):
                examples[piece.table].add(piece)
            else:
                outputs[piece.table].drop([piece.make_dropped_row()], DROPPED_RAW)
    if not any(tally.rows[name] for name in tables):
        raise UserError(f"{', '.join(file.name for file in files)[:500]}: not a single row. Check INPUT.")
    for name in tables:
        if name == TableName.CONVERSATIONS or name in _EXAMPLE_SCHEMAS:
            outputs[name].rows_in = tally.rows[name]
        outputs[name].made_by = {"source": source}
    if chats is not None:
        outputs[TableName.CONVERSATIONS].results = {"feedback_turns": chats.feedback_turns, **tally.notes}
    elif tables:
        outputs[tables[0]].results = dict(tally.notes)
