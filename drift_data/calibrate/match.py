"""Joins labels with gold by key, and says of every turn that only one side has why that is so.

It knows neither thresholds nor figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from drift_data.calibrate.gold import Gold
from drift_data.labels.reviewer import STAGE as REVIEW
from drift_data.labels.tables import KEYS, read_labels
from drift_data.workspace import UserError, Workspace

CONVERSATIONS = "conversations"
_SCORES = ["sat_score", "dsat_score", "items", "refusal", "reason", "evidence"]
_RENAMED = {name: f"gold_{name}" for name in ("label", "item", "strength", "refusal")}


class Match(BaseModel):
    """What the two sides share, and what only one has."""

    turns: int
    conversations: int
    only_labels: int  # turns the gold does not have
    only_gold: dict[str, int]  # reason → gold turns that the labels do not have


def match(workspace: Workspace, labels: str, gold: Gold) -> tuple[pl.DataFrame, pl.DataFrame, Match]:
    """Return all label rows, the rows that both sides have, and the account of the others.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the label table.
        gold: what to hold it against. A `conversation_hash` that stands for several conversations is set aside:
            nobody knows which of them was labelled.

    Returns:
        Label rows; matched rows, in the order of their keys, with `gold_label`, `gold_item`, `gold_strength`
        and `gold_refusal`; the account.

    Raises:
        UserError: they have no turn in common.
    """
    given = read_labels(workspace, labels, _SCORES)
    known = _known(workspace)
    left_out = _left_out(workspace)
    rows, reasons = gold.rows, Counter[str]()
    if gold.by_hash:
        shared = _shared(rows["conversation_id"].unique(), known, left_out)
        several = pl.col("conversation_id").is_in(shared)
        reasons["the hash stands for several conversations"] = rows.filter(several).height
        rows = rows.filter(~several)
    matched = given.join(rows.rename(_RENAMED), on=KEYS, how="inner").sort(KEYS)
    missing = rows.join(given, on=KEYS, how="anti")
    unlabelled = _unlabelled(workspace, labels)
    judged = {*given["conversation_id"], *(name for name, _ in unlabelled)}
    partial = workspace.require(labels).stage == REVIEW
    reasons.update(_reasons(missing, judged, known, left_out, unlabelled, partial))
    account = Match(
        turns=matched.height,
        conversations=matched["conversation_id"].n_unique(),
        only_labels=given.height - matched.height,
        only_gold={reason: count for reason, count in reasons.most_common() if count},
    )
    if not matched.height:
        raise UserError(
            f"{gold.name} and {workspace.path(labels)} have no turn in common: {_said(account.only_gold)}. "
            f"Gold begins with conversation {rows['conversation_id'].head(1).to_list()}, the labels with "
            f"{given['conversation_id'].head(1).to_list()}."
        )
    return given, matched, account


def ambiguous(workspace: Workspace, gold: Gold) -> list[str]:
    """Return the ids of gold that stand for several conversations: it is keyed by hash, and the hash repeats."""
    if not gold.by_hash:
        return []
    return _shared(gold.rows["conversation_id"].unique(), _known(workspace), _left_out(workspace))


def _known(workspace: Workspace) -> set[str]:
    """Return the ids of all conversations."""
    return set(
        pa.chunked_array(
            [batch["conversation_id"] for batch in workspace.batches(CONVERSATIONS, ["conversation_id"])],
            pa.string(),
        ).to_pylist()
    )


def _said(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()) or "the labels are empty"


def _shared(hashes: Iterable[str], known: Collection[str], left_out: dict[str, str]) -> list[str]:
    """Return the hashes whose repeat, which got the suffix "-2", is another conversation."""
    repeats = {name for name, reason in left_out.items() if reason != "duplicate"}
    return sorted(name for name in hashes if f"{name}-2" in known or f"{name}-2" in repeats)


def _reasons(
    missing: pl.DataFrame,
    judged: Collection[str],
    known: Collection[str],
    left_out: dict[str, str],
    unlabelled: dict[tuple[str, int], str],
    partial: bool,
) -> Iterable[str]:
    for name, turn in missing.select(KEYS).iter_rows():
        if (name, turn) in unlabelled:
            yield f"not labelled: {unlabelled[name, turn]}"
        elif name in known and partial:  # a person's labels, of what that person got to
            yield "not reviewed"
        elif name in known:
            yield "no feedback turn of the labels" if name in judged else "conversation not labelled"
        elif name in left_out:
            yield f"conversation left out by convert: {left_out[name]}"
        else:
            yield "conversation not in the workspace"


def _left_out(workspace: Workspace) -> dict[str, str]:
    """Return the conversations that `convert` left out, with the reason."""
    rows = _dropped(workspace, CONVERSATIONS, ["conversation_id", "reason"])
    return {name: reason for name, reason in rows if name is not None}


def _unlabelled(workspace: Workspace, labels: str) -> dict[tuple[str, int], str]:
    rows = _dropped(workspace, labels, [*KEYS, "reason"])
    return {(name, turn): reason for name, turn, reason in rows}


def _dropped(workspace: Workspace, table: str, columns: list[str]) -> Iterable[tuple[Any, ...]]:
    for shard in sorted(workspace.dropped_path(table).glob("part-*.parquet")):
        yield from pl.DataFrame(pq.read_table(shard, columns=columns)).iter_rows()
