"""Names the label tables of a workspace, finds the one a user means, and reads it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow.parquet as pq

from drift_data.labels.reviewer import HUMAN_JUDGE_PREFIX, make_reviewer
from drift_data.schema import DROPPED, LABELS, TableName
from drift_data.workspace import Output, UserError, Workspace

KEY_COLUMNS = ["conversation_id", "turn"]
LABEL_STAGE = "label"  # stage in the manifest of a table that labels all conversations
# Stage in the manifest of a table that labels a sample. The name of such a table's folder ends with this word, too.
SAMPLE_STAGE = "sample"
NO_TABLES = "none"  # what `list_label_tables` returns when the workspace has no label table


def name_label_table(name: str, sample: int | None = None) -> str:
    """Return the folder of a label table. Labels of a sample have a folder of their own.

    Args:
        name: name of the judge, as in "labels/<name>".
        sample: number of conversations that are labelled; None: all.
    """
    return f"labels/{name}" if sample is None else f"labels/{name}-{SAMPLE_STAGE}"


def resolve_labels(name: str) -> str:
    """Return the folder of labels that a user names: "local", "labels/local", or "human:ann" for a person's labels."""
    short = name.removeprefix("labels/")
    if short.startswith(HUMAN_JUDGE_PREFIX):
        return make_reviewer(short.removeprefix(HUMAN_JUDGE_PREFIX)).table
    return name if "/" in name else f"labels/{name}"


def find_labels(workspace: Workspace, name: str, option: str = "LABELS") -> str:
    """Return the folder of labels that a user names, if the workspace has it.

    Args:
        workspace: holds the labels.
        name: as in `resolve_labels`.
        option: the variable that the user set, for the message.

    Raises:
        UserError: the workspace has other label tables, but not this one. When it has no label table at all, the folder
            is returned, and `Workspace.require` says which command makes it.
    """
    table, there = resolve_labels(name), list_label_tables(workspace)
    if there != NO_TABLES and workspace.manifest(table) is None:
        raise UserError(
            f"{option}={name}: there is no {workspace.path(table)}. The label tables are: {there}."
        )
    return table


def list_label_tables(workspace: Workspace) -> str:
    """Return the names of a workspace's label tables as text for messages; "none" when there are none."""
    found = sorted(path.parent.name for path in (workspace.root / "labels").glob("*/manifest.json"))
    return ", ".join(found) or NO_TABLES


def find_latest_labels(workspace: Workspace) -> str:
    """Return the table of labels to mine when the user names none, such as "labels/local".

    It is the table that the label stage made last. Labels that came with the conversations are taken only when there is
    no other table. A person's labels are never taken, because they hold only the few turns that were reviewed.

    Raises:
        UserError: there are no labels.
    """
    made: list[tuple[bool, int, str]] = []
    for path in sorted((workspace.root / "labels").glob("*/manifest.json")):
        name = f"labels/{path.parent.name}"
        manifest = workspace.manifest(name)
        by_stage = manifest is not None and manifest.stage == LABEL_STAGE
        if by_stage or workspace.made_together(name, TableName.CONVERSATIONS):
            made.append((by_stage, path.stat().st_mtime_ns, name))
    if not made:
        raise UserError(f"{workspace.root / 'labels'} holds no labels. Run `make label` first.")
    return max(made)[2]


def copy_dropped(workspace: Workspace, labels: str, out: Output) -> None:
    """Copy the turns that a judge could not label, with their reasons, to the dropped rows of another table."""
    for shard in sorted(workspace.dropped_path(labels).glob("part-*.parquet")):
        for batch in pq.ParquetFile(shard).iter_batches():
            out.drop(batch.to_pylist(), DROPPED)


def select_strongest_item(polarity: str | None = None) -> pl.Expr:
    """Return an expression for the strongest item in the column `items`: a struct, or null for a turn without items.

    Args:
        polarity: only items of this side count; None: items of both sides.
    """
    item = pl.element()
    if polarity is not None:
        item = item.filter(pl.element().struct.field("polarity") == polarity)
    by_strength = item.sort_by(item.struct.field("strength"), descending=True)
    return pl.col("items").list.eval(by_strength).list.first()


def read_labels(workspace: Workspace, name: str, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return keys, `label` and the named columns of a label table such as "labels/local".

    Raises:
        UserError: the table has two labels for one turn, or labels other than SAT, DSAT, NEUTRAL.
    """
    table = pl.DataFrame(workspace.read(name, [*KEY_COLUMNS, "label", *columns]))
    if table.select(KEY_COLUMNS).is_duplicated().any():
        raise UserError(
            f"{workspace.path(name)} has two labels for one turn. Delete the folder and label again."
        )
    strange = sorted(set(table["label"].unique()) - set(LABELS))
    if strange:
        raise UserError(
            f"{workspace.path(name)} has labels other than {', '.join(LABELS)}: {', '.join(strange)}."
        )
    return table
