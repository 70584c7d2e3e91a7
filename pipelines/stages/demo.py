"""The demo: every stage once, on simulated logs with a tiny model, and what came out.

Nothing here is special to the demo but the order of the stages and the seed: each can be run by its own command.
"""

import time
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.table import Table

from drift_data.calibrate.agreement import Agreement, measure_agreement
from drift_data.schema import LABELS
from drift_data.workspace import Workspace
from pipelines.recipe import Recipe
from pipelines.stages import data, output, train
from pipelines.stages.label import label as label_turns
from pipelines.stages.names import models, run_name

ITERATIONS = 2
TRUTH = "labels/simulated"


def run(workspace: Workspace, recipe: Recipe) -> None:
    """Run all stages and print the funnel, the gold reward of every model and the judge's quality."""
    started = time.monotonic()
    console = Console(stderr=True)
    steps: list[tuple[str, Callable[[], None]]] = [
        ("chat logs of simulated users → conversations", partial(data.convert, workspace, recipe, [])),
        ("label every feedback turn", partial(label_turns, workspace, recipe)),
        ("mine examples and seed pairs", partial(data.seed, workspace, recipe, recipe.label.judge)),
        ("base model, warm start → M0", partial(train.warm, workspace, recipe, None)),
        ("iteration 1 → M1", partial(train.iterate, workspace, recipe, None, 1)),
        ("iteration 2 → M2", partial(train.iterate, workspace, recipe, None, 2)),
        (
            "measure every model on held-out prompts",
            partial(train.evaluate, workspace, recipe, None, ITERATIONS),
        ),
        ("report", partial(output.report, workspace, recipe, None)),
    ]
    for number, (title, step) in enumerate(steps, 1):
        console.rule(f"[bold]{number}/{len(steps)} {title}", align="left")
        step()
    summary(workspace, recipe, Console())
    console.print(f"{time.monotonic() - started:.0f} s; a second `make demo` redoes nothing.")


def summary(workspace: Workspace, recipe: Recipe, console: Console) -> None:
    """Print what a run on simulated logs came to."""
    name = run_name(recipe, None)
    judged = measure_agreement(workspace, f"labels/{recipe.label.judge}", TRUTH)
    for table in (_funnel(workspace, recipe, name), _judge(judged), _rewards(workspace, name)):
        console.print(table)
    console.print(f"The report: {(workspace.path('runs') / name / 'report.html').resolve()}")


def _rows(workspace: Workspace, folder: str) -> int:
    return workspace.require(folder).rows_out


def _funnel(workspace: Workspace, recipe: Recipe, name: str) -> Table:
    labels = workspace.require(f"labels/{recipe.label.judge}")
    table = Table("step", "rows", "left out", title="Funnel")
    table.add_row("conversations", f"{_rows(workspace, 'conversations'):,}", "")
    table.add_row("feedback turns", f"{labels.rows_in:,}", "")
    for label in LABELS:
        table.add_row(f"  {label}", f"{labels.results[label]:,}", "")
    table.add_row("DSAT examples", f"{_rows(workspace, 'dsat'):,}", "")
    table.add_row("seed pairs", f"{_rows(workspace, 'seed'):,}", "")
    for iteration in models(ITERATIONS)[1:]:
        pairs = workspace.require(f"runs/{name}/{iteration}/pairs")
        dropped = ", ".join(f"{reason} {count}" for reason, count in pairs.dropped.items())
        table.add_row(f"pairs kept, {iteration}", f"{pairs.rows_out:,}", dropped)
    for column in table.columns[1:2]:
        column.justify = "right"
    return table


def _judge(judged: Agreement) -> Table:
    table = Table(
        "label", "precision", "recall", "given", "true", title="The local judge against the known truth"
    )
    for label in LABELS:
        score = judged.scores[label]
        precision, recall = (
            "–" if value is None else f"{value:.3f}" for value in (score.precision, score.recall)
        )
        table.add_row(label, precision, recall, f"{score.labelled:,}", f"{score.true:,}")
    return table


def _rewards(workspace: Workspace, name: str) -> Table:
    table = Table("model", "gold reward", "standard error", "engine", title="Held-out prompts, T = 1")
    for model in models(ITERATIONS):
        manifest = workspace.require(f"runs/{name}/{model}/eval")
        gold = manifest.results["gold"]
        label = model.replace("iter", "M")
        table.add_row(
            label, f"{gold['mean']:.3f}", f"{gold['stderr']:.3f}", str(manifest.made_by.get("engine"))
        )
    return table
