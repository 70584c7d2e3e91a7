"""`make iter`: rollouts of M_(n-1), pairs, DPO → M_n; then how the run is doing."""

from typing import Annotated

import typer

from pipelines.options import (
    RECIPE,
    WORK,
    BaseModelName,
    MethodOption,
    RecipeName,
    Run,
    Set,
    Work,
    open_workspace,
)


def iterate(
    n: Annotated[
        int, typer.Option(help="Iteration, from 1; missing earlier ones are made first.", min=1)
    ] = 1,
    method: MethodOption = None,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    model: BaseModelName = None,
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Train M_n: rollouts of M_(n-1), pairs, DPO."""
    workspace, loaded = open_workspace(work, recipe, overrides, **{"model": model, "loop.method": method})
    from rich.console import Console

    from drift_train import loop
    from pipelines.console import print_health
    from pipelines.runs import find_base_model, name_run, write_cards

    name = name_run(loaded, run)
    loop.iterate(workspace, name, n, find_base_model(workspace, loaded), loaded.loop)
    write_cards(workspace, loaded, name, n)
    print_health(workspace, name, loaded.alarms, Console(stderr=True))
