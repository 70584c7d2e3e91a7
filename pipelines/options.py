"""Defines the options that several commands share, and opens the workspace and the recipe that they name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # the recipe loads the options of every package, which `drift --help` has no use for
    from drift_data.workspace import Workspace
    from pipelines.recipe import Recipe

WORK = Path("data/work")
RECIPE = "demo"

Work = Annotated[Path, typer.Option(help="Workspace folder.")]
RecipeName = Annotated[str, typer.Option(help="Name of a shipped recipe, or path of a YAML file.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override of a recipe option: dotted.key=value.")
]
Run = Annotated[
    str | None,
    typer.Option(help="Name of the run; default: the recipe's name and the method, e.g. demo-drift."),
]
BaseModelName = Annotated[str | None, typer.Option("--model", help="Base model: folder, Hub id, or 'tiny'.")]
MethodOption = Annotated[str | None, typer.Option(help="How pairs are built: drift, spin or iterdpo.")]
RubricFile = Annotated[
    Path | None, typer.Option(help="YAML file of the rubric the judge used; default: the recipe's.")
]

# Options of the stages that ask a language model.
LLMName = Annotated[
    str | None,
    typer.Option("--model", help="Model to ask: its name on the server; for vllm a folder or Hub id."),
]
BaseUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible server; default: OpenAI.")]
Budget = Annotated[str | None, typer.Option(help="Most that may be spent, in the currency of label.prices.")]
Offline = Annotated[bool, typer.Option("--offline", help="With --judge batch: only write the request files.")]
Results = Annotated[
    list[str] | None,
    typer.Option(help="With --judge batch: files, folders or globs of the results that came back."),
]
FinalOption = Annotated[
    bool,
    typer.Option("--final", help="With --judge batch: finish without the answers that are still missing."),
]


def open_workspace(
    work: Path, recipe: str, overrides: list[str] | None, **named: str | None
) -> tuple[Workspace, Recipe]:
    """Return the workspace and the recipe.

    Args:
        work: folder of the workspace.
        recipe: name of a shipped recipe, or path of a YAML file.
        overrides: "dotted.key=value" each, from `--set`.
        named: dotted key → value of an option that has a flag of its own, or None where the flag was not given. A
            value wins over `overrides`.

    Raises:
        UserError: the recipe cannot be read, or an option or value is wrong.
    """
    from drift_data.workspace import Workspace
    from pipelines.recipe import load_recipe

    # The values are quoted, or YAML would read a run named 2024-01-01 as a date and a model named 7 as a number.
    given = [
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in named.items() if value is not None
    ]
    loaded = load_recipe(recipe, [*(overrides or []), *given])
    if loaded.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return Workspace(work), loaded


def llm_overrides(
    judge: str | None, model: str | None, base_url: str | None, budget: str | None
) -> dict[str, str | None]:
    """Return the options of a stage that asks a language model as overrides of the recipe: dotted key → value."""
    return {
        "label.judge": judge,
        "label.model": model,
        "label.server.base_url": base_url,
        "label.budget": budget,
    }


def with_batch_files(recipe: Recipe, offline: bool, results: list[str] | None, final: bool) -> Recipe:
    """Return the recipe with the command's options for request and result files of the Batch API.

    Raises:
        UserError: one of these options is given, and the judge does not ask through the Batch API.
    """
    from drift_data.workspace import UserError

    if not (offline or results or final):
        return recipe
    if recipe.label.asks != "batch":
        way_out = ""
        if recipe.label.judge == "cascade":
            way_out = f" with label.cascade.llm={recipe.label.asks}. Add SET=label.cascade.llm=batch"
        raise UserError(
            f"OFFLINE=, RESULTS= and FINAL= are for JUDGE=batch, not {recipe.label.judge}{way_out}."
        )
    files = {"offline": offline, "results": tuple(results or ()), "final": final}
    label = recipe.label.model_copy(update={"batch": recipe.label.batch.model_copy(update=files)})
    return recipe.model_copy(update={"label": label})
