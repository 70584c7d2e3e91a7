"""Picks turns of each cell of the confusion table, and reads their reply and feedback, for the quality report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.chats.order import EXCERPTS, rank
from drift_data.chats.safe_text import escape_invisible
from drift_data.schema import LABELS, TableName
from drift_data.workspace import Workspace


@dataclass(frozen=True)
class ConfusionCell:
    """One cell of the confusion table: the turns with a certain label on the other side and a certain label in the
    measured table.
    """

    other: str  # label of the other side
    given: str  # label of the measured table
    turns: int
    excerpts: Sequence[Mapping[str, Any]]  # matched rows, with `number` (on the page), `reply` and `feedback`

    @property
    def anchor(self) -> str:
        """Return the HTML id of the cell's part of the page."""
        return f"{self.other}-as-{self.given}"


def read_confusion_cells(
    workspace: Workspace, matched: pl.DataFrame, each: int, characters: int
) -> list[ConfusionCell]:
    """Return the cells that have turns: disagreements first, then by size.

    Args:
        workspace: holds the conversations.
        matched: matched rows of `match.match_turns`.
        each: largest number of turns to pick from a cell; the order of a hash decides, so every run picks the same.
        characters: number of characters to keep of a message, whose control characters are spelled out.
    """
    picked = {
        (other, given): _pick_excerpts(
            matched.filter(pl.col("gold_label") == other, pl.col("label") == given), each
        )
        for other in LABELS
        for given in LABELS
    }
    keys = {key for _, rows in picked.values() for key in map(_get_turn_key, rows)}
    texts = _read_texts(workspace, keys, characters)
    cells = [ConfusionCell(*labels, turns, rows) for labels, (turns, rows) in picked.items() if turns]
    cells.sort(key=lambda cell: (cell.other == cell.given, -cell.turns))
    numbers = iter(range(1, 1 + sum(len(cell.excerpts) for cell in cells)))
    return [
        ConfusionCell(
            cell.other,
            cell.given,
            cell.turns,
            [{**row, "number": next(numbers), **texts.get(_get_turn_key(row), {})} for row in cell.excerpts],
        )
        for cell in cells
    ]


def _pick_excerpts(rows: pl.DataFrame, each: int) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of rows, and the first `each` of them in the order of a hash."""
    order = [
        rank(f"{name}\0{turn}", EXCERPTS) for name, turn in rows.select("conversation_id", "turn").iter_rows()
    ]
    first = rows.with_columns(order=pl.Series(order, dtype=pl.Binary)).sort("order").head(each).drop("order")
    return rows.height, first.to_dicts()


def _get_turn_key(row: Mapping[str, Any]) -> tuple[str, int]:
    """Return (conversation_id, turn) of a row."""
    return row["conversation_id"], row["turn"]


def _read_texts(
    workspace: Workspace, keys: set[tuple[str, int]], characters: int
) -> dict[tuple[str, int], dict[str, str]]:
    """Return turn → its judged reply and feedback, cut to `characters` and safe to show."""
    turns: dict[str, list[int]] = {}
    for name, turn in keys:
        turns.setdefault(name, []).append(turn)
    wanted, found = pa.array(list(turns), pa.string()), {}
    for batch in workspace.batches(TableName.CONVERSATIONS, ["conversation_id", "messages"], 1_000):
        inside = batch.filter(pc.is_in(batch["conversation_id"], value_set=wanted))
        for row in inside.to_pylist():
            for turn in turns[row["conversation_id"]]:
                reply, feedback = row["messages"][turn - 1 : turn + 1]
                found[row["conversation_id"], turn] = {
                    "reply": escape_invisible(reply["content"], characters, keep="\n\t"),
                    "feedback": escape_invisible(feedback["content"], characters, keep="\n\t"),
                }
    return found
