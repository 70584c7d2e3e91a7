"""Which conversations of a workspace a judge sees: all, or a sample that depends on their ids alone."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from drift_data.workspace import Workspace

CONVERSATIONS = "conversations"


def conversation_batches(
    workspace: Workspace, columns: Sequence[str], size: int, sample: int | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (rows read, batch) in the order of the table; with `sample`, only that many conversations.

    A larger sample holds the smaller one, so what was asked for the smaller one need not be asked again.
    """
    wanted = None if sample is None else _first_hashes(workspace, sample)
    for batch in workspace.batches(CONVERSATIONS, columns, size):
        rows = batch.num_rows
        yield rows, batch if wanted is None else batch.filter(pc.is_in(batch["conversation_id"], wanted))


def _first_hashes(workspace: Workspace, size: int) -> pa.Array:
    """Return the ids whose hashes come first."""
    ids = (
        name
        for batch in workspace.batches(CONVERSATIONS, ["conversation_id"], 50_000)
        for name in batch["conversation_id"].to_pylist()
    )
    first = heapq.nsmallest(size, ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    return pa.array(first, pa.string())
