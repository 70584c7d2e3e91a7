"""What the answers of both phases must look like: JSON schemas, and the checks that no schema can make."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from drift_data.chats.safe_text import visible
from drift_data.judge.rubric import RubricItem
from drift_data.llm.request import Schema, make_object_schema
from drift_data.rubric.question import Unusable
from drift_data.schema import DSAT

MAX_REASON: Final = 300  # characters
MAX_DEFINITION: Final = 300
MAX_NAME: Final = 40
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
# Words that speak of how the conversation was marked, not of what the user says.
_MARKS: Final = re.compile(r"(?i:\b(?:thumb|rating|rated|label|annotat))|\bD?SAT\b|👍|👎")
_NOTHING: Final = frozenset({"", "none", "n/a"})


class _Reasons(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    reasons: list[str]


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    definition: str
    asks_for_change: bool = False


class _Items(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    items: list[_Item]


Model = TypeVar("Model", bound=BaseModel)


def reasons_schema() -> Schema:
    """Return the schema of an extraction's answer."""
    return Schema("reasons", make_object_schema(reasons={"type": "array", "items": {"type": "string"}}))


def items_schema(polarity: str) -> Schema:
    """Return the schema of a fold's answer; only signs of dissatisfaction can ask for a change."""
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
        most: reasons allowed.
        conversation: what was shown: a word of the conversation is no mention of how it was marked.

    Raises:
        Unusable: the answer is no such list, or one of its reasons cannot be used.
    """
    found = dict.fromkeys(_line(reason) for reason in _parsed(_Reasons, text).reasons)
    reasons = tuple(reason for reason in found if reason.strip(" .").casefold() not in _NOTHING)
    if len(reasons) > most:
        raise Unusable("too_many_reasons", f"it gave more than {most} reasons")
    if any(len(reason) > MAX_REASON for reason in reasons):
        raise Unusable("reason_too_long", f"a reason was longer than {MAX_REASON} characters")
    if mentions_mark(reasons, conversation):
        raise Unusable("mentions_mark", "a reason spoke of how the conversation was marked or rated")
    return reasons


def read_items(
    text: str, polarity: str, most: int, taken: Collection[str], source: str
) -> tuple[RubricItem, ...]:
    """Return the items of an answer.

    Args:
        text: the model's answer.
        polarity: that the items get.
        most: items allowed.
        taken: names, in lower case, that belong to others.
        source: reasons and items that were shown, as in `read_reasons`.

    Raises:
        Unusable: the answer is no such list, or one of its items cannot be used.
    """
    parsed = _parsed(_Items, text).items
    if not parsed:
        raise Unusable("no_items", "it had no items")
    if len(parsed) > most:
        raise Unusable("too_many_items", f"it had more than {most} items")
    names = [item.name for item in parsed]
    if any(len(name) > MAX_NAME or not _NAME.fullmatch(name) for name in names):
        raise Unusable(
            "bad_name",
            f"a name was not made of letters, digits and single underscores, at most {MAX_NAME} of them",
        )
    lower = [name.lower() for name in names]
    if len(set(lower)) < len(lower):
        raise Unusable("doubled_name", "two items had the same name")
    if clash := [name for name in names if name.lower() in taken]:
        raise Unusable("taken_name", taken_names(clash))
    definitions = [_line(item.definition) for item in parsed]
    if not all(0 < len(definition) <= MAX_DEFINITION for definition in definitions):
        raise Unusable("bad_definition", f"a definition was empty or longer than {MAX_DEFINITION} characters")
    if mentions_mark(definitions, source):
        raise Unusable("mentions_mark", "a definition spoke of how conversations were marked or rated")
    return tuple(
        RubricItem(
            name=item.name,
            polarity="DSAT" if polarity == DSAT else "SAT",
            definition=definition,
            asks_for_change=item.asks_for_change and polarity == DSAT,
        )
        for item, definition in zip(parsed, definitions, strict=True)
    )


def taken_names(names: Sequence[str]) -> str:
    """Return how a request says that names, which have passed the check above, belong to others."""
    return f"these names stand for signs of the opposite kind and need others: {', '.join(names)}"


def mentions_mark(texts: Iterable[str], source: str) -> bool:
    """Say whether a text speaks of thumbs, ratings or labels that its source does not speak of."""
    source = source.casefold()
    return any(match[0].casefold() not in source for text in texts for match in _MARKS.finditer(text))


def _parsed(model: type[Model], text: str) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError:
        raise Unusable("not_json", "it was not JSON of the given schema") from None


def _line(text: str) -> str:
    """Return a model's text on one line, with nothing in it that acts instead of being seen."""
    line = " ".join(text.split())
    return visible(line, len(line))
