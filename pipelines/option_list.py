"""Lists every option of a recipe: its dotted key, default, allowed values, meaning and where the value comes from.

`make recipe OPTIONS=1` prints the list, `make docs-reference` writes it into the documentation, and `make recipe` takes
from it what paper and release say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipelines.recipe import Recipe

PUBLISHED = ("paper", "release")  # sources of an option whose value was published
NOT_STATED = "–"  # shown in place of a text or value that there is none of
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}  # name in pydantic → sign that is shown


@dataclass(frozen=True)
class Option:
    """One option, or a group of options that can be switched off as a whole.

    Attributes:
        key: as SET= takes it, such as "loop.train.beta".
        default: what holds when a recipe says nothing; None: the recipe has to say it.
        values: what it can be, such as "number > 0".
        meaning: what it does.
        unit: the unit of the value, or "".
        source: where the default comes from: "paper", "release" or "ours"; "" where the field says nothing.
        where: the place in the paper or the release, such as "app. D", or "".
        published: the value in paper or release, as a Python object; None where the source is neither.
    """

    key: str
    default: str | None
    values: str
    meaning: str
    unit: str
    source: str
    where: str
    published: Any

    @property
    def origin(self) -> str:
        """The source with the place in it, such as "paper app. D"."""
        return f"{self.source} {self.where}".strip()


@dataclass(frozen=True)
class OptionGroup:
    """The options of one model, such as those below `loop.train`.

    Attributes:
        key: dotted; "" for the recipe itself.
        purpose: the first paragraph of the model's docstring.
        options: the options, in the order of the model.
    """

    key: str
    purpose: str
    options: tuple[Option, ...]


def list_option_groups() -> list[OptionGroup]:
    """Return all options of a recipe, group by group: a group before the groups inside it."""
    return list(_iter_groups("", Recipe, None))


def describe_option(key: str) -> Option | None:
    """Return the option, or group of options, with a dotted key such as "loop.train.beta"; None if there is none."""
    model: type[BaseModel] = Recipe
    example: Any = None
    *groups, name = key.split(".")
    for group in groups:
        field = model.model_fields.get(group)
        inner = None if field is None else _find_model(field.annotation)
        if field is None or inner is None:
            return None
        default = _find_default(group, field, example)
        model, example = inner, default if isinstance(default, BaseModel) else None
    field = model.model_fields.get(name)
    return None if field is None else _describe(key, field, _find_default(name, field, example))


def _iter_groups(key: str, model: type[BaseModel], example: Any) -> Iterator[OptionGroup]:
    """Yield the group of a model and those inside it.

    Args:
        key: dotted key of the group.
        model: the model that validates the group.
        example: an instance of the model with the defaults that hold at this place, or None where a recipe has to
            give the group itself.
    """
    options, inner = [], []
    for name, field in model.model_fields.items():
        dotted = f"{key}.{name}" if key else name
        default = _find_default(name, field, example)
        group = _find_model(field.annotation)
        if group is not None:
            many = get_origin(field.annotation) is dict
            inner.append((f"{dotted}.<name>" if many else dotted, group, None if many else default))
        if group is None or not isinstance(default, BaseModel):
            options.append(_describe(dotted, field, default))
    yield OptionGroup(key, _read_first_paragraph(model), tuple(options))
    for dotted, group, default in inner:
        yield from _iter_groups(dotted, group, default if isinstance(default, BaseModel) else None)


def _find_default(name: str, field: FieldInfo, example: Any) -> Any:
    if example is not None:
        return getattr(example, name)
    return field.get_default(call_default_factory=True, validated_data={})


def _find_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation holds: `X`, `X | None` or `dict[str, X]`."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _describe(key: str, field: FieldInfo, default: Any) -> Option:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    source = str(extra.get("source", ""))
    return Option(
        key=key,
        default=None if default is PydanticUndefined else format_value(default),
        values=_describe_values(field),
        meaning=field.description or NOT_STATED,
        unit=str(extra.get("unit", "")),
        source=source,
        where=str(extra.get("where", "")),
        published=extra.get("published", default) if source in PUBLISHED else None,
    )


def format_value(value: Any) -> str:
    """Return a value as a recipe would have it, in YAML's short form."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{name}: {format_value(each)}" for name, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(format_value, value)) + "]"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _describe_values(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(constraint, name):g}"
        for name, sign in _LIMITS.items()
        for constraint in field.metadata
        if hasattr(constraint, name)
    ]
    kind, null, _ = _describe_type(field.annotation).partition(" or null")
    return " ".join(filter(None, [kind, ", ".join(limits)])) + null


def _describe_type(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe_type(inside[0])
    if origin is Literal:
        return ", ".join(format_value(value) for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(_describe_type(kind) for kind in inside)
    if origin in (list, tuple):
        return f"list of {_describe_type(inside[0])}" if inside else "list"
    if origin is dict:
        return "mapping"
    names = {
        bool: "true, false",
        int: "integer",
        float: "number",
        str: "text",
        Path: "path",
        NoneType: "null",
    }
    return names.get(annotation, "group" if _find_model(annotation) else "any")


def _read_first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
