"""Reads simulated logs: chats in WildChat's layout, and the true satisfaction at every feedback turn as labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from drift_data.schema import LABEL_ROWS, TableName
from drift_data.sources import wildchat
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.rows import Chats, Piece
from drift_data.workspace import UserError

SIMULATED_LABELS = "labels/simulated"


def list_tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the names of the tables that simulated logs give."""
    return (TableName.CONVERSATIONS, SIMULATED_LABELS)


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the chats of all files, each with its truth; the truth table is in the same order as the logs."""
    for folder, of_folder in groupby(files, key=lambda file: Path(file.url).parent):
        truth = _Truth(folder.with_name("truth"))
        for piece in wildchat.read(list(of_folder), tally):
            yield truth.add_labels(piece) if isinstance(piece, Chats) else piece
        truth.check_end()


class _Truth:
    """Reads the truth table in step with the logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shards = sorted(folder.glob("*.parquet"))
        if not shards:
            raise UserError(
                f"{folder} holds no truth: SOURCE=simulated reads the logs that `make simulate` wrote, and "
                "the truth in the folder beside them. For logs alone use SOURCE=wildchat."
            )
        self._groups = groupby(_iter_truth_rows(shards), key=lambda row: row["conversation_id"])
        self._id: str | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._advance()

    def _advance(self) -> None:
        self._id, self._rows = next(self._groups, (None, iter(())))

    def add_labels(self, chats: Chats) -> Chats:
        """Return the chats with the truth of their feedback turns as labels."""
        labels: list[list[Mapping[str, Any]]] = []
        for identifier in chats.table["conversation_id"].to_pylist():
            rows = list(self._rows) if identifier == self._id and identifier is not None else []
            labels.append(list(rows))
            if rows:
                self._advance()
        return Chats(chats.file, chats.rows, chats.table, chats.problems, labels, [{} for _ in labels])

    def check_end(self) -> None:
        """Raise a `UserError` if the truth has a conversation that the logs do not have at its place."""
        if self._id is not None:
            raise UserError(
                f"{self._folder} has the truth of conversation {self._id}, which is not in the logs at its "
                "place. Make both again with `make simulate`."
            )


def _iter_truth_rows(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(1_000, columns=LABEL_ROWS.names):
                yield from batch.to_pylist()
