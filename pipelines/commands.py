"""The options that all commands share: they name a workspace and a recipe."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from drift_data.workspace import Workspace
from pipelines.recipe import Recipe, load_recipe

WORK = Path("data/work")

Work = Annotated[Path, typer.Option(help="Workspace folder.")]
RecipeName = Annotated[str, typer.Option(help="Name of a shipped recipe, or path of a YAML file.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override of a recipe option: dotted.key=value.")
]


def opened(
    work: Path, recipe: str, overrides: list[str] | None, **named: str | None
) -> tuple[Workspace, Recipe]:
    """Return the workspace and the recipe; options with a flag of their own win over `--set`."""
    # Quoted, or a date would be no name and a number no model.
    given = [f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in named.items() if v is not None]
    loaded = load_recipe(recipe, [*(overrides or []), *given])
    if loaded.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return Workspace(work), loaded
