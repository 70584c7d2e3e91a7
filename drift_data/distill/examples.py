"""Loads the turns to learn from and to measure on: a teacher's labelled turns, and turns that we wrote ourselves.

Conversations are read in batches. Of each turn, memory holds only its features and the answers of the baselines.
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
from drift_data.judge.local.corpus import WrittenConversation, WrittenLabel, read_corpus
from drift_data.judge.local.cues import Cues, load_cues
from drift_data.judge.local.features import FeedbackTurns, join_turns, read_turns
from drift_data.judge.local.model import Classifier
from drift_data.judge.local.train import LabelledTurns
from drift_data.judge.rubric import Rubric
from drift_data.labels.tables import KEY_COLUMNS
from drift_data.schema import DSAT, MESSAGES, SAT, TableName
from drift_data.workspace import Workspace

_BATCH_CONVERSATIONS: Final = 500  # conversations read at once


@dataclass(frozen=True)
class TaughtTurns:
    """The teacher's turns that the workspace's conversations contain.

    Attributes:
        turns: features of the turns.
        rows: one row a turn, in the same order. `gold_label` is the teacher's label, and `item` is the teacher's item.
            `held_out` says whether the turn is kept from training. Four columns hold the answers of the baselines:
            `sat_score` (sum of the strengths of SAT phrases), `keyword` (strength of the strongest DSAT phrase),
            `shipped` (probability of DSAT by the classifier that ships) and `shipped_item` (item that it names).
    """

    turns: FeedbackTurns
    rows: pl.DataFrame

    def select_examples(self, chosen: pl.Series) -> LabelledTurns:
        """Return the chosen turns as training examples; `chosen` has one flag a turn."""
        at = np.flatnonzero(chosen.to_numpy())
        rows = self.rows[at]
        return LabelledTurns(self.turns.take(at), rows["gold_label"].to_list(), rows["item"].to_list())


def is_held_out(conversation: str, one_in: int | None) -> bool:
    """Say whether a conversation is held out, so that no classifier learns from it.

    Args:
        conversation: id.
        one_in: one conversation in this many is held out. The order HOLD_OUT decides which, if the number is odd, and
            HOLD_OUT_EVEN if it is even. None: no conversation is held out.
    """
    return one_in is not None and is_one_in(conversation, HOLD_OUT if one_in % 2 else HOLD_OUT_EVEN, one_in)


def load_taught_turns(
    workspace: Workspace, rows: pl.DataFrame, one_in: int | None, shipped: Classifier
) -> TaughtTurns | None:
    """Return the feedback turns of a workspace that a teacher has labelled; None if there are none.

    Args:
        workspace: holds the conversations.
        rows: the teacher's `conversation_id`, `turn`, `label`, `item`, each turn once.
        one_in: one conversation in this many is held out, see `is_held_out`.
        shipped: classifier that ships, whose answers are a baseline.
    """
    cues, parts, frames = load_cues(), [], []
    wanted = pa.array(rows["conversation_id"].unique().to_list(), pa.string())
    total = workspace.require(TableName.CONVERSATIONS).rows_out
    with tqdm(total=total, desc="read turns", unit=" conv", mininterval=0.5, file=sys.stderr) as bar:
        for batch in workspace.batches(
            TableName.CONVERSATIONS, ["conversation_id", "messages"], _BATCH_CONVERSATIONS
        ):
            inside = batch.filter(pc.is_in(batch["conversation_id"], value_set=wanted))
            if inside.num_rows:
                turns, labelled = _join_labels(read_turns(inside, cues), rows)
                if len(turns):
                    answers = _predict_with_baselines(turns, cues, shipped)
                    frames.append(pl.concat([labelled, answers], how="horizontal"))
                    parts.append(_drop_texts(turns))
            bar.update(batch.num_rows)
    if not parts:
        return None
    found = pl.concat(frames).rename({"label": "gold_label"})
    names = found["conversation_id"].unique()
    flags = pl.Series([is_held_out(name, one_in) for name in names], dtype=pl.Boolean)
    held_out = found["conversation_id"].replace_strict(names, flags, return_dtype=pl.Boolean)
    return TaughtTurns(join_turns(parts), found.with_columns(held_out=held_out))


@dataclass(frozen=True)
class WrittenTurns:
    """Turns that we wrote ourselves, with the phrases of many languages."""

    examples: LabelledTurns
    conversations: int
    languages: int
    digest: str  # hash of the texts


def load_written_turns(rubric: Rubric, with_items: bool) -> WrittenTurns:
    """Return our own written turns.

    Args:
        rubric: rubric whose items the turns are marked with.
        with_items: whether to keep the items. For a teacher whose items come from another rubric, they are left out.
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
    turns, rows = _join_labels(read_turns(table.combine_chunks().to_batches()[0], load_cues()), marks)
    return WrittenTurns(
        LabelledTurns(_drop_texts(turns), rows["label"].to_list(), rows["item"].to_list()),
        len(corpus),
        len({example.language for example in corpus}),
        _hash_corpus(corpus),
    )


