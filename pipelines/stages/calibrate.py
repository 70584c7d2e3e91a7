"""`make calibrate`: thresholds and figures of labels on labelled turns, or the agreement of two judges."""

from typing import Annotated

import typer

from pipelines.options import RECIPE, WORK, RecipeName, RubricFile, Set, Work, open_workspace


def calibrate(
    gold: Annotated[
        str | None, typer.Option(help="Labelled turns: .csv, .jsonl or .parquet, or a label table.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Instead of --gold: another judge's labels; reports agreement.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels to measure, e.g. local; default: the labels made last.")
    ] = None,
    rubric: RubricFile = None,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Choose the thresholds of a judge on labelled turns, and report how good its labels are.

    Against another judge's labels no threshold is chosen, and only the agreement is reported.
    """
    used = {} if rubric is None else {"label.rubric": str(rubric)}
    workspace, loaded = open_workspace(work, recipe, overrides, **used)
    from rich.console import Console

    from drift_data.calibrate.stage import (
        QUALITY_FILE,
        QUALITY_PAGE_FILE,
        calibrate_labels,
        report_agreement,
    )
    from drift_data.calibrate.summary import Quality
    from drift_data.calibrate.thresholds import THRESHOLDS_FILE
    from drift_data.judge.rubric import load_rubric
    from drift_data.labels.tables import find_labels, find_latest_labels
    from drift_data.workspace import UserError
    from pipelines.console import print_quality

    labels = find_labels(workspace, labels) if labels else find_latest_labels(workspace)
    if (gold is None) == (against is None):
        raise UserError("Give GOLD=file or table of labelled turns, or AGAINST=another judge's labels.")
    if gold is not None:
        folder = calibrate_labels(workspace, labels, gold, load_rubric(loaded.label.rubric), loaded.calibrate)
    else:
        assert against is not None
        folder = report_agreement(
            workspace, labels, find_labels(workspace, against, "AGAINST"), loaded.calibrate
        )
    path = workspace.path(folder)
    print_quality(Quality.model_validate_json((path / QUALITY_FILE).read_bytes()), Console())
    if (path / THRESHOLDS_FILE).is_file():
        print(f"thresholds: {(path / THRESHOLDS_FILE).resolve()}")
    print(f"report: {(path / QUALITY_PAGE_FILE).resolve()}")
