"""The distill stage: a classifier from a teacher's labels, its figures in short, and how to use it."""

import re

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from drift_data.calibrate.bootstrap import Estimate
from drift_data.calibrate.page import GOLD_METRIC_TITLES, format_estimate
from drift_data.calibrate.summary import Comparison
from drift_data.distill.stage import REPORT, RESULT
from drift_data.distill.stage import distill as distill_labels
from drift_data.distill.summary import Distilled
from drift_data.judge.local.options import MODEL_FILE
from drift_data.workspace import UserError, Workspace
from pipelines.recipe import Recipe

_SHOWN = ("precision_DSAT", "recall_DSAT", "f1_DSAT", "kappa_dsat", "kappa", "macro_f1")


def distill(
    workspace: Workspace, recipe: Recipe, labels: str | None, gold: str | None, name: str | None
) -> None:
    """Train a local judge from labels, a table or a file of labelled turns; with both, from the table."""
    if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"NAME={name}: letters, digits, dots, dashes and underscores only.")
    folder = distill_labels(
        workspace, labels, gold, name, recipe.label.thresholds, recipe.calibrate, recipe.distill
    )
    path = workspace.path(folder)
    show(Distilled.model_validate_json((path / RESULT).read_bytes()), Console())
    print(f"classifier: {(path / MODEL_FILE).resolve()}")
    print(f"report: {(path / REPORT).resolve()}")
    print(
        f"To use it: make label JUDGE=local CLASSIFIER={path.name} WORK={workspace.root}   "
        f"(→ labels/local-{path.name}; LABELS=local-{path.name} names them)"
    )


def show(result: Distilled, console: Console) -> None:
    """Print what the report says in short."""
    views = (
        result.views[:-1]
        + [  # one label for all is on the page
            view.model_copy(update={"title": "distilled, held out"}) for view in result.held_out[:1]
        ]
    )
    table = Table(
        title=f"local:{result.name} against {result.teacher}", box=SIMPLE, pad_edge=False, show_edge=False
    )
    table.add_column(no_wrap=True)
    for view in views:
        table.add_column(view.title.replace(", ", ",\n"), justify="right")
    table.add_row("turns", *(f"{v.turns:,}" for v in views))
    table.add_row("conversations", *(f"{v.conversations:,}" for v in views))
    table.add_row("DSAT of the teacher", *(f"{v.true['DSAT']:,}" for v in views))
    table.add_row("DSAT given", *(f"{v.given['DSAT']:,}" for v in views))
    for name in _SHOWN:
        table.add_row(GOLD_METRIC_TITLES[name], *(_cell(view, name) for view in views))
    console.print(table)
    for said in (*result.notes, *result.choice.notes, *_money(result)):
        console.print(said, markup=False, soft_wrap=True)
    present, chosen = result.choice.present.dsat, result.choice.chosen.dsat
    if chosen != present:
        console.print(f"threshold of DSAT: {present:g} → {chosen:g} (thresholds.yaml)", soft_wrap=True)


def _cell(shown: Comparison, name: str) -> str:
    """Return a figure, of the classifier that is reported with its interval."""
    figure = shown.figures[name]
    return format_estimate(figure if shown.title.startswith("distilled") else Estimate(value=figure.value), 2)


def _money(result: Distilled) -> list[str]:
    money = result.money
    if money is None:
        return []
    said = (
        f"{money.requests:,} requests labelled {money.conversations:,} conversations; all "
        f"{money.all_conversations:,} would take {money.all_requests:,}: {money.saved_requests:,} are saved"
    )
    if money.price is not None:
        said += f", {money.saved_price:,.4g} of {money.all_price:,.4g} in money"
    return [said + "."]
