"""The calibrate stage: thresholds and figures of labels on labelled turns, or the agreement of two judges."""

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from drift_data.calibrate.page import choose_metric_titles, format_estimate
from drift_data.calibrate.stage import (
    QUALITY_FILE,
    QUALITY_PAGE_FILE,
    THRESHOLDS_FILE,
    calibrate_labels,
    report_agreement,
)
from drift_data.calibrate.summary import Quality
from drift_data.calibrate.training_overlap import WARNING_PREFIX
from drift_data.judge.rubric import load_rubric
from drift_data.labels.tables import labels_chosen, latest_labels
from drift_data.workspace import UserError, Workspace
from pipelines.recipe import Recipe


def calibrate(
    workspace: Workspace, recipe: Recipe, gold: str | None, labels: str | None, against: str | None
) -> None:
    """Report on the labels of one judge, "local" or "labels/local"; by default those made last.

    With `gold`, a file or a label table, thresholds are chosen, too; with `against` instead, another judge's labels,
    only agreement is reported.
    """
    labels = labels_chosen(workspace, labels) if labels else latest_labels(workspace)
    if (gold is None) == (against is None):
        raise UserError("Give GOLD=file or table of labelled turns, or AGAINST=another judge's labels.")
    if gold is not None:
        folder = calibrate_labels(workspace, labels, gold, load_rubric(recipe.label.rubric), recipe.calibrate)
    else:
        assert against is not None
        folder = report_agreement(
            workspace, labels, labels_chosen(workspace, against, "AGAINST"), recipe.calibrate
        )
    path = workspace.path(folder)
    show(Quality.model_validate_json((path / QUALITY_FILE).read_bytes()), Console())
    if (path / THRESHOLDS_FILE).is_file():
        print(f"thresholds: {(path / THRESHOLDS_FILE).resolve()}")
    print(f"report: {(path / QUALITY_PAGE_FILE).resolve()}")


def show(quality: Quality, console: Console) -> None:
    """Print what the report says in short."""
    views = [view for view in quality.views if not view.title.startswith("all NEUTRAL")]  # the page has them
    table = Table(
        title=f"{quality.labels} against {quality.other}", box=SIMPLE, pad_edge=False, show_edge=False
    )
    table.add_column(no_wrap=True)
    for view in views:
        table.add_column(view.title.replace(", ", ",\n"), justify="right")
    table.add_row("turns (conversations)", *(f"{v.turns:,} ({v.conversations:,})" for v in views))
    for label in ("DSAT", "SAT", "NEUTRAL"):
        title = f"{label}: given / true" if quality.other_is_gold else f"{label}: these / other"
        table.add_row(title, *(f"{view.given[label]:,} / {view.true[label]:,}" for view in views))
    for name, title in choose_metric_titles(quality).items():
        table.add_row(title, *(format_estimate(view.figures[name], 2) for view in views))
    console.print(table)
    for note in quality.notes:
        console.print(
            note, markup=False, soft_wrap=True, style="bold" if note.startswith(WARNING_PREFIX) else None
        )
    for reason, count in quality.match.only_gold.items():
        console.print(
            f"{count:,} turns of {quality.other} are left out: {reason}", markup=False, soft_wrap=True
        )
    if quality.choice is not None:
        now, new = quality.choice.present, quality.choice.chosen
        console.print(
            f"thresholds: sat {now.sat:g} → {new.sat:g}, dsat {now.dsat:g} → {new.dsat:g}",
            markup=False,
            soft_wrap=True,
        )
