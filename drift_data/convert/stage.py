"""The convert stage: raw data of any source → `conversations`, labels that came along, or ready examples.

Streams: memory is set by the size of a row group. Every raw row ends in a table or in `dropped/` with its
reason; the rows read are counted by the readers, apart from both. This module knows no data set.
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
from drift_data.convert.clean import CleanOptions
from drift_data.convert.examples import ExampleTable
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
from drift_data.sources.inputs import RawFile, Tally, digests, raw_files
from drift_data.sources.rows import Chats, Examples, Piece
from drift_data.workspace import Output, UserError, Workspace, hash_file

STAGE: Final = "convert"


class Source(Protocol):
    """What a module of `sources` offers."""

    def tables(self, files: Sequence[RawFile]) -> tuple[str, ...]:
        """Return the tables that these files give."""

    def read(self, files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
        """Stream the files' rows in order, and count them."""


SOURCES: Final[dict[str, Source]] = {
    "wildchat": wildchat,
    "wildfeedback": wildfeedback,
    "lmsys": lmsys,
    "ultrafeedback": ultrafeedback,
    "drift-release": drift_release,
    "chat": chat,
    "simulated": simulated,
}
_SCHEMAS: Final[Mapping[str, pa.Schema]] = {
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
        workspace: where the tables go.
        source: a key of SOURCES.
        inputs: files, folders, globs, or one Hub id; may be empty for "simulated", which then reads the
            workspace's own simulated logs.
        options: which rows stay.
        test_fraction: share of ready examples (pairs, DSAT) that get the split "test", where the data set has
            no split of its own; conversations get theirs when they are mined.

    Returns:
        False when the same tables were there already.

    Raises:
        UserError: the input is not there, or is no such data set.
    """
    if source not in SOURCES:
        raise UserError(f"SOURCE={source} is not known. Choose one of {', '.join(SOURCES)}.")
    reader = SOURCES[source]
    own = ("simulated/logs", "simulated/truth") if source == "simulated" and not inputs else ()
    for name in own:
        workspace.require(name)
    files = raw_files(inputs or [str(workspace.path(name)) for name in own[:1]])
    hashes = {} if own else digests(files)
    if options.exclude_prompts:
        path = Path(options.exclude_prompts).expanduser()
        if not path.is_file():
            raise UserError(f"exclude_prompts: there is no file {path}.")
        hashes[f"exclude_prompts: {options.exclude_prompts}"] = hash_file(path)

    def build(outputs: Mapping[str, Output]) -> None:
        with _hub_errors(files):
            _build(outputs, source, reader, files, tables, options, test_fraction)

    with _hub_errors(files):
        tables = reader.tables(files)
    return workspace.run(
        STAGE,
        tables,
        build,
        options={
            "source": source,
            "clean": options.model_dump(mode="json"),
            **({"test_fraction": test_fraction} if set(tables) & set(_SCHEMAS) else {}),
        },
        inputs=own,
        files=hashes,
    )


@contextmanager
def _hub_errors(files: Sequence[RawFile]) -> Iterator[None]:
    """Say that the Hub stopped answering, if that is where the files are: the user can run it again."""
    if not any(file.on_hub for file in files):
        yield
        return
    from httpx import HTTPError

    try:
        yield
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise  # this machine's disk, not the Hub
        raise UserError(
            f"Reading from the Hub broke off: {error}. Nothing was written; run it again."
        ) from error


def _build(
    outputs: Mapping[str, Output],
    source: str,
    reader: Source,
    files: Sequence[RawFile],
    tables: Sequence[str],
    options: CleanOptions,
    test_fraction: float,
) -> None:
    chats = None
    if TableName.CONVERSATIONS in tables:
        labels = next((name for name in tables if name.startswith("labels/")), None)
        chats = ChatTable(
            source, outputs[TableName.CONVERSATIONS], outputs[labels] if labels else None, options
        )
    examples = {
        name: ExampleTable(source, outputs[name], _SCHEMAS[name], options, test_fraction)
        for name in tables
        if name in _SCHEMAS
    }
    tally = Tally()
    size = sum(file.size for file in files)
    with tqdm(
        total=size, desc=STAGE, unit="B", unit_scale=True, mininterval=0.5, file=sys.stderr
    ) as tally.bar:
        for piece in reader.read(files, tally):
            if isinstance(piece, Chats):
                assert chats is not None, f"{source} gives chats but names no table for them"
                chats.add(piece)
            elif isinstance(piece, Examples):
                examples[piece.table].add(piece)
            else:
                outputs[piece.table].drop([piece.dropped()], DROPPED_RAW)
    if not any(tally.rows[name] for name in tables):
        raise UserError(f"{', '.join(file.name for file in files)[:500]}: not a single row. Check INPUT.")
    for name in tables:
        if name == TableName.CONVERSATIONS or name in _SCHEMAS:
            outputs[name].rows_in = tally.rows[name]
        outputs[name].made_by = {"source": source}
    if chats is not None:
        outputs[TableName.CONVERSATIONS].results = {"feedback_turns": chats.feedback_turns, **tally.notes}
    elif tables:
        outputs[tables[0]].results = dict(tally.notes)
