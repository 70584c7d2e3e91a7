"""Sets what a recipe resolves to beside what the paper and the release say (`reference.yaml`), each difference named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from drift_train.options import ExamplesName, MethodName
from pipelines.recipe import Recipe

FILE = Path(__file__).with_name("reference.yaml")
_COMPARED = ("seed", "source", "model", "clean", "mine", "loop")  # parts of a recipe that determine a model
_UNNAMED = "differs, and nobody has said why"

Verdict = Literal["same", "named", "ours", "unnamed"]


class Setting(BaseModel):
    """One entry of the file; see there."""

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
    def _is_whole(self) -> Setting:
        if bool(self.keys) == bool(self.setting):
            raise ValueError("an entry has either keys or a setting")
        if (self.here is None) != (self.why is None):
            raise ValueError("what differs has a reason, and only that has one")
        return self

    def applies(self, recipe: Recipe) -> bool:
        """Say whether the entry is about this data, this method and such rollouts."""
        loop = recipe.loop
        of_data = self.data is None or self.data == loop.examples
        of_guidance = self.guided is None or self.guided == loop.is_guided
        return of_data and of_guidance and (self.methods is None or loop.method in self.methods)


class Reference(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid")

    settings: list[Setting]
    ours: dict[str, str]


@dataclass(frozen=True)
class Line:
    """One setting: what a recipe has, what was published and where, and what is to be said about it."""

    name: str
    here: str
    published: str
    source: str
    note: str
    verdict: Verdict


def compare(recipe: Recipe) -> list[Line]:
    """Return every setting of a recipe that determines a model, in the order of the file, then what is only ours."""
    reference = Reference.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    values = resolved(recipe)
    lines: list[Line] = []
    told: set[str] = set()
    for setting in reference.settings:
        if not setting.applies(recipe):
            continue
        if setting.setting is not None:
            lines.append(_words(setting, setting.setting))
        for key in setting.keys:
            if key in values:
                lines.append(_line(setting, key, values[key]))
                told.add(key)
    for key, value in values.items():
        if key not in told:
            why = reference.ours.get(key)
            verdict: Verdict = "ours" if why else "unnamed"
            note = why or "an option that the reference does not know"
            lines.append(Line(key, _shown(value), "–", "", note, verdict))
    return lines


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return dotted key → value, with what the method decides filled in."""
    options = recipe.model_dump(mode="json")
    options["loop"]["rollout"] = recipe.loop.rollout_options().model_dump(mode="json")
    parts = {name: options[name] for name in _COMPARED}
    parts["label"] = {"judge": recipe.label.judge}
    if recipe.loop.examples == "preferences":  # nothing is labelled or mined
        del parts["label"], parts["mine"]
    return dict(_flat(parts))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _words(setting: Setting, name: str) -> Line:
    published = str(setting.published)
    verdict: Verdict = "named" if setting.why else "same"
    return Line(name, str(setting.here or published), published, setting.source, setting.why or "", verdict)


def _line(setting: Setting, key: str, value: Any) -> Line:
    published = setting.one_of if setting.one_of is not None else [setting.published]
    verdict: Verdict = "unnamed"
    if value in published:
        verdict = "same"
    elif setting.why is not None and value == setting.here:
        verdict = "named"
    note = {"same": "", "named": setting.why or "", "unnamed": _UNNAMED}[verdict]
    shown = " or ".join(map(_shown, published))
    return Line(key, _shown(value), shown, setting.source, note, verdict)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case _:
            return str(value)
