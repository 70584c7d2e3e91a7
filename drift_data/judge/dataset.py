"""The `dataset` judge: passes on the labels that came with the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from drift_data.judge.base import JUDGED_ROWS, JudgedBatch, UnlabelledTurn, list_feedback_keys
from drift_data.labels.stream import iter_with_labels
from drift_data.schema import LABEL_ROWS
from drift_data.workspace import UserError, Workspace


class DatasetJudge:
    """Answers with the rows of `labels/<source>`, unchanged; a feedback turn without a row stays unlabelled.

    Args:
        workspace: holds the label table.
        source: the data set whose labels are passed on; by default the only one that carries labels.
    """

    rubric = None
    options: Mapping[str, Any] = {}

    def __init__(self, workspace: Workspace, source: str | None = None) -> None:
        source = source or find_labelled_source(workspace)
        self.name = f"dataset:{source}"
        self.inputs: Sequence[str] = (f"labels/{source}",)
        self._workspace = workspace

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[JudgedBatch]:
        """Answer batches of the workspace's own conversations, which must come in the table's order."""
        for batch, rows in iter_with_labels(conversations, self._workspace, self.inputs[0], LABEL_ROWS.names):
            labelled = set(zip(rows["conversation_id"].to_pylist(), rows["turn"].to_pylist(), strict=True))
            missing = [key for key in list_feedback_keys(batch) if key not in labelled]
            yield JudgedBatch(
                rows.select(JUDGED_ROWS.names).cast(JUDGED_ROWS),
                [UnlabelledTurn(*key, reason="no_label_in_the_data") for key in missing],
            )

    def report(self) -> Mapping[str, Any]:
        """Return an empty report: passing labels on costs nothing."""
        return {}


def find_labelled_source(workspace: Workspace) -> str:
    """Return the source whose labels `convert` wrote, such as "wildfeedback".

    Raises:
        UserError: no source carries labels, or several do.
    """
    names = sorted(path.parent.name for path in (workspace.root / "labels").glob("*/manifest.json"))
    carried = [name for name in names if workspace.made_together(f"labels/{name}", "conversations")]
    if len(carried) == 1:
        return carried[0]
    found = f"carries labels of several sources: {', '.join(carried)}" if carried else "carries no labels"
    way_out = f", or delete the tables of the other sources in {workspace.root / 'labels'}" if carried else ""
    raise UserError(f"The data in {workspace.root} {found}. Use JUDGE=local{way_out}.")
