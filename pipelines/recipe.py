"""Loads recipes: the options of every stage in one YAML file, validated; unknown keys are errors.

A recipe may start from another (`extends: paper-7b`). Command-line overrides (`loop.train.learning_rate=1e-6`) are
applied last.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails

from drift_data.calibrate.options import CalibrateOptions
from drift_data.convert.options import CleanOptions
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

RECIPES = Path(__file__).parent / "recipes"  # folder of the recipes that ship
TINY = "tiny"  # `model` of a recipe whose base model is made on the spot
_OURS: JsonDict = {"source": "ours"}  # neither the paper nor its release says the value


class RecipeLabelOptions(LabelOptions):
    """The group `label` of a recipe: who labels, and how the same language model learns a rubric."""

    learn: LearnOptions = Field(
        LearnOptions(), description="How a rubric is learned from conversations with thumbs."
    )


class Recipe(BaseModel):
    """Everything that determines a run apart from its input files."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        description="Name of the recipe, from which runs get theirs; the file's name where the file gives none.",
        json_schema_extra=_OURS,
    )
    description: str = Field(description="What the recipe is for, in one line.", json_schema_extra=_OURS)
    source: str = Field(
        description="Data set that is converted: wildchat, wildfeedback, lmsys, ultrafeedback, drift-release, chat or "
        "simulated.",
        json_schema_extra=_OURS,
    )
    seed: int | None = Field(
        None,
        description="One seed for logs, tiny model, sampling and training; null leaves each of them its own seed option.",
        json_schema_extra=_OURS,
    )
    offline: bool = Field(
        False,
        description="true forbids the Hub libraries every network connection.",
        json_schema_extra=_OURS,
    )
    model: str = Field(
        description="Base model: a folder with a checkpoint, a Hub id, or tiny for the one that is made on the spot.",
        json_schema_extra=_OURS,
    )
    simulate: SimulateOptions = Field(SimulateOptions(), description="Chat logs of simulated users.")
    clean: CleanOptions = Field(CleanOptions(), description="Which conversations are kept.")
    label: RecipeLabelOptions = Field(
        RecipeLabelOptions(), description="Who labels, and how a rubric is learned."
    )
    calibrate: CalibrateOptions = Field(
        CalibrateOptions(), description="How thresholds are chosen and labels measured."
    )
    distill: DistillOptions = Field(DistillOptions(), description="How a local judge is trained from labels.")
    mine: MineOptions = Field(MineOptions(), description="Which labelled turns become training examples.")
    tiny: TinyOptions = Field(TinyOptions(), description="Shape and training of the tiny base model.")
    loop: LoopOptions = Field(
        LoopOptions(), description="Warm start, then iterations of rollout, pairs and DPO."
    )
    evaluate: EvalOptions = Field(EvalOptions(), description="How the replies that are measured are sampled.")
    alarms: AlarmOptions = Field(AlarmOptions(), description="Thresholds of the alarms of a run's health.")
    publish: PublishOptions = Field(PublishOptions(), description="What is uploaded to the Hub, and how.")

    @model_validator(mode="after")
    def _spread_the_seed(self) -> Self:
        if self.seed is not None:
            self.simulate.seed = self.tiny.seed = self.evaluate.seed = self.seed
            self.loop.rollout.seed = self.loop.train.seed = self.seed
            if self.loop.warm is not None:
                self.loop.warm.seed = self.seed
        return self


def list_recipes() -> list[str]:
    """Return the names of the recipes that ship."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe by the name of a shipped one or by the path of a YAML file.

    Args:
        name: e.g. "demo" or "my/recipe.yaml".
        overrides: "dotted.key=value" each; the value is parsed as YAML.

    Raises:
        UserError: no such recipe, an unknown key, or a value of the wrong type.
    """
    values = _read_recipe(name)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(
                f"SET= takes key=value, not {override!r}, e.g. SET='loop.train.learning_rate=1e-6'."
            )
        _set_option(values, key.strip().split("."), _parse_value(value, override), override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        # The library's error is not chained: it shows the values, and a value given for a server may be a key.
        raise UserError(f"Recipe {name}: " + "; ".join(map(_explain, error.errors()))) from None


def _explain(error: ErrorDetails) -> str:
    """Return what is wrong with an option, in words. A value given for a server is not shown: it may be a key."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        *group, name = map(str, error["loc"])
        near = get_close_matches(name, _list_options(Recipe, group), 1, cutoff=0.75)
        return f"unknown option {where!r}" + (
            f"; did you mean {'.'.join([*group, *near])!r}?" if near else ""
        )
    got = "" if "server" in error["loc"] else f" (got {error['input']!r:.80})"
    return f"{where}: {error['msg']}{got}"


def _list_options(model: type[BaseModel], group: Sequence[str]) -> list[str]:
    """Return the names of the options of a group, such as ["loop", "train"]; [] where there is no such group."""
    for name in group:
        field = model.model_fields.get(name)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _read_recipe(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values of a recipe, merged over those of the recipe that it extends.

    Args:
        name: name of a shipped recipe, or path of a YAML file.
        seen: recipes that extend this one.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if name in seen:
        raise UserError(f"Recipe {name} extends itself: {' → '.join((*seen, name))}.")
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"No recipe {name!r} at {path}. Shipped: {', '.join(list_recipes())}; or give a path ending in .yaml."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of options, not {type(values).__name__}.")
    parent = values.pop("extends", None)
    values.setdefault("name", path.stem)
    return _merge_options(_read_recipe(parent, (*seen, name)), values) if parent else values


def _merge_options(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return nested options where `over` wins, option by option."""
    merged = dict(base)
    for key, value in over.items():
        are_groups = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge_options(merged[key], value) if are_groups else value
    return merged


def _parse_value(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"SET={override!r}: the value is not YAML: {error}") from error


def _set_option(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    """Set the option with the dotted key `keys`; groups on the way are made."""
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"SET={override!r}: {key} holds a value, not a group of options.")
    values[keys[-1]] = value
