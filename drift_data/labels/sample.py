"""Chooses the conversations of a workspace that a judge labels: all, or a sample that depends on their ids alone.

An earlier version drew samples in the order that makes the test split, so that a small sample was the test split. A
sample that the earlier version drew keeps its conversations, because their labels are paid for, and grows in the
present order.
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

# Names of options in the manifest of a label table.
_SIZE_OPTION: Final = "sample"  # number of conversations
# Salt of the order. If a sample does not have this option, the earlier version drew the whole sample.
_ORDER_OPTION: Final = "sample_order"
# How many conversations of the sample the earlier version drew. The option stands only beside `sample_order`.
_EARLIER_OPTION: Final = "sample_earlier"


@dataclass(frozen=True)
class Sample:
    """A number of conversations to draw. Which ones are drawn depends on their ids alone."""

    size: int  # conversations
    earlier: int = 0  # how many of them the earlier version drew, in its own order; at most `size`

    def options(self) -> dict[str, Any]:
        """Return the options that identify this sample in a manifest; no order if the earlier version drew all of it."""
        if self.earlier >= self.size:
            return {_SIZE_OPTION: self.size}
        return {
            _SIZE_OPTION: self.size,
            _ORDER_OPTION: SAMPLE.salt,
            **({_EARLIER_OPTION: self.earlier} if self.earlier else {}),
        }

    def draw(self, workspace: Workspace) -> pa.Array:
        """Return the ids of the conversations in the sample. A larger sample with equal `earlier` holds every smaller one."""
        kept = take_first(_iter_ids(workspace), EARLIER_SAMPLE, min(self.earlier, self.size))
        known = frozenset(kept)
        others = (name for name in _iter_ids(workspace) if name not in known)
        return pa.array([*kept, *take_first(others, SAMPLE, self.size - len(kept))], pa.string())


def choose_sample(workspace: Workspace, table: str, size: int) -> Sample:
    """Return the sample of a given size for a label table. It keeps what the earlier version drew for that table.

    Args:
        workspace: holds the conversations, and perhaps the table.
        table: folder of labels of a sample, such as "labels/openai-sample".
        size: number of conversations.
    """
    manifest = workspace.manifest(table)
    return Sample(size, min(size, _count_earlier(manifest)) if manifest is not None else 0)


def describe_earlier_sample(workspace: Workspace, table: str) -> str | None:
    """Return a warning for labels whose sample the earlier version drew; None for all other labels.

    Args:
        workspace: holds the conversations.
        table: folder of labels; it may be missing.
    """
    manifest = workspace.manifest(table)
    earlier = _count_earlier(manifest) if manifest is not None else 0
    conversations = workspace.manifest(TableName.CONVERSATIONS)
    if manifest is None or not earlier or (conversations is not None and earlier >= conversations.rows_out):
        return None
    return (
        f"CAREFUL: an earlier version of this toolkit drew {earlier:,} of the {manifest.options[_SIZE_OPTION]:,} conversations "
        f"of {table}, and it took the conversations of the test split (`mine.test_fraction` of all) before any other. "
        "Conversations of the test split give `make seed` nothing to train on, and a classifier that learns from them "
        "has learned from the rows held out for testing. A larger SAMPLE= keeps what is paid for and adds conversations "
        f"that are drawn independently of the split. To draw all of them anew, delete {table} in the workspace and label "
        "again; the answers to requests stay in judge.sqlite."
    )


def iter_sampled_conversations(
    workspace: Workspace, columns: Sequence[str], size: int, sample: Sample | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (number of conversations read, batch of those to label) in the order of the table of conversations.

    Args:
        workspace: holds the conversations.
        columns: columns of the batches; `conversation_id` must be one of them when there is a sample.
        size: conversations that are read at once; a batch holds those of them that are in the sample.
        sample: the conversations to yield; None: all.
    """
    wanted = None if sample is None else sample.draw(workspace)
    for batch in workspace.batches(TableName.CONVERSATIONS, columns, size):
        rows = batch.num_rows
        yield rows, batch if wanted is None else batch.filter(pc.is_in(batch["conversation_id"], wanted))


def _count_earlier(manifest: Manifest) -> int:
    """Return how many conversations of a label table the earlier version has drawn."""
    size = manifest.options.get(_SIZE_OPTION)
    if size is None:
        return 0
    return int(manifest.options.get(_EARLIER_OPTION, 0) if _ORDER_OPTION in manifest.options else size)


def _iter_ids(workspace: Workspace) -> Iterator[str]:
    for batch in workspace.batches(TableName.CONVERSATIONS, ["conversation_id"], 50_000):
        yield from batch["conversation_id"].to_pylist()
