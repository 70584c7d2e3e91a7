"""Label tables of a workspace: their names, which one is meant, and how one is read."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow.parquet as pq

from drift_data.labels.reviewer import HUMAN, reviewer
from drift_data.schema import DROPPED, LABELS, TableName
from drift_data.workspace import Output, UserError, Workspace

STAGE = "label"


SAMPLE = "sample"  # stage of labels of some conversations only, and the ending of their table's name


NONE = "none"  # tables


def label_table(name: str, sample: int | None = None) -> str:
    """Return the folder of a label table; labels of a sample lie beside those of all conversations."""
    return f"labels/{name}" if sample is None else f"labels/{name}-{SAMPLE}"


def labels_named(name: str) -> str:
    """Return the folder of labels as typed: "local", "labels/local", or a person's, "human:ann"."""
    short = name.removeprefix("labels/")
    if short.startswith(HUMAN):
        return reviewer(short.removeprefix(HUMAN)).table
    return name if "/" in name else f"labels/{name}"


def labels_chosen(workspace: Workspace, name: str, option: str = "LABELS") -> str:
    """Return the folder of labels as typed that a workspace has.

    Raises:
        UserError: it has others, which are listed. Where it has none, whoever reads the folder says what makes it.
    """
    table, there = labels_named(name), label_tables(workspace)
    if there != NONE and workspace.manifest(table) is None:
        raise UserError(f"{option}={name}: there is no {workspace.path(table)}. There are: {there}.")
    return table


def label_tables(workspace: Workspace) -> str:
    """Return the names of a workspace's label tables, to be read by a person."""
    found = sorted(path.parent.name for path in (workspace.root / "labels").glob("*/manifest.json"))
    return ", ".join(found) or NONE


def latest_labels(workspace: Workspace) -> str:
    """Return the table of labels to mine by default, such as "labels/local".

    The one that the label stage made last; labels that came with the conversations only when there is no other,
    and never a person's, which hold the few turns that were reviewed.

    Raises:
        UserError: there are no labels.
    """
    made: list[tuple[bool, int, str]] = []
    for path in sorted((workspace.root / "labels").glob("*/manifest.json")):
        name = f"labels/{path.parent.name}"
        manifest = workspace.manifest(name)
        by_stage = manifest is not None and manifest.stage == STAGE
        if by_stage or workspace.made_together(name, TableName.CONVERSATIONS):
            made.append((by_stage, path.stat().st_mtime_ns, name))
    if not made:
        raise UserError(f"{workspace.root / 'labels'} holds no labels. Run `make label` first.")
    return max(made)[2]


def copy_dropped(workspace: Workspace, labels: str, out: Output) -> None:
    """Take over the turns that the judge could not label."""
    for shard in sorted(workspace.dropped_path(labels).glob("part-*.parquet")):
        for batch in pq.ParquetFile(shard).iter_batches():
            out.drop(batch.to_pylist(), DROPPED)


def select_strongest_item(polarity: str | None = None) -> pl.Expr:
    """Return an expression: the item of greatest strength in the column `items`, a struct; null where there is none.

    Args:
        polarity: only items of this side count; None: items of both sides.
    """
    item = pl.element()
    if polarity is not None:
        item = item.filter(pl.element().struct.field("polarity") == polarity)
    by_strength = item.sort_by(item.struct.field("strength"), descending=True)
    return pl.col("items").list.eval(by_strength).list.first()


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
