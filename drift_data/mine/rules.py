"""The rules of mining: turns one labelled conversation into rows of `dsat`, `sat` and `seed`, or says why it gives none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from drift_data.chats.order import choose_split
from drift_data.chats.turns import Message, Messages
from drift_data.mine.options import MineOptions
from drift_data.schema import DSAT, SAT, TableName

MINED_TABLES = (TableName.DSAT, TableName.SAT, TableName.SEED)


@dataclass(frozen=True, slots=True)
class LabelledTurn:
    """One DSAT or SAT turn of a conversation."""

    turn: int
    label: str
    score: float  # `sat_score` of a SAT turn, `dsat_score` of a DSAT turn
    items: Sequence[str] = ()  # names of the items whose polarity is the label
    reason: str | None = None
    refusal: bool = False  # the judged reply is a refusal
    correct_refusal: bool | None = None  # the request deserved that refusal; None: nobody judged it


@dataclass(frozen=True, slots=True)
class MinedRow:
    """A row that a conversation gives one of the tables, kept or dropped."""

    row: dict[str, Any]
    score: float  # score of the turn
    reason: str | None = None  # why the row is dropped; None: the row is kept


def mine_conversation(
    conversation_id: str, messages: Messages, turns: Sequence[LabelledTurn], options: MineOptions
) -> dict[str, list[MinedRow]]:
    """Return the rows that one conversation gives each table, including the rows to drop.

    Each DSAT turn gives a row for `dsat`, each SAT turn one for `sat`. A DSAT turn gives a row for `seed`, too, when
    the next feedback turn, the answer to the revised reply, is SAT.

    Args:
        conversation_id: the conversation; it also decides the split.
        messages: the whole conversation.
        turns: the DSAT and SAT turns of the conversation, in order.
        options: which turns become examples.
    """
    split = choose_split(conversation_id, options.test_fraction)
    found: dict[str, list[MinedRow]] = {name: [] for name in MINED_TABLES}
    label_of = {turn.turn: turn.label for turn in turns}
    for turn in turns:
        row: dict[str, Any] = {"conversation_id": conversation_id, "turn": turn.turn, "split": split}
        if not _is_feedback_turn(messages, turn.turn):
            found[turn.label.lower()].append(MinedRow(row, turn.score, "not_a_feedback_turn"))
            continue
        reply, feedback = messages[turn.turn - 1], messages[turn.turn]
        row |= {"prompt": messages[: turn.turn - 1], "feedback": feedback["content"]}
        example = row | {"items": list(turn.items), "reason": turn.reason}
        refused = None if options.keep_refusals or turn.label != DSAT else _find_refusal_fault(turn)
        fault = refused or _find_message_fault(row["prompt"], reply, feedback)
        if turn.label == SAT:
            found[TableName.SAT].append(MinedRow(example | {"chosen": [reply]}, turn.score, fault))
            continue
        found[TableName.DSAT].append(MinedRow(example | {"rejected": [reply]}, turn.score, fault))
        if label_of.get(turn.turn + 2) == SAT and _is_feedback_turn(messages, turn.turn + 2):
            revised = messages[turn.turn + 1]
            fault = fault or _find_message_fault(row["prompt"], revised, feedback)
            if fault is None and revised["content"] == reply["content"]:
                fault = "same_reply"
            found[TableName.SEED].append(
                MinedRow(row | {"rejected": [reply], "chosen": [revised]}, turn.score, fault)
            )
    if options.per_conversation == "all":
        return found
    return {name: _keep_strongest(rows) for name, rows in found.items()}


def _is_feedback_turn(messages: Messages, turn: int) -> bool:
    return (
        0 < turn < len(messages)
        and messages[turn]["role"] == "user"
        and messages[turn - 1]["role"] == "assistant"
    )


def _find_refusal_fault(turn: LabelledTurn) -> str | None:
    """Return why a complaint about a refusal must not count against that refusal; None: it may count."""
    if not turn.refusal or turn.correct_refusal is False:
        return None
    return "correct_refusal" if turn.correct_refusal else "refusal"


def _find_message_fault(prompt: Messages, reply: Message, feedback: Message) -> str | None:
    """Return why these messages make no example; None: they make one."""
    if not prompt or prompt[-1]["role"] != "user":
        return "prompt_without_question"
    if not (reply["content"] or "").strip():
        return "empty_reply"
    if not (feedback["content"] or "").strip():
        return "empty_feedback"
    return None


def _keep_strongest(rows: list[MinedRow]) -> list[MinedRow]:
    """Drop all usable rows but the one with the highest score; of equal ones the later one stays."""
    usable = {at for at, row in enumerate(rows) if row.reason is None}
    if not usable:
        return rows
    best = max(usable, key=lambda at: (rows[at].score, at))
    return [
        replace(row, reason="not_the_strongest") if at in usable and at != best else row
        for at, row in enumerate(rows)
    ]
