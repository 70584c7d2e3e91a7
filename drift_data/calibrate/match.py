"""Joins labels with gold by turn, and finds out why a turn of the gold has no label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from drift_data.calibrate.gold import Gold
from drift_data.labels.reviewer import REVIEW_STAGE
from drift_data.labels.tables import KEY_COLUMNS, read_labels
from drift_data.schema import TableName
from drift_data.workspace import UserError, Workspace

_LABEL_COLUMNS = ["sat_score", "dsat_score", "items", "refusal", "reason", "evidence"]
AMBIGUOUS_REASON = "the hash stands for several conversations"  # why a turn of the gold is left out
_GOLD_NAMES = {name: f"gold_{name}" for name in ("label", "item", "strength", "refusal")}


class MatchCounts(BaseModel):
    """How many turns the labels and the gold share, and how many only one of them has."""

    turns: int  # turns that both have
    conversations: int  # conversations of these turns
    only_labels: int  # turns that the gold does not have
    only_gold: dict[str, int]  # reason → turns that the labels do not have


def match_turns(
    workspace: Workspace, labels: str, gold: Gold
) -> tuple[pl.DataFrame, pl.DataFrame, MatchCounts]:
    """Join labels with gold.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the label table.
        gold: labelled turns. Rows of a `conversation_hash` that several conversations share are left out, because
            the hash does not tell which of the conversations was labelled.

    Returns:
        All label rows; the matched rows, sorted by conversation and turn, with `gold_label`, `gold_item`,
        `gold_strength` and `gold_refusal` beside the label's columns; and the counts.

    Raises:
        UserError: labels and gold have no turn in common.
    """
    given = read_labels(workspace, labels, _LABEL_COLUMNS)
    known = _read_conversation_ids(workspace)
    left_out = _read_left_out(workspace)
    rows, reasons = gold.rows, Counter[str]()
    if gold.by_hash:
        shared = _find_shared_hashes(rows["conversation_id"].unique(), known, left_out)
        several = pl.col("conversation_id").is_in(shared)
        reasons[AMBIGUOUS_REASON] = rows.filter(several).height
        rows = rows.filter(~several)
    matched = given.join(rows.rename(_GOLD_NAMES), on=KEY_COLUMNS, how="inner").sort(KEY_COLUMNS)
    missing = rows.join(given, on=KEY_COLUMNS, how="anti")
    unlabelled = _read_unlabelled(workspace, labels)
    judged = {*given["conversation_id"], *(name for name, _ in unlabelled)}
    partial = workspace.require(labels).stage == REVIEW_STAGE
    reasons.update(_explain_missing(missing, judged, known, left_out, unlabelled, partial))
    counts = MatchCounts(
        turns=matched.height,
        conversations=matched["conversation_id"].n_unique(),
        only_labels=given.height - matched.height,
        only_gold={reason: count for reason, count in reasons.most_common() if count},
    )
    if not matched.height:
        raise UserError(
            f"{gold.name} and {workspace.path(labels)} have no turn in common: {_describe_reasons(counts.only_gold)}. "
            f"Gold begins with conversation {rows['conversation_id'].head(1).to_list()}, the labels with "
            f"{given['conversation_id'].head(1).to_list()}."
        )
    return given, matched, counts


def find_ambiguous_hashes(workspace: Workspace, gold: Gold) -> list[str]:
    """Return the hashes in the gold that several conversations share; empty for gold with conversation ids."""
    if not gold.by_hash:
        return []
    return _find_shared_hashes(
        gold.rows["conversation_id"].unique(), _read_conversation_ids(workspace), _read_left_out(workspace)
    )


def _read_conversation_ids(workspace: Workspace) -> set[str]:
    """Return the ids of all conversations."""
    return set(
        pa.chunked_array(
            [
                batch["conversation_id"]
                for batch in workspace.batches(TableName.CONVERSATIONS, ["conversation_id"])
            ],
            pa.string(),
        ).to_pylist()
    )


def _describe_reasons(reasons: dict[str, int]) -> str:
    """Return reasons and their counts as text for an error message, such as "not reviewed 12, …"."""
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()) or "the labels are empty"


def _find_shared_hashes(hashes: Iterable[str], known: Collection[str], left_out: dict[str, str]) -> list[str]:
    """Return the hashes that several conversations share, sorted.

    `convert` gives the second conversation of a hash the suffix "-2". If `convert` dropped the second conversation as a
    "duplicate", both were the same conversation, and the hash is not ambiguous.
    """
    repeats = {name for name, reason in left_out.items() if reason != "duplicate"}
    return sorted(name for name in hashes if f"{name}-2" in known or f"{name}-2" in repeats)


def _explain_missing(
    missing: pl.DataFrame,
    judged: Collection[str],
    known: Collection[str],
    left_out: dict[str, str],
    unlabelled: dict[tuple[str, int], str],
    partial: bool,
) -> Iterable[str]:
    """Yield, for each row of `missing`, the reason why its turn has no label.

    Args:
        missing: rows of the gold without a label.
        judged: ids of the conversations that the label table mentions, in labels or dropped turns.
        known: ids of the table `conversations`.
        left_out: id → reason, of the conversations that convert dropped.
        unlabelled: turn → reason, of the turns that the judge dropped.
        partial: whether a reviewer made the labels, who may have seen only some of the turns.
    """
    for name, turn in missing.select(KEY_COLUMNS).iter_rows():
        if (name, turn) in unlabelled:
            yield f"not labelled: {unlabelled[name, turn]}"
        elif name in known and partial:
            yield "not reviewed"
        elif name in known:
            yield "no feedback turn of the labels" if name in judged else "conversation not labelled"
        elif name in left_out:
            yield f"conversation left out by convert: {left_out[name]}"
        else:
            yield "conversation not in the workspace"


def _read_left_out(workspace: Workspace) -> dict[str, str]:
    """Return the conversations that `convert` left out, with the reason."""
    rows = _iter_dropped(workspace, TableName.CONVERSATIONS, ["conversation_id", "reason"])
    return {name: reason for name, reason in rows if name is not None}


def _read_unlabelled(workspace: Workspace, labels: str) -> dict[tuple[str, int], str]:
    """Return the turns that the judge could not label, with the reason."""
    rows = _iter_dropped(workspace, labels, [*KEY_COLUMNS, "reason"])
    return {(name, turn): reason for name, turn, reason in rows}


def _iter_dropped(workspace: Workspace, table: str, columns: list[str]) -> Iterable[tuple[Any, ...]]:
    """Yield the dropped rows of a table."""
    for shard in sorted(workspace.dropped_path(table).glob("part-*.parquet")):
        yield from pl.DataFrame(pq.read_table(shard, columns=columns)).iter_rows()