def _join_labels(turns: FeedbackTurns, rows: pl.DataFrame) -> tuple[FeedbackTurns, pl.DataFrame]:
    """Return the turns that have a label, and their ids, labels and items in the same order."""
    found = turns.frame.select("at", *KEY_COLUMNS).join(
        rows, on=KEY_COLUMNS, how="inner", maintain_order="left"
    )
    return turns.take(found["at"].to_numpy()), found.select(*KEY_COLUMNS, "label", "item")


def _drop_texts(turns: FeedbackTurns) -> FeedbackTurns:
    """Return turns with their features only, because the texts take memory and are not needed any more."""
    return FeedbackTurns(turns.frame.select("at", *KEY_COLUMNS), turns.numbers, turns.names, turns.grams)


def _predict_with_baselines(turns: FeedbackTurns, cues: Cues, shipped: Classifier) -> pl.DataFrame:
    """Return the answers of the phrase list and of the classifier that ships, as columns of `TaughtTurns.rows`."""
    satisfied = cues.find_signs(turns.frame, SAT).group_by("at").agg(sat_score=pl.col("strength").sum())
    dissatisfied = cues.find_signs(turns.frame, DSAT).group_by("at").agg(keyword=pl.col("strength").max())
    phrases = (
        turns.frame.select("at")
        .join(satisfied, on="at", how="left", maintain_order="left")
        .join(dissatisfied, on="at", how="left", maintain_order="left")
    )
    predicted = shipped.predict(turns)
    return phrases.select(
        pl.col("sat_score", "keyword").fill_null(0).cast(pl.Float64),
        shipped=pl.Series(predicted.dsat, dtype=pl.Float64),
        shipped_item=name_items(list(shipped.card.items), shipped.choose_items(turns)),
    )


def name_items(items: Sequence[str], at: np.ndarray) -> pl.Series:
    """Return the names of items whose numbers a model gave; nulls if the model names no items.

    Args:
        items: names of the model's items; an item's number is its position.
        at: (turns,) numbers of items.
    """
    names = [items[number] for number in at] if items else [None] * len(at)
    return pl.Series(names, dtype=pl.String)


def _hash_corpus(corpus: Sequence[WrittenConversation]) -> str:
    """Return 12 hex digits that change with the texts or their labels.

    The digest stands in the options of finished classifiers, so the hashed text is spelled out here, with the words that
    it has always had: a class that is renamed must not make a classifier anew.
    """
    conversations = (
        f"Example(name={each.name!r}, language={each.language!r}, topic={each.topic!r}, messages={each.messages!r}, "
        f"marks={{{', '.join(f'{at}: {_spell_label(label)}' for at, label in each.marks.items())}}}, "
        f"refusals={each.refusals!r})"
        for each in corpus
    )
    return hashlib.sha256(f"[{', '.join(conversations)}]".encode()).hexdigest()[:12]


def _spell_label(label: WrittenLabel) -> str:
    return f"Mark(label={label.label!r}, item={label.item!r}, strength={label.strength!r})"
