"""Reads and writes rubrics: the named signs of satisfaction and dissatisfaction that a judge looks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drift_data.chats.safe_text import escape_invisible
from drift_data.workspace import UserError

DEFAULT_RUBRIC_FILE = "rubric.yaml"


class RubricItem(BaseModel):
    """One sign: its name in the label table, its polarity, and what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    polarity: Literal["SAT", "DSAT"]
    definition: str = Field(min_length=1)
    asks_for_change: bool = False  # with this sign the user asks for another version of the judged reply


class Rubric(BaseModel):
    """The items that a judge looks for: at least one, with unique names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    items: tuple[RubricItem, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_unique_names(self) -> Self:
        names = [item.name for item in self.items]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"item names must be unique, these are not: {', '.join(twice)}")
        return self

    @property
    def hash(self) -> str:
        """Return 12 hex digits of a hash of the items; the rubric's name and the items' order do not change it."""
        items = sorted((item.model_dump() for item in self.items), key=lambda item: str(item["name"]))
        return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def polarities(self) -> dict[str, str]:
        """Return the polarity of each item, by its name."""
        return {item.name: item.polarity for item in self.items}

    @property
    def change_items(self) -> frozenset[str]:
        """Return the names of the items with `asks_for_change`."""
        return frozenset(item.name for item in self.items if item.asks_for_change)


def load_rubric(path: Path | None = None) -> Rubric:
    """Read a rubric from a YAML file; without a path, read the default one of 9 + 9 items.

    Raises:
        UserError: the file cannot be read or holds no valid rubric; the message names the wrong field.
    """
    try:
        text = (path or files(__package__) / DEFAULT_RUBRIC_FILE).read_text(encoding="utf-8")
        return Rubric.model_validate(yaml.safe_load(text))
    except OSError as error:
        raise UserError(f"The rubric {path} cannot be read: {error.strerror}. Check RUBRIC=.") from error
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path or DEFAULT_RUBRIC_FILE} is not a rubric: {error}. A rubric needs `name` and `items`, "
            "each item with `name`, `polarity` (SAT or DSAT) and `definition`."
        ) from error


def dump_rubric(rubric: Rubric, header: Sequence[str] = ()) -> str:
    """Return a rubric as YAML that people can edit and `load_rubric` can read.

    Args:
        rubric: what to write.
        header: lines that stand above it as comments.
    """
    comments = "".join(f"# {escape_invisible(line, len(line))}\n" for line in header)
    items = [item.model_dump(exclude_defaults=True) for item in rubric.items]
    content = {"name": rubric.name, "items": items}
    return comments + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
