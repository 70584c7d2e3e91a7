"""`make export`: dsat, sat and seed in the JSONL layout of the DRIFT release."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.options import RECIPE, WORK, RecipeName, Set, Work, open_workspace


def export(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Write dsat, sat and seed in the JSONL layout of the DRIFT release."""
    workspace, _ = open_workspace(work, recipe, overrides)
    from drift_data.publish.release import export_release

    export_release(workspace, out)
    print(f"release layout: {out.resolve()}")
