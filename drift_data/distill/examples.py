"""A teacher's labels × conversations → turns to learn from and to measure on, joined by key. Trains nothing.

Conversations are read in batches; of each turn only what the classifier reads is kept, and what the baselines say.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from drift_data.chats.order import HOLD_OUT, HOLD_OUT_EVEN, is_one_in
from drift_data.judge.local.corpus import Example, read_corpus
from drift_data.judge.local.cues import Cues, load_cues
from drift_data.judge.local.features import Turns, join_turns, read_turns
from drift_data.judge.local.model import Model
from drift_data.judge.local.train import Examples
from drift_data.judge.rubric import Rubric
from drift_data.labels.tables import KEYS
from drift_data.schema import DSAT, MESSAGES, SAT, TableName
from drift_data.workspace import Workspace

_BATCH: Final = 500  # conversations


@dataclass(frozen=True)
class Taught:
    """The teacher's turns that are in the conversations."""

    turns: Turns
    # One row a turn, in the same order: conversation_id, turn, gold_label (the teacher's), item, held_out, sat_score
    # (phrases), keyword (strength of the strongest phrase of DSAT), shipped (probability), shipped_item
    rows: pl.DataFrame

    def examples(self, chosen: pl.Series) -> Examples:
        """Return the turns for which a flag is set."""
        at = np.flatnonzero(chosen.to_numpy())
        rows = self.rows[at]
        return Examples(self.turns.take(at), rows["gold_label"].to_list(), rows["item"].to_list())


def held_out(conversation: str, one_in: int | None) -> bool:
    """Say whether a conversation is never learned from: one in an odd number by its SHA-256, in an even by another."""
    return one_in is not None and is_one_in(conversation, HOLD_OUT if one_in % 2 else HOLD_OUT_EVEN, one_in)


def taught(workspace: Workspace, rows: pl.DataFrame, one_in: int | None, shipped: Model) -> Taught | None:
    """Return the turns of a workspace that a teacher has labelled; None when there is none.

    Args:
        workspace: holds the conversations.
        rows: `conversation_id`, `turn`, `label`, `item`, each key once.
        one_in: of `held_out`.
        shipped: what the shipped classifier says of them is kept beside.
    """
    cues, parts, frames = load_cues(), [], []
    wanted = pa.array(rows["conversation_id"].unique().to_list(), pa.string())
    total = workspace.require(TableName.CONVERSATIONS).rows_out
    with tqdm(total=total, desc="read turns", unit=" conv", mininterval=0.5, file=sys.stderr) as bar:
        for batch in workspace.batches(TableName.CONVERSATIONS, ["conversation_id", "messages"], _BATCH):
            inside = batch.filter(pc.is_in(batch["conversation_id"], value_set=wanted))
            if inside.num_rows:
                turns, labelled = _labelled(read_turns(inside, cues), rows)
                if len(turns):
                    said = _said(turns, cues, shipped)
                    frames.append(pl.concat([labelled, said], how="horizontal"))
                    parts.append(_bare(turns))
            bar.update(batch.num_rows)
    if not parts:
        return None
    found = pl.concat(frames).rename({"label": "gold_label"})
    names = found["conversation_id"].unique()
    kept_apart = pl.Series([held_out(name, one_in) for name in names], dtype=pl.Boolean)
    apart = found["conversation_id"].replace_strict(names, kept_apart, return_dtype=pl.Boolean)
    return Taught(join_turns(parts), found.with_columns(held_out=apart))


@dataclass(frozen=True)
class Written:
    """Our own turns, which know the phrases of many languages."""

    examples: Examples
    conversations: int
    languages: int
    digest: str


def written(rubric: Rubric, with_items: bool) -> Written:
    """Return our own written turns.

    Args:
        rubric: knows their items.
        with_items: keep the items; not beside a teacher who names others.
    """
    corpus = read_corpus({f"{rubric.polarities[item.name]}:{item.name}" for item in rubric.items})
    table = pa.table(
        {
            "conversation_id": pa.array([example.name for example in corpus], pa.string()),
            "messages": pa.array([example.messages for example in corpus], MESSAGES),
        }
    )
    marks = pl.DataFrame(
        [
            (example.name, turn, mark.label, mark.item if with_items else None)
            for example in corpus
            for turn, mark in example.marks.items()
        ],
        schema={"conversation_id": pl.String, "turn": pl.Int32, "label": pl.String, "item": pl.String},
        orient="row",
    )
    turns, rows = _labelled(read_turns(table.combine_chunks().to_batches()[0], load_cues()), marks)
    return Written(
        Examples(_bare(turns), rows["label"].to_list(), rows["item"].to_list()),
        len(corpus),
        len({example.language for example in corpus}),
        _digest(corpus),
    )


def _labelled(turns: Turns, rows: pl.DataFrame) -> tuple[Turns, pl.DataFrame]:
    """Return the turns that have a label, and their keys, labels and items in the same order."""
    found = turns.frame.select("at", *KEYS).join(rows, on=KEYS, how="inner", maintain_order="left")
    return turns.take(found["at"].to_numpy()), found.select(*KEYS, "label", "item")


def _bare(turns: Turns) -> Turns:
    """Return turns without their texts: only what they were read for is needed on."""
    return Turns(turns.frame.select("at", *KEYS), turns.numbers, turns.names, turns.grams)


def _said(turns: Turns, cues: Cues, shipped: Model) -> pl.DataFrame:
    """Return what phrases and the shipped classifier say of each turn."""
    satisfied = cues.signs_in(turns.frame, SAT).group_by("at").agg(sat_score=pl.col("strength").sum())
    dissatisfied = cues.signs_in(turns.frame, DSAT).group_by("at").agg(keyword=pl.col("strength").max())
    phrases = (
        turns.frame.select("at")
        .join(satisfied, on="at", how="left", maintain_order="left")
        .join(dissatisfied, on="at", how="left", maintain_order="left")
    )
    predicted = shipped.predict(turns)
    return phrases.select(
        pl.col("sat_score", "keyword").fill_null(0).cast(pl.Float64),
        shipped=pl.Series(predicted.dsat, dtype=pl.Float64),
        shipped_item=named(list(shipped.card.items), shipped.named(turns)),
    )


def named(items: Sequence[str], at: np.ndarray) -> pl.Series:
    """Return the names of numbered items; nulls for a model that names none."""
    names = [items[number] for number in at] if items else [None] * len(at)
    return pl.Series(names, dtype=pl.String)


def _digest(corpus: Sequence[Example]) -> str:
    return hashlib.sha256(repr(corpus).encode()).hexdigest()[:12]
