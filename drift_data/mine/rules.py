"""The rules of mining: one labelled conversation → the rows that `dsat`, `sat` and `seed` may get, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from drift_data.chats.order import split_of
from drift_data.chats.turns import Message, Messages
from drift_data.mine.options import MineOptions
from drift_data.schema import DSAT, SAT, TableName

OUTPUTS = (TableName.DSAT, TableName.SAT, TableName.SEED)


@dataclass(frozen=True, slots=True)
class Turn:
    """One DSAT or SAT turn of a conversation."""

    turn: int
    label: str
    score: float  # of the label's own side
    items: Sequence[str] = ()  # of the label's own side
    reason: str | None = None
    refusal: bool = False  # the judged reply is a refusal
    correct_refusal: bool | None = None  # and the request deserved it; None: nobody judged that


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that a table may get; with `reason` set, why it does not."""

    row: dict[str, Any]
    score: float
    reason: str | None = None


def mine_conversation(
    conversation_id: str, messages: Messages, turns: Sequence[Turn], options: MineOptions
) -> dict[str, list[Candidate]]:
    """Return the candidates of each table that one conversation gives.

    There is one candidate in `dsat` for each DSAT turn, one in `sat` for each SAT turn, and one in `seed` for
    each DSAT turn whose next feedback turn, the answer to the revised reply, is SAT.

    Args:
        conversation_id: decides the split, too.
        messages: the whole conversation.
        turns: its DSAT and SAT turns, in order.
        options: what becomes an example.
    """
    split = split_of(conversation_id, options.test_fraction)
    found: dict[str, list[Candidate]] = {name: [] for name in OUTPUTS}
    label_of = {turn.turn: turn.label for turn in turns}
    for turn in turns:
        row: dict[str, Any] = {"conversation_id": conversation_id, "turn": turn.turn, "split": split}
        if not _is_feedback_turn(messages, turn.turn):
            found[turn.label.lower()].append(Candidate(row, turn.score, "not_a_feedback_turn"))
            continue
        reply, feedback = messages[turn.turn - 1], messages[turn.turn]
        row |= {"prompt": messages[: turn.turn - 1], "feedback": feedback["content"]}
        example = row | {"items": list(turn.items), "reason": turn.reason}
        refused = None if options.keep_refusals or turn.label != DSAT else _refused(turn)
        fault = refused or _fault(row["prompt"], reply, feedback)
        if turn.label == SAT:
            found[TableName.SAT].append(Candidate(example | {"chosen": [reply]}, turn.score, fault))
            continue
        found[TableName.DSAT].append(Candidate(example | {"rejected": [reply]}, turn.score, fault))
        if label_of.get(turn.turn + 2) == SAT and _is_feedback_turn(messages, turn.turn + 2):
            revised = messages[turn.turn + 1]
            fault = fault or _fault(row["prompt"], revised, feedback)
            if fault is None and revised["content"] == reply["content"]:
                fault = "same_reply"
            found[TableName.SEED].append(
                Candidate(row | {"rejected": [reply], "chosen": [revised]}, turn.score, fault)
            )
    if options.per_conversation == "all":
        return found
    return {name: _strongest_only(candidates) for name, candidates in found.items()}


def _is_feedback_turn(messages: Messages, turn: int) -> bool:
    return (
        0 < turn < len(messages)
        and messages[turn]["role"] == "user"
        and messages[turn - 1]["role"] == "assistant"
    )


def _refused(turn: Turn) -> str | None:
    """Return why a complaint about a refusal must not count against it, or None."""
    if not turn.refusal or turn.correct_refusal is False:
        return None
    return "correct_refusal" if turn.correct_refusal else "refusal"


def _fault(prompt: Messages, reply: Message, feedback: Message) -> str | None:
    """Return why these messages make no example, or None."""
    if not prompt or prompt[-1]["role"] != "user":
        return "prompt_without_question"
    if not (reply["content"] or "").strip():
        return "empty_reply"
    if not (feedback["content"] or "").strip():
        return "empty_feedback"
    return None


def _strongest_only(candidates: list[Candidate]) -> list[Candidate]:
    """Set all but the strongest usable candidate aside; of equals the later one stays."""
    usable = {at for at, candidate in enumerate(candidates) if candidate.reason is None}
    if not usable:
        return candidates
    best = max(usable, key=lambda at: (candidates[at].score, at))
    return [
        replace(candidate, reason="not_the_strongest") if at in usable and at != best else candidate
        for at, candidate in enumerate(candidates)
    ]
