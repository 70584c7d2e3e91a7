"""Who teaches: a label table or a file of labelled turns, as keys, labels and main items. Reads no conversation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from drift_data.calibrate.gold import read_gold
from drift_data.calibrate.match import find_ambiguous_hashes
from drift_data.chats.order import TEACHER_CAP, rank
from drift_data.labels.sample import describe_earlier_sample
from drift_data.labels.tables import (
    KEYS,
    SAMPLE,
    label_tables,
    labels_chosen,
    read_labels,
    select_strongest_item,
)
from drift_data.schema import DSAT
from drift_data.workspace import Manifest, UserError, Workspace

SEVERAL: Final = "the hash stands for several conversations"
_OWN: Final = "local:"  # how the local judge's name begins


@dataclass(frozen=True)
class Teacher:
    """Labelled turns, each key once."""

    name: str  # of the table or file
    judge: str
    rows: pl.DataFrame  # conversation_id, turn, label, item: the strongest sign of a DSAT turn
    manifest: Manifest | None = None  # of the table, if it is one
    inputs: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_teacher(workspace: Workspace, labels: str | None, gold: str | None) -> Teacher:
    """Return the labels to learn from: those of a table as typed ("openai-sample", "human:ann"), else of a file.

    Raises:
        UserError: neither is given or there, or the labels are the local judge's own.
    """
    if labels is None and gold is None:
        raise UserError(
            f"Give LABELS= or GOLD=, the labels to learn from. {workspace.root / 'labels'} has: {label_tables(workspace)}."
        )
    if labels is None:
        assert gold is not None
        return read_truth(workspace, gold)
    return _table(workspace, labels_chosen(workspace, labels))


def read_truth(workspace: Workspace, gold: str) -> Teacher:
    """Return labelled turns of a file, or of a table, as `make calibrate` reads them."""
    found = read_gold(workspace, gold)
    if found.inputs:
        return _table(workspace, found.name)
    several = find_ambiguous_hashes(workspace, found)
    rows = found.rows.filter(~pl.col("conversation_id").is_in(several))
    notes = (f"{found.rows.height - rows.height:,} turns are left out: {SEVERAL}.",) if several else ()
    return Teacher(
        found.name, f"file:{found.name}", rows.select(*KEYS, "label", "item"), files=found.files, notes=notes
    )


def short_name(teacher: Teacher) -> str:
    """Return what a model is called that nobody has named: as its teacher, the ending of a sample left out."""
    bare = teacher.name.removeprefix("labels/").removesuffix(f"-{SAMPLE}").rsplit(".", 1)[0]
    return re.sub(r"[^\w.-]+", "-", bare).strip("-.")[:40] or "gold"


def capped(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """Return the turns of whole conversations, in the order of TEACHER_CAP, up to a number of turns."""
    sizes = rows.group_by("conversation_id").len("turns")
    order = [rank(name, TEACHER_CAP) for name in sizes["conversation_id"]]
    sizes = sizes.with_columns(order=pl.Series(order, dtype=pl.Binary)).sort("order")
    kept = sizes.filter(pl.col("turns").cum_sum() <= most)["conversation_id"]
    return rows.filter(pl.col("conversation_id").is_in(kept.implode()))


def _table(workspace: Workspace, table: str) -> Teacher:
    manifest = workspace.require(table)
    judge = str(manifest.options.get("judge") or table.removeprefix("labels/"))
    if judge.startswith(_OWN):
        raise UserError(
            f"{table} was made by the local judge itself ({judge}): there is nothing to learn from it. Name the labels "
            f"of a language model or of a person. There are: {label_tables(workspace)}."
        )
    strongest = select_strongest_item(DSAT).struct.field("name")
    rows = read_labels(workspace, table, ["items"]).select(*KEYS, "label", item=strongest)
    warning = describe_earlier_sample(workspace, table)
    return Teacher(table, judge, rows, manifest, (table,), notes=(warning,) if warning else ())
