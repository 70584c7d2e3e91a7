"""Reads a label table whole, and checks that it can be compared: one label a turn, and one of the three."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from drift_data.schema import LABELS
from drift_data.workspace import UserError, Workspace

KEYS = ["conversation_id", "turn"]


def read_labels(workspace: Workspace, name: str, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return keys, `label` and the named columns of a label table such as "labels/local".

    Raises:
        UserError: two labels for one turn, or labels other than SAT, DSAT, NEUTRAL.
    """
    table = pl.DataFrame(workspace.read(name, [*KEYS, "label", *columns]))
    if table.select(KEYS).is_duplicated().any():
        raise UserError(f"{workspace.path(name)} has two labels for one turn. Make it again.")
    strange = sorted(set(table["label"].unique()) - set(LABELS))
    if strange:
        raise UserError(
            f"{workspace.path(name)} has labels other than {', '.join(LABELS)}: {', '.join(strange)}."
        )
    return table
