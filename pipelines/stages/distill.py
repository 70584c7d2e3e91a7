"""`make distill`: a local judge trained from a language model's labels, its figures in short, and how to use it."""

import re
from typing import Annotated

import typer

from pipelines.caller import tell
from pipelines.options import RECIPE, WORK, RecipeName, Set, Work, open_workspace


def distill(
    labels: Annotated[str | None, typer.Option(help="Labels to learn from, such as openai-sample.")] = None,
    gold: Annotated[
        str | None,
        typer.Option(
            help="Labelled turns: to learn from, or, together with --labels, to measure the cascade on."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the classifier; default: the labels' name without -sample.")
    ] = None,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Train a local judge from the labels of a language model, and report what that costs and saves."""
    workspace, loaded = open_workspace(work, recipe, overrides)
    from rich.console import Console

    from drift_data.distill.stage import DISTILL_FILE, DISTILL_PAGE_FILE, distill_labels
    from drift_data.distill.summary import DistillReport
    from drift_data.judge.local.options import MODEL_FILE
    from drift_data.workspace import UserError
    from pipelines.console import print_distilled

    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"NAME={name}: letters, digits, dots, dashes and underscores only.")
    folder = distill_labels(
        workspace, labels, gold, name, loaded.label.thresholds, loaded.calibrate, loaded.distill
    )
    path = workspace.path(folder)
    print_distilled(DistillReport.model_validate_json((path / DISTILL_FILE).read_bytes()), Console())
    print(f"classifier: {(path / MODEL_FILE).resolve()}")
    print(f"report: {(path / DISTILL_PAGE_FILE).resolve()}")
    tell(
        f"To use it: make label JUDGE=local CLASSIFIER={path.name} WORK={workspace.root}   "
        f"(→ labels/local-{path.name}; LABELS=local-{path.name} names them)"
    )
