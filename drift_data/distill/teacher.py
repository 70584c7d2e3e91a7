"""Reads the labels to learn from: a label table or a file of labelled turns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from drift_data.calibrate.gold import read_gold
from drift_data.calibrate.match import AMBIGUOUS_REASON, find_ambiguous_hashes
from drift_data.chats.order import TEACHER_CAP, rank
from drift_data.labels.sample import describe_earlier_sample
from drift_data.labels.tables import (
    KEY_COLUMNS,
    SAMPLE_STAGE,
    find_labels,
    list_label_tables,
    read_labels,
    select_strongest_item,
)
from drift_data.schema import DSAT
from drift_data.workspace import Manifest, UserError, Workspace

_LOCAL_JUDGE: Final = "local:"  # how the local judge's names begin


@dataclass(frozen=True)
class Teacher:
    """Labelled turns to learn from, each turn once."""

    name: str  # folder of the label table, or file name
    judge: str  # who made the labels
    rows: pl.DataFrame  # conversation_id, turn, label, item (the strongest DSAT item of the turn, or null)
    manifest: Manifest | None = None  # manifest of the label table, if the labels are one
    inputs: tuple[str, ...] = ()  # the label table, if the labels are one: an input of the stage
    files: Mapping[str, str] = field(default_factory=dict)  # file name → digest, if the labels are a file
    notes: tuple[str, ...] = ()  # caveats for readers of figures that are measured on these labels


def read_teacher(workspace: Workspace, labels: str | None, gold: str | None) -> Teacher:
    """Return the labels to learn from.

    Args:
        workspace: holds the label tables.
        labels: label table as typed, such as "openai-sample" or "human:ann".
        gold: file or table of labelled turns; read only when `labels` is None.

    Raises:
        UserError: neither is given, there is no such table or file, or the local judge made the labels itself.
    """
    if labels is None and gold is None:
        raise UserError(
            f"Give LABELS= or GOLD=, the labels to learn from. {workspace.root / 'labels'} has: {list_label_tables(workspace)}."
        )
    if labels is None:
        assert gold is not None
        return read_truth(workspace, gold)
    return _read_table(workspace, find_labels(workspace, labels))


def read_truth(workspace: Workspace, gold: str) -> Teacher:
    """Return the labelled turns of a file or table, as `make calibrate` reads them.

    Raises:
        UserError: there is no such file or table, or it does not hold labelled turns.
    """
    found = read_gold(workspace, gold)
    if found.inputs:
        return _read_table(workspace, found.name)
    several = find_ambiguous_hashes(workspace, found)
    rows = found.rows.filter(~pl.col("conversation_id").is_in(several))
    notes = (
        (f"{found.rows.height - rows.height:,} turns are left out: {AMBIGUOUS_REASON}.",) if several else ()
    )
    return Teacher(
        found.name,
        f"file:{found.name}",
        rows.select(*KEY_COLUMNS, "label", "item"),
        files=found.files,
        notes=notes,
    )


def choose_default_name(teacher: Teacher) -> str:
    """Return the default classifier name: the teacher's table name without `-sample`, or its file name."""
    bare = teacher.name.removeprefix("labels/").removesuffix(f"-{SAMPLE_STAGE}").rsplit(".", 1)[0]
    return re.sub(r"[^\w.-]+", "-", bare).strip("-.")[:40] or "gold"


def cap_turns(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """Return the turns of as many conversations as fit, taken in the order of TEACHER_CAP.

    Args:
        rows: turns of the teacher.
        most: largest number of turns to return; a conversation is kept whole or not at all.
    """
    sizes = rows.group_by("conversation_id").len("turns")
    order = [rank(name, TEACHER_CAP) for name in sizes["conversation_id"]]
    sizes = sizes.with_columns(order=pl.Series(order, dtype=pl.Binary)).sort("order")
    kept = sizes.filter(pl.col("turns").cum_sum() <= most)["conversation_id"]
    return rows.filter(pl.col("conversation_id").is_in(kept.implode()))


def _read_table(workspace: Workspace, table: str) -> Teacher:
    """Return the labels of a table.

    Raises:
        UserError: there is no such table, or the local judge made it.
    """
    manifest = workspace.require(table)
    judge = str(manifest.options.get("judge") or table.removeprefix("labels/"))
    if judge.startswith(_LOCAL_JUDGE):
        raise UserError(
            f"{table} was made by the local judge itself ({judge}): there is nothing to learn from it. Name the labels "
            f"of a language model or of a person. There are: {list_label_tables(workspace)}."
        )
    strongest = select_strongest_item(DSAT).struct.field("name")
    rows = read_labels(workspace, table, ["items"]).select(*KEY_COLUMNS, "label", item=strongest)
    warning = describe_earlier_sample(workspace, table)
    return Teacher(table, judge, rows, manifest, (table,), notes=(warning,) if warning else ())
