"""What a scoring answer must look like: its JSON schema, and the checks that no schema can make.

An answer is used turn by turn: a turn that passes counts, one that does not is asked again. An answer that
speaks of a turn it was not asked about counts for nothing: its numbers cannot be trusted.
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

# What the user does in a message. Naming it first makes a judge tell a repair from an extension.
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
# Whether the judged reply refuses, and whether the request deserved it.
Refusal = Literal["no", "deserved", "undeserved"]
MAX_EVIDENCE: Final = 300  # characters that are kept
_STRENGTHS: Final = range(1, 11)


class ItemAnswer(BaseModel):
    """An item that applies, and how strongly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    strength: int = Field(ge=_STRENGTHS[0], le=_STRENGTHS[-1])


class TurnAnswer(BaseModel):
    """What one user message says about the reply before it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turn: int
    act: Act
    items: list[ItemAnswer]
    evidence: str
    refusal: Refusal


class ScoringAnswer(BaseModel):
    """A whole answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: list[TurnAnswer]


_ANSWER = TypeAdapter(ScoringAnswer)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer gives: the turns that can be used, and what is wrong with the others."""

    turns: Mapping[int, TurnAnswer] = field(default_factory=dict)
    faults: Mapping[int, str] = field(default_factory=dict)  # open turn → one of FAULTS' keys


# Why a turn of an answer cannot be used → how the next request says so. Ours, never the model's words.
FAULTS: Final[Mapping[str, str]] = {
    "not_json": "it was not JSON of the given schema",
    "truncated": "it was cut off",
    "unknown_turn": "it judged a message that was not asked about",
    "doubled_turn": "it judged a message twice",
    "missing_turn": "it left a message out",
    "unknown_item": "it named an item that is not in the lists",
    "evidence_not_in_message": "its evidence does not occur in the judged message",
}


def schema(rubric: Rubric, turns: Sequence[int]) -> Schema:
    """Return the schema of an answer that judges these turns by this rubric.

    It uses only what every server with structured outputs knows: objects without further properties, all of
    them required, arrays, and enumerations.
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


def read_answer(text: str, open_turns: Mapping[int, str], items: Mapping[str, str]) -> Reading:
    """Check an answer.

    Args:
        text: the model's answer.
        open_turns: turn → the message as the prompt showed it, of each turn that was asked about.
        items: polarity by item name.

    Returns:
        Each open turn once: usable or with its fault.
    """
    try:
        answer = _ANSWER.validate_json(text)
    except ValidationError:
        return Reading(faults=dict.fromkeys(open_turns, "not_json"))
    given = [turn.turn for turn in answer.turns]
    if not open_turns.keys() >= set(given):
        return Reading(faults=dict.fromkeys(open_turns, "unknown_turn"))
    turns: dict[int, TurnAnswer] = {}
    faults = {turn: "missing_turn" for turn in open_turns if turn not in given}
    for turn in answer.turns:
        fault = "doubled_turn" if given.count(turn.turn) > 1 else _fault(turn, open_turns[turn.turn], items)
        if fault is None:
            turns[turn.turn] = turn
        else:
            faults[turn.turn] = fault
    return Reading(turns, faults)


def _fault(turn: TurnAnswer, message: str, items: Mapping[str, str]) -> str | None:
    if any(item.name not in items for item in turn.items):
        return "unknown_item"
    if turn.items and not quotes(turn.evidence, message):
        return "evidence_not_in_message"
    return None


def quotes(evidence: str, message: str) -> bool:
    """Say whether a span occurs in a message, whatever its case, white space, quotation marks and ends.

    How a character is encoded does not count, nor do characters that are not seen: a model copies what it reads.
    """
    whole, plain = _plain(message), _plain(evidence)
    span = plain.strip(" .\"'")
    return span in whole if span else bool(plain) and plain == whole


_QUOTES: Final = str.maketrans("“”„«»‘’‚`", '"""""\'\'\'\'')
_SPACE: Final = re.compile(r"\s+")
# Characters that are not seen: as they are, and as the prompt spells them out.
_UNSEEN: Final = re.compile(
    r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]|\\(?:r|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
)


def _plain(text: str) -> str:
    seen = unicodedata.normalize("NFKC", _UNSEEN.sub("", text.translate(_QUOTES)))
    return _SPACE.sub(" ", seen).casefold().strip()
