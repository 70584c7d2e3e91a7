"""`make recipe`: the settings of a recipe beside what the paper and the release say, or all options there are."""

from typing import Annotated

import typer

from pipelines.options import RECIPE, MethodOption, RecipeName, Set


def recipe(
    method: MethodOption = None,
    options: Annotated[
        bool,
        typer.Option("--options", help="Instead, list all options of recipes: default, meaning and source."),
    ] = False,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Show what a recipe resolves to, beside the paper and the release; nothing is run."""
    from rich.console import Console

    from pipelines.console import print_options, print_recipe
    from pipelines.recipe import load_recipe

    if options:
        print_options(Console())
        return
    given = [f"loop.method={method}"] if method else []
    print_recipe(load_recipe(recipe, [*(overrides or []), *given]), Console())
