"""The `dataset` judge: labels that came with the data, passed through untouched. It judges nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from drift_data.judge.base import JUDGED_ROWS, Judged, Unlabelled, feedback_keys
from drift_data.labels.stream import labels_beside
from drift_data.schema import LABEL_ROWS
from drift_data.workspace import UserError, Workspace


class DatasetJudge:
    """Answers with the rows of `labels/<source>`; a feedback turn without a row has no label."""

    rubric = None
    options: Mapping[str, Any] = {}

    def __init__(self, workspace: Workspace, source: str | None = None) -> None:
        source = source or carried_labels(workspace)
        self.name = f"dataset:{source}"
        self.inputs: Sequence[str] = (f"labels/{source}",)
        self._workspace = workspace

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[Judged]:
        """Answer batches of the workspace's own conversations, in the table's order."""
        for batch, rows in labels_beside(conversations, self._workspace, self.inputs[0], LABEL_ROWS.names):
            there = set(zip(rows["conversation_id"].to_pylist(), rows["turn"].to_pylist(), strict=True))
            missing = [key for key in feedback_keys(batch) if key not in there]
            yield Judged(
                rows.select(JUDGED_ROWS.names).cast(JUDGED_ROWS),
                [Unlabelled(*key, reason="no_label_in_the_data") for key in missing],
            )

    def report(self) -> Mapping[str, Any]:
        """Return nothing: it took nothing."""
        return {}


def carried_labels(workspace: Workspace) -> str:
    """Return the source whose labels `convert` has written, such as "wildfeedback".

    Raises:
        UserError: there are none, or of several sources.
    """
    names = sorted(path.parent.name for path in (workspace.root / "labels").glob("*/manifest.json"))
    carried = [name for name in names if workspace.made_together(f"labels/{name}", "conversations")]
    if len(carried) == 1:
        return carried[0]
    found = f"has labels of several: {', '.join(carried)}" if carried else "carries no labels"
    way_out = f", or delete those of the other data in {workspace.root / 'labels'}" if carried else ""
    raise UserError(f"The data in {workspace.root} {found}. Use JUDGE=local{way_out}.")
