"""Defines the JSON schema of a scoring answer, and checks in an answer what no schema can express.

An answer is used turn by turn: a turn that passes the checks is kept, and a turn that fails them is asked for again.
An answer that names a turn it was not asked about is discarded as a whole, since its turn numbers cannot be trusted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from drift_data.judge.rubric import Rubric
from drift_data.llm.request import Schema, make_object_schema

# What the user does in a message. A judge that names the act first tells a repair from an extension more reliably.
Act = Literal[
    "comment",
    "correct",
    "redo",
    "report_error",
    "insist",
    "extend",
    "next_in_series",
    "new_task",
    "question",
    "supply",
    "other",
]
# Whether the judged reply is a refusal, and whether the request deserved one.
Refusal = Literal["no", "deserved", "undeserved"]
MAX_EVIDENCE_CHARACTERS: Final = 300  # characters of the evidence that the label table keeps
_STRENGTHS: Final = range(1, 11)  # strengths of an item, from weak to said outright


class ItemAnswer(BaseModel):
    """A rubric item that applies to a turn, and how strongly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    strength: int = Field(ge=_STRENGTHS[0], le=_STRENGTHS[-1])


class TurnAnswer(BaseModel):
    """What one user message says about the reply before it.

    The prompt's section "What to answer" explains the fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    turn: int
    act: Act
    items: list[ItemAnswer]
    evidence: str
    refusal: Refusal


class ScoringAnswer(BaseModel):
    """The whole answer to one request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: list[TurnAnswer]


_ANSWER_READER = TypeAdapter(ScoringAnswer)


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """What is left of an answer after the checks: each turn that was asked about is usable or has a fault."""

    turns: Mapping[int, TurnAnswer] = field(default_factory=dict)
    faults: Mapping[int, str] = field(default_factory=dict)  # turn → a key of `FAULT_PHRASES`


# Why a turn of an answer cannot be used → how the next request says so. The next request never quotes the model.
FAULT_PHRASES: Final[Mapping[str, str]] = {
    "not_json": "it was not JSON of the given schema",
    "truncated": "it was cut off",
    "unknown_turn": "it judged a message that was not asked about",
    "doubled_turn": "it judged a message twice",
    "missing_turn": "it left a message out",
    "unknown_item": "it named an item that is not in the lists",
    "evidence_not_in_message": "its evidence does not occur in the judged message",
}


def make_answer_schema(rubric: Rubric, turns: Sequence[int]) -> Schema:
    """Return the JSON schema of an answer that judges these turns by this rubric.

    The schema uses only what every server with structured outputs supports: objects whose properties are all required
    and without additional ones, arrays, and enumerations.
    """
    item = make_object_schema(
        name={"type": "string", "enum": [item.name for item in rubric.items]},
        strength={"type": "integer", "enum": list(_STRENGTHS)},
    )
    turn = make_object_schema(
        turn={"type": "integer", "enum": list(turns)},
        act={"type": "string", "enum": list(get_args(Act))},
        items={"type": "array", "items": item},
        evidence={"type": "string"},
        refusal={"type": "string", "enum": list(get_args(Refusal))},
    )
    return Schema("satisfaction", make_object_schema(turns={"type": "array", "items": turn}))


def read_answer(text: str, open_turns: Mapping[int, str], items: Mapping[str, str]) -> CheckedAnswer:
    """Check the text of an answer.

    Args:
        text: the model's answer.
        open_turns: turn → message as the prompt showed it, for each turn that was asked about.
        items: polarity by item name.

    Returns:
        Each open turn once: usable, or with its fault.
    """
    try:
        answer = _ANSWER_READER.validate_json(text)
    except ValidationError:
        return CheckedAnswer(faults=dict.fromkeys(open_turns, "not_json"))
    given = [turn.turn for turn in answer.turns]
    if not open_turns.keys() >= set(given):
        return CheckedAnswer(faults=dict.fromkeys(open_turns, "unknown_turn"))
    turns: dict[int, TurnAnswer] = {}
    faults = {turn: "missing_turn" for turn in open_turns if turn not in given}
    for turn in answer.turns:
        fault = (
            "doubled_turn" if given.count(turn.turn) > 1 else _find_fault(turn, open_turns[turn.turn], items)
        )
        if fault is None:
            turns[turn.turn] = turn
        else:
            faults[turn.turn] = fault
    return CheckedAnswer(turns, faults)


def _find_fault(turn: TurnAnswer, message: str, items: Mapping[str, str]) -> str | None:
    """Return the key of `FAULT_PHRASES` that says why a turn cannot be used; None if it can."""
    if any(item.name not in items for item in turn.items):
        return "unknown_item"
    if turn.items and not is_quoted_from(turn.evidence, message):
        return "evidence_not_in_message"
    return None


def is_quoted_from(evidence: str, message: str) -> bool:
    """Return whether the evidence occurs in a message.

    The comparison ignores case, white space, the kind of quotation marks, and full stops and quotation marks at both
    ends of the evidence. It also ignores Unicode variants and invisible characters: a model copies what it reads, not
    what is encoded.
    """
    whole, plain = _normalize(message), _normalize(evidence)
    span = plain.strip(" .\"'")
    return span in whole if span else bool(plain) and plain == whole


_QUOTATION_MARKS: Final = str.maketrans("“”„«»‘’‚`", '"""""\'\'\'\'')
_WHITE_SPACE: Final = re.compile(r"\s+")
# Invisible characters, and the escapes that stand for them in the prompt.
_INVISIBLE: Final = re.compile(
    r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]|\\(?:r|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
)


def _normalize(text: str) -> str:
    """Return text as `is_quoted_from` compares it."""
    seen = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text.translate(_QUOTATION_MARKS)))
    return _WHITE_SPACE.sub(" ", seen).casefold().strip()
