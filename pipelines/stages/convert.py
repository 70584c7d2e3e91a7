"""`make convert`: raw logs → `conversations`, with the labels or preference pairs that the data set carries."""

from typing import Annotated

import typer

from pipelines.options import RECIPE, WORK, RecipeName, Set, Work, open_workspace
from pipelines.stages.simulate import simulate


def convert(
    source: Annotated[
        str | None,
        typer.Option(
            help="Name of the data set: wildchat, wildfeedback, lmsys, ultrafeedback, drift-release, chat or simulated; "
            "default: the recipe's."
        ),
    ] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="File, folder, glob or Hub id.")] = None,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Turn raw logs into conversations, with the labels or pairs that the data set carries.

    With the source simulated and no input, the simulated logs are made first where they are missing.
    """
    workspace, loaded = open_workspace(work, recipe, overrides, source=source)
    from drift_data.convert.stage import convert as convert_logs
    from pipelines.console import print_counts

    if loaded.source == "simulated" and not inputs:
        simulate(work, recipe, overrides)
    convert_logs(workspace, loaded.source, inputs or [], loaded.clean, loaded.mine.test_fraction)
    print_counts(workspace, "conversations", f"labels/{loaded.source}", "preferences")
