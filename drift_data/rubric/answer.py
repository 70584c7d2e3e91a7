"""Reads the answers of both phases: their JSON schemas, and the checks that a schema cannot make."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from drift_data.chats.safe_text import escape_invisible
from drift_data.judge.rubric import RubricItem
from drift_data.llm.request import Schema, make_object_schema
from drift_data.rubric.question import UnusableAnswer
from drift_data.schema import DSAT

MAX_REASON_LENGTH: Final = 300  # characters
MAX_DEFINITION_LENGTH: Final = 300  # characters
MAX_NAME_LENGTH: Final = 40  # characters
_NAME_PATTERN: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
# Words about how the conversation was marked. A reason must be about what the user says.
_MARK_PATTERN: Final = re.compile(r"(?i:\b(?:thumb|rating|rated|label|annotat))|\bD?SAT\b|👍|👎")
_EMPTY_REASONS: Final = frozenset({"", "none", "n/a"})


class _ReasonsAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    reasons: list[str]


class _ItemAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    definition: str
    asks_for_change: bool = False


class _ItemsAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    items: list[_ItemAnswer]


Model = TypeVar("Model", bound=BaseModel)


def make_reasons_schema() -> Schema:
    """Return the schema of an extraction's answer."""
    return Schema("reasons", make_object_schema(reasons={"type": "array", "items": {"type": "string"}}))


def make_items_schema(polarity: str) -> Schema:
    """Return the schema of a fold's answer; only items of dissatisfaction can ask for a change."""
    fields: dict[str, Any] = {"name": {"type": "string"}, "definition": {"type": "string"}}
    if polarity == DSAT:
        fields["asks_for_change"] = {"type": "boolean"}
    return Schema(
        "rubric", make_object_schema(items={"type": "array", "items": make_object_schema(**fields)})
    )


def read_reasons(text: str, most: int, conversation: str) -> tuple[str, ...]:
    """Return the reasons of an answer, each once and on one line; none when the user shows no sign.

    Args:
        text: the model's answer.
        most: how many reasons are allowed.
        conversation: the text that the model was shown. A reason may use its words, even "rating".

    Raises:
        UnusableAnswer: the answer is not a list of reasons, or one of its reasons cannot be used.
    """
    found = dict.fromkeys(_to_one_line(reason) for reason in _parse(_ReasonsAnswer, text).reasons)
    reasons = tuple(reason for reason in found if reason.strip(" .").casefold() not in _EMPTY_REASONS)
    if len(reasons) > most:
        raise UnusableAnswer("too_many_reasons", f"it gave more than {most} reasons")
    if any(len(reason) > MAX_REASON_LENGTH for reason in reasons):
        raise UnusableAnswer("reason_too_long", f"a reason was longer than {MAX_REASON_LENGTH} characters")
    if mentions_mark(reasons, conversation):
        raise UnusableAnswer("mentions_mark", "a reason spoke of how the conversation was marked or rated")
    return reasons


def read_items(
    text: str, polarity: str, most: int, taken: Collection[str], source: str
) -> tuple[RubricItem, ...]:
    """Return the items of an answer.

    Args:
        text: the model's answer.
        polarity: SAT or DSAT, for all items.
        most: how many items are allowed.
        taken: names in lower case that belong to items of the other polarity.
        source: the reasons and items that the model was shown. A definition may use their words.

    Raises:
        UnusableAnswer: the answer is not a list of items, or one of its items cannot be used.
    """
    parsed = _parse(_ItemsAnswer, text).items
    if not parsed:
        raise UnusableAnswer("no_items", "it had no items")
    if len(parsed) > most:
        raise UnusableAnswer("too_many_items", f"it had more than {most} items")
    names = [item.name for item in parsed]
    if any(len(name) > MAX_NAME_LENGTH or not _NAME_PATTERN.fullmatch(name) for name in names):
        raise UnusableAnswer(
            "bad_name",
            f"a name was not made of letters, digits and single underscores, at most {MAX_NAME_LENGTH} of them",
        )
    lower = [name.lower() for name in names]
    if len(set(lower)) < len(lower):
        raise UnusableAnswer("doubled_name", "two items had the same name")
    if clash := [name for name in names if name.lower() in taken]:
        raise UnusableAnswer("taken_name", explain_taken_names(clash))
    definitions = [_to_one_line(item.definition) for item in parsed]
    if not all(0 < len(definition) <= MAX_DEFINITION_LENGTH for definition in definitions):
        raise UnusableAnswer(
            "bad_definition", f"a definition was empty or longer than {MAX_DEFINITION_LENGTH} characters"
        )
    if mentions_mark(definitions, source):
        raise UnusableAnswer("mentions_mark", "a definition spoke of how conversations were marked or rated")
    return tuple(
        RubricItem(
            name=item.name,
            polarity="DSAT" if polarity == DSAT else "SAT",
            definition=definition,
            asks_for_change=item.asks_for_change and polarity == DSAT,
        )
        for item, definition in zip(parsed, definitions, strict=True)
    )


def explain_taken_names(names: Sequence[str]) -> str:
    """Return the words by which a request tells the model that these names belong to the other polarity."""
    return f"these names stand for signs of the opposite kind and need others: {', '.join(names)}"


def mentions_mark(texts: Iterable[str], source: str) -> bool:
    """Say whether a text speaks of thumbs, ratings or labels where its source does not."""
    source = source.casefold()
    return any(match[0].casefold() not in source for text in texts for match in _MARK_PATTERN.finditer(text))


def _parse(model: type[Model], text: str) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError:
        raise UnusableAnswer("not_json", "it was not JSON of the given schema") from None


def _to_one_line(text: str) -> str:
    """Return a model's text on one line, with invisible characters spelled out."""
    line = " ".join(text.split())
    return escape_invisible(line, len(line))
