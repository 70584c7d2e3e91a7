"""Compares what a recipe resolves to with what the paper and the release say, and gives a reason for each difference.

A published value comes from the option's own field (`json_schema_extra`). Where it depends on the data or the method, or
belongs to a setting that is not an option, it comes from `reference.yaml`. That file also has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from drift_train.options import ExamplesName, MethodName
from pipelines.option_list import NOT_STATED, Option, describe_option
from pipelines.recipe import Recipe

REFERENCE_FILE = Path(__file__).with_name("reference.yaml")
_COMPARED = ("seed", "source", "model", "clean", "mine", "loop")  # parts of a recipe that determine a model
_WITHOUT_REASON = "differs, and no reason is given"

# same: as published. named: differs, and a reason is given. ours: paper and release do not have the option. unnamed:
# differs without a reason, or the option's field names no source.
SettingVerdict = Literal["same", "named", "ours", "unnamed"]


class Setting(BaseModel):
    """One entry of `reference.yaml`. The head of that file says what the fields mean."""

    model_config = ConfigDict(extra="forbid")

    keys: tuple[str, ...] = ()
    setting: str | None = None
    published: Any = None
    one_of: list[Any] | None = None
    source: str
    here: Any = None
    why: str | None = None
    data: ExamplesName | None = None
    methods: list[MethodName] | None = None
    guided: bool | None = None

    @model_validator(mode="after")
    def _require_whole_entry(self) -> Setting:
        if bool(self.keys) == bool(self.setting):
            raise ValueError("an entry has either `keys` or a `setting`")
        if (self.here is None) != (self.why is None):
            raise ValueError(
                "an entry with `here` needs `why`, and the reverse: each difference has a reason"
            )
        return self

    def applies_to(self, recipe: Recipe) -> bool:
        """Say whether the entry is about the recipe's data, method and guidance."""
        loop = recipe.loop
        is_same_data = self.data is None or self.data == loop.examples
        is_same_guidance = self.guided is None or self.guided == loop.is_guided
        return is_same_data and is_same_guidance and (self.methods is None or loop.method in self.methods)


class Reference(BaseModel):
    """The whole of `reference.yaml`."""

    model_config = ConfigDict(extra="forbid")

    settings: list[Setting]
    ours: dict[str, str] = {}  # key of an option whose field names no source → what it is for


@dataclass(frozen=True)
class Line:
    """One setting: the recipe's value, the published value and its source, a remark, and the verdict."""

    name: str
    here: str
    published: str
    source: str
    note: str
    verdict: SettingVerdict


def compare(recipe: Recipe) -> list[Line]:
    """Return a line for every setting of a recipe that determines a model.

    The settings of `reference.yaml` come first, in its order, then all other options in the order of the recipe.
    """
    reference = Reference.model_validate(yaml.safe_load(REFERENCE_FILE.read_text(encoding="utf-8")))
    values = resolve(recipe)
    lines: list[Line] = []
    compared: set[str] = set()
    for setting in reference.settings:
        if not setting.applies_to(recipe):
            continue
        if setting.setting is not None:
            lines.append(_compare_words(setting, setting.setting))
        for key in setting.keys:
            if key in values:
                lines.append(_compare_setting(setting, key, values[key]))
                compared.add(key)
    for key, value in values.items():
        if key not in compared:
            lines.append(_compare_option(key, value, describe_option(key), reference.ours.get(key)))
    return lines


def resolve(recipe: Recipe) -> dict[str, Any]:
    """Return dotted key → value of all options that determine a model, with what the method decides filled in."""
    options = recipe.model_dump(mode="json")
    options["loop"]["rollout"] = recipe.loop.rollout_options().model_dump(mode="json")
    parts = {name: options[name] for name in _COMPARED}
    parts["label"] = {"judge": recipe.label.judge}
    if recipe.loop.examples == "preferences":  # nothing is labelled or mined
        del parts["label"], parts["mine"]
    return dict(_flatten(parts))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every nested option."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _compare_words(setting: Setting, name: str) -> Line:
    """Return the line of a setting that is not an option: words are compared with words."""
    published = str(setting.published)
    verdict: SettingVerdict = "named" if setting.why else "same"
    return Line(name, str(setting.here or published), published, setting.source, setting.why or "", verdict)


def _compare_setting(setting: Setting, key: str, value: Any) -> Line:
    """Return the line of an option whose published value is in `reference.yaml`."""
    published = setting.one_of if setting.one_of is not None else [setting.published]
    verdict: SettingVerdict = "unnamed"
    if value in published:
        verdict = "same"
    elif setting.why is not None and value == setting.here:
        verdict = "named"
    note = {"same": "", "named": setting.why or "", "unnamed": _WITHOUT_REASON}[verdict]
    return Line(key, _show(value), " or ".join(map(_show, published)), setting.source, note, verdict)


def _compare_option(key: str, value: Any, option: Option | None, why: str | None) -> Line:
    """Return the line of an option whose own field says what was published, or that nothing was.

    Args:
        key: dotted key of the option.
        value: the recipe's value.
        option: the option's description; None: no field has this key.
        why: what the option is for, as `reference.yaml` has it for options whose field names no source.
    """
    if option is None or not option.source:
        if why:
            return Line(key, _show(value), NOT_STATED, "", why, "ours")
        return Line(key, _show(value), NOT_STATED, "", "an option whose field names no source", "unnamed")
    if option.source == "ours":
        return Line(key, _show(value), NOT_STATED, "", option.meaning, "ours")
    is_same = value == option.published
    verdict: SettingVerdict = "same" if is_same else "unnamed"
    note = "" if is_same else _WITHOUT_REASON
    return Line(key, _show(value), _show(option.published), option.origin, note, verdict)


def _show(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case BaseModel():
            return "a group of options"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
