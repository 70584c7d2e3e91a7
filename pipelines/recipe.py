"""Recipes: the options of every stage in one YAML file, validated; unknown keys are errors.

A recipe may start from another (`extends: paper-7b`). Command-line overrides (`loop.train.learning_rate=1e-6`) are
applied last. This module knows the options' shape, not what the stages do with them.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from drift_data.calibrate.options import CalibrateOptions
from drift_data.convert.clean import CleanOptions
from drift_data.distill.options import DistillOptions
from drift_data.judge.options import LabelOptions
from drift_data.mine.options import MineOptions
from drift_data.publish.options import PublishOptions
from drift_data.report.options import AlarmOptions
from drift_data.rubric.options import LearnOptions
from drift_data.simulate.options import SimulateOptions
from drift_data.workspace import UserError
from drift_train.methods.options import LoopOptions
from drift_train.options import EvalOptions, TinyOptions

RECIPES = Path(__file__).parent / "recipes"
TINY = "tiny"  # the model a recipe names when it wants the one made on the spot


class RecipeLabelOptions(LabelOptions):
    """The group `label` of a recipe: who labels, and how the same language model learns a rubric."""

    learn: LearnOptions = Field(LearnOptions(), description="how a rubric is learned from thumbs")


class Recipe(BaseModel):
    """Everything that determines a run apart from its input files."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    source: str
    seed: int | None = None  # one seed for everything random; None leaves each option's own
    offline: bool = False  # forbid the Hub libraries every network connection
    model: str  # "tiny", a folder with a checkpoint, or a Hub id
    simulate: SimulateOptions = SimulateOptions()
    clean: CleanOptions = CleanOptions()
    label: RecipeLabelOptions = RecipeLabelOptions()
    calibrate: CalibrateOptions = CalibrateOptions()
    distill: DistillOptions = DistillOptions()
    mine: MineOptions = MineOptions()
    tiny: TinyOptions = TinyOptions()
    loop: LoopOptions = LoopOptions()
    evaluate: EvalOptions = EvalOptions()
    alarms: AlarmOptions = AlarmOptions()
    publish: PublishOptions = PublishOptions()

    @model_validator(mode="after")
    def _spread_the_seed(self) -> Self:
        if self.seed is not None:
            self.simulate.seed = self.tiny.seed = self.evaluate.seed = self.seed
            self.loop.rollout.seed = self.loop.train.seed = self.seed
            if self.loop.warm is not None:
                self.loop.warm.seed = self.seed
        return self


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe by the name of a shipped one or by the path of a YAML file.

    Args:
        name: e.g. "demo" or "my/recipe.yaml".
        overrides: "dotted.key=value" each; the value is read as YAML.

    Raises:
        UserError: no such recipe, an unknown key, or a value of the wrong type.
    """
    values = _read(name)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(
                f"SET= takes key=value, not {override!r}, e.g. SET='loop.train.learning_rate=1e-6'."
            )
        _assign(values, key.strip().split("."), _scalar(value, override), override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        # Not chained: the library's own words show the values, and one that is given for a server may be a key.
        raise UserError(f"Recipe {name}: " + "; ".join(map(_told, error.errors()))) from None


def _told(error: ErrorDetails) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        *group, name = map(str, error["loc"])
        near = get_close_matches(name, _options(Recipe, group), 1, cutoff=0.75)
        return f"unknown option {where!r}" + (
            f"; did you mean {'.'.join([*group, *near])!r}?" if near else ""
        )
    got = "" if "server" in error["loc"] else f" (got {error['input']!r:.80})"
    return f"{where}: {error['msg']}{got}"


def _options(model: type[BaseModel], group: Sequence[str]) -> list[str]:
    """Return the names of the options of a group, such as ["loop", "train"]; none where it is no group."""
    for name in group:
        field = model.model_fields.get(name)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _read(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if name in seen:
        raise UserError(f"Recipe {name} extends itself: {' → '.join((*seen, name))}.")
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"No recipe {name!r} at {path}. Shipped: {', '.join(recipe_names())}; or give a path ending in .yaml."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of options, not {type(values).__name__}.")
    parent = values.pop("extends", None)
    values.setdefault("name", path.stem)
    return _merge(_read(parent, (*seen, name)), values) if parent else values


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _scalar(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"SET={override!r}: the value is not YAML: {error}") from error


def _assign(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"SET={override!r}: {key} holds a value, not a group of options.")
    values[keys[-1]] = value
