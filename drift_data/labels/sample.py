"""Which conversations of a workspace a judge sees: all, or a sample that depends on their ids alone.

An earlier version drew samples in the order that makes the test split, so that a small sample was the test split. A
sample that it drew keeps its conversations, whose labels are paid for, and grows in the present order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from drift_data.chats.order import EARLIER_SAMPLE, SAMPLE, take_first
from drift_data.schema import TableName
from drift_data.workspace import Manifest, Workspace

# Options in the manifest of a label table.
_SIZE: Final = "sample"
_ORDER: Final = "sample_order"  # salt of the order; absent: the earlier one
_EARLIER: Final = "sample_earlier"  # beside an order: conversations that the earlier order drew


@dataclass(frozen=True)
class Sample:
    """How many conversations are drawn; which ones depends on their ids alone."""

    size: int
    earlier: int = 0  # of them, drawn by the order of an earlier version; `size` when all are

    def options(self) -> dict[str, Any]:
        """Return what tells this sample from others, for the manifest: no order where an earlier version drew all."""
        if self.earlier >= self.size:
            return {_SIZE: self.size}
        return {
            _SIZE: self.size,
            _ORDER: SAMPLE.salt,
            **({_EARLIER: self.earlier} if self.earlier else {}),
        }

    def draw(self, workspace: Workspace) -> pa.Array:
        """Return the ids of the conversations in the sample; a larger one of the same `earlier` holds the smaller."""
        kept = take_first(_ids(workspace), EARLIER_SAMPLE, min(self.earlier, self.size))
        known = frozenset(kept)
        others = (name for name in _ids(workspace) if name not in known)
        return pa.array([*kept, *take_first(others, SAMPLE, self.size - len(kept))], pa.string())


def choose_sample(workspace: Workspace, table: str, size: int) -> Sample:
    """Return the sample of a size for a label table; it holds what an earlier version drew for that table.

    Args:
        workspace: holds the conversations, and perhaps the table.
        table: folder of labels of a sample, such as "labels/openai-sample".
        size: conversations.
    """
    manifest = workspace.manifest(table)
    return Sample(size, min(size, _earlier(manifest)) if manifest is not None else 0)


def describe_earlier_sample(workspace: Workspace, table: str) -> str | None:
    """Return what must be known of labels whose sample an earlier version drew; None for all other labels.

    Args:
        workspace: holds the conversations.
        table: folder of labels; it may be missing.
    """
    manifest = workspace.manifest(table)
    earlier = _earlier(manifest) if manifest is not None else 0
    conversations = workspace.manifest(TableName.CONVERSATIONS)
    if manifest is None or not earlier or (conversations is not None and earlier >= conversations.rows_out):
        return None
    return (
        f"CAREFUL: an earlier version of this toolkit drew {earlier:,} of the {manifest.options[_SIZE]:,} conversations "
        f"of {table}, and it took the conversations of the test split (`mine.test_fraction` of all) before any other. "
        "Conversations of the test split give `make seed` nothing to train on, and a classifier that learns from them "
        "has learned from the rows held out for testing. A larger SAMPLE= keeps what is paid for and adds conversations "
        f"that are drawn independently of the split. To draw all of them anew, delete {table} in the workspace and label "
        "again; the answers to requests stay in judge.sqlite."
    )


def conversation_batches(
    workspace: Workspace, columns: Sequence[str], size: int, sample: Sample | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (rows read, batch) in the order of the table; with `sample`, only the conversations in it.

    A larger sample holds the smaller one, so what was asked for the smaller one need not be asked again.
    """
    wanted = None if sample is None else sample.draw(workspace)
    for batch in workspace.batches(TableName.CONVERSATIONS, columns, size):
        rows = batch.num_rows
        yield rows, batch if wanted is None else batch.filter(pc.is_in(batch["conversation_id"], wanted))


def _earlier(manifest: Manifest) -> int:
    """Return how many conversations of a label table an earlier version has drawn."""
    size = manifest.options.get(_SIZE)
    if size is None:
        return 0
    return int(manifest.options.get(_EARLIER, 0) if _ORDER in manifest.options else size)


def _ids(workspace: Workspace) -> Iterator[str]:
    for batch in workspace.batches(TableName.CONVERSATIONS, ["conversation_id"], 50_000):
        yield from batch["conversation_id"].to_pylist()
