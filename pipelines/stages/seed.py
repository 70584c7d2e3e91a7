"""`make seed`: labels → DSAT examples, SAT examples and DSAT→SAT seed pairs."""

from typing import Annotated

import typer

from pipelines.options import RECIPE, WORK, RecipeName, Set, Work, open_workspace


def seed(
    labels: Annotated[
        str | None, typer.Option(help="Labels to mine, e.g. local; default: the labels made last.")
    ] = None,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Mine DSAT examples, SAT examples and DSAT→SAT seed pairs from the labels."""
    workspace, loaded = open_workspace(work, recipe, overrides)
    from drift_data.labels.tables import find_labels, find_latest_labels
    from drift_data.mine.stage import mine
    from pipelines.console import print_counts

    mine(workspace, find_labels(workspace, labels) if labels else find_latest_labels(workspace), loaded.mine)
    print_counts(workspace, "dsat", "sat", "seed")
