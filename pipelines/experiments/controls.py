"""Control arms of experiments: runs that a gain must be compared with before it means anything."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from drift_data.labels.tables import copy_dropped
from drift_data.schema import LABEL_ROWS, TableName
from drift_data.workspace import Output, Workspace


def shuffle_labels(workspace: Workspace, labels: str, seed: int, name: str = "shuffled") -> bool:
    """Write `labels/<name>`: the same labels, dealt out to the turns at random, for a control arm.

    Label, scores, items, reason and evidence move together; what is true of a reply (`refusal`) stays with its turn.

    Args:
        workspace: holds the labels.
        labels: folder of the label table, such as "labels/local". Read as a whole.
        seed: decides which turn gets which labels.
        name: the name of the new table.

    Returns:
        False when the same table was there already.
    """
    output = f"labels/{name}"

    def build(outputs: Mapping[str, Output]) -> None:
        rows = workspace.read(labels)
        dealt = rows.take(np.random.default_rng(seed).permutation(rows.num_rows))
        for column in ("label", "sat_score", "dsat_score", "items", "reason", "evidence"):
            rows = rows.set_column(
                LABEL_ROWS.get_field_index(column), LABEL_ROWS.field(column), dealt[column]
            )
        outputs[output].table(LABEL_ROWS).write(rows)
        copy_dropped(workspace, labels, outputs[output])
        earlier = workspace.require(labels)
        outputs[output].rows_in = earlier.rows_in
        outputs[output].made_by = {**earlier.made_by, "shuffled_with_seed": seed}
        outputs[output].results = earlier.results

    options = {"labels": labels, "seed": seed}
    return workspace.run(
        "shuffle", [output], build, options=options, inputs=[TableName.CONVERSATIONS, labels]
    )
