"""Picks turns out of each cell of the confusion table, and reads what was said there. Knows no figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.chats.order import EXCERPTS, rank
from drift_data.chats.safe_text import visible
from drift_data.schema import LABELS
from drift_data.workspace import Workspace


@dataclass(frozen=True)
class Cell:
    """Turns to which the other side gives one label and the labels another, or the same."""

    other: str
    given: str
    turns: int
    excerpts: Sequence[Mapping[str, Any]]  # matched rows with `number`, `reply` and `feedback`

    @property
    def anchor(self) -> str:
        """Return the id of its part of the page."""
        return f"{self.other}-as-{self.given}"


def read_cells(workspace: Workspace, matched: pl.DataFrame, each: int, characters: int) -> list[Cell]:
    """Return the cells that have turns: disagreements first, then by size.

    Args:
        workspace: holds the conversations.
        matched: rows of `matching.match`.
        each: turns that are picked of a cell, in the order of a hash: the same ones every time.
        characters: of a message that are kept, spelled out as `visible` does.
    """
    picked = {
        (other, given): _pick(matched.filter(pl.col("gold_label") == other, pl.col("label") == given), each)
        for other in LABELS
        for given in LABELS
    }
    texts = _texts(workspace, {key for _, rows in picked.values() for key in map(_key, rows)}, characters)
    cells = [Cell(*labels, turns, rows) for labels, (turns, rows) in picked.items() if turns]
    cells.sort(key=lambda cell: (cell.other == cell.given, -cell.turns))
    numbers = iter(range(1, 1 + sum(len(cell.excerpts) for cell in cells)))
    return [
        Cell(
            cell.other,
            cell.given,
            cell.turns,
            [{**row, "number": next(numbers), **texts.get(_key(row), {})} for row in cell.excerpts],
        )
        for cell in cells
    ]


def _pick(rows: pl.DataFrame, each: int) -> tuple[int, list[dict[str, Any]]]:
    order = [
        rank(f"{name}\0{turn}", EXCERPTS) for name, turn in rows.select("conversation_id", "turn").iter_rows()
    ]
    first = rows.with_columns(order=pl.Series(order, dtype=pl.Binary)).sort("order").head(each).drop("order")
    return rows.height, first.to_dicts()


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["conversation_id"], row["turn"]


def _texts(
    workspace: Workspace, keys: set[tuple[str, int]], characters: int
) -> dict[tuple[str, int], dict[str, str]]:
    """Return the judged reply and the feedback of some turns, bounded and safe to show."""
    turns: dict[str, list[int]] = {}
    for name, turn in keys:
        turns.setdefault(name, []).append(turn)
    wanted, found = pa.array(list(turns), pa.string()), {}
    for batch in workspace.batches("conversations", ["conversation_id", "messages"], 1_000):
        inside = batch.filter(pc.is_in(batch["conversation_id"], value_set=wanted))
        for row in inside.to_pylist():
            for turn in turns[row["conversation_id"]]:
                reply, feedback = row["messages"][turn - 1 : turn + 1]
                found[row["conversation_id"], turn] = {
                    "reply": visible(reply["content"], characters, keep="\n\t"),
                    "feedback": visible(feedback["content"], characters, keep="\n\t"),
                }
    return found
