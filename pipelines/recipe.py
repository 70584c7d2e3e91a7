"""Recipes: the options of every stage in one YAML file, validated; unknown keys are errors.

A recipe may start from another (`extends: paper-7b`). Command-line overrides (`loop.train.learning_rate=1e-6`) are
applied last. This module knows the options' shape, not what the stages do with them.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from drift_data.calibrate.options import CalibrateOptions
from drift_data.convert.clean import CleanOptions
from drift_data.distill.options import DistillOptions
from drift_data.judge.cascade import Band
from drift_data.judge.label_rule import Thresholds
from drift_data.judge.local.model import FILE as CLASSIFIER
from drift_data.judge.spur.judge import ScoreOptions
from drift_data.llm.batch.backend import BatchOptions
from drift_data.llm.cost import Price
from drift_data.llm.live.options import ClientOptions
from drift_data.llm.request import SamplingOptions
from drift_data.llm.server import ServerOptions
from drift_data.llm.vllm import VllmOptions
from drift_data.mine.options import MineOptions
from drift_data.publish.options import PublishOptions
from drift_data.report.alarms import AlarmOptions
from drift_data.rubric.options import LearnOptions
from drift_data.simulate.options import SimulateOptions
from drift_data.workspace import UserError
from drift_train.options import EvalOptions, LoopOptions, TinyOptions

RECIPES = Path(__file__).parent / "recipes"
TINY = "tiny"  # the model a recipe names when it wants the one made on the spot


class CascadeOptions(Band):
    """Which turns a cascade asks a language model about, and how it is reached."""

    llm: Literal["openai", "vllm", "batch"] = "openai"


class LabelOptions(BaseModel):
    """Who labels, and from which summed strengths on a turn counts as SAT or DSAT."""

    model_config = ConfigDict(extra="forbid")

    judge: Literal["local", "dataset", "cascade", "openai", "vllm", "batch"] = "local"
    name: str | None = Field(None, pattern=r"^\w[\w.:-]*$")  # of the label table; None: see `table`
    thresholds: Thresholds = Thresholds()
    cascade: CascadeOptions = CascadeOptions()
    # Of the local judge: a model.npz, or the name of a distilled one of the workspace; None: the one that ships.
    classifier: Path | None = None
    # What follows is for judges that ask a language model.
    model: str | None = None  # its name on the server; for vllm a folder or Hub id
    server: ServerOptions = ServerOptions()
    client: ClientOptions = ClientOptions()
    sampling: SamplingOptions = SamplingOptions()
    rubric: Path | None = None  # YAML file; None: the shipped one of 9 + 9 items
    score: ScoreOptions = ScoreOptions()
    learn: LearnOptions = LearnOptions()
    vllm: VllmOptions = VllmOptions()
    batch: BatchOptions = BatchOptions()
    tokenizer: str | None = None  # folder, tokenizer.json or Hub id: counts tokens before they are sent
    prices: dict[str, Price] = {}  # of models, per million tokens, in one currency
    budget: float | None = Field(
        None, ge=0, allow_inf_nan=False
    )  # of one label table, answers in the store included

    @property
    def table(self) -> str:
        """Return the name of the label table: the judge's kind, with the classifier's for one that is named.

        Labels of another classifier thus never take the place of those of the one that ships.
        """
        if self.name is not None:
            return self.name
        if self.judge != "local" or self.classifier is None:
            return self.judge
        path = self.classifier
        if path.name == CLASSIFIER:  # as `make distill` leaves it: the folder has the name
            path = path.parent
        named = re.sub(r"[^\w.-]+", "-", path.name.removesuffix(".npz"))
        return f"local-{named.rstrip('-')}"

    @property
    def asks(self) -> Literal["openai", "vllm", "batch"] | None:
        """How the judge reaches a language model; None: it asks none."""
        match self.judge:
            case "local" | "dataset":
                return None
            case "cascade":
                return self.cascade.llm
            case way:
                return way


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
    label: LabelOptions = LabelOptions()
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
                f"SET takes key=value, not {override!r}, e.g. SET='loop.train.learning_rate=1e-6'."
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
        raise UserError(f"SET {override!r}: the value is not YAML: {error}") from error


def _assign(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"SET {override!r}: {key} holds a value, not a group of options.")
    values[keys[-1]] = value
