"""`make demo`: every stage once, on simulated logs with a tiny model, and what came out.

Nothing here is special to the demo but the order of the stages and the seed: each can be run by its own command.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.caller import in_words_of_caller
from pipelines.options import Set, Work, open_workspace
from pipelines.stages.convert import convert
from pipelines.stages.eval import evaluate
from pipelines.stages.iter import iterate
from pipelines.stages.label import label
from pipelines.stages.report import report
from pipelines.stages.seed import seed as mine_seed
from pipelines.stages.warm import warm

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from drift_data.calibrate.agreement import Agreement
    from drift_data.workspace import Workspace
    from pipelines.recipe import Recipe

ITERATIONS = 2
TRUTH = "labels/simulated"  # the true satisfaction of the simulated users


def demo(
    work: Work = Path("data/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the logs, the model and the training.")] = 0,
    overrides: Set = None,
) -> None:
    """Run the whole story on simulated logs with a tiny model: no key, no GPU, no network."""
    started = time.monotonic()
    given: dict[str, Any] = {
        "work": work,
        "recipe": "demo",
        "overrides": [*(overrides or []), f"seed={seed}"],
    }
    workspace, recipe = open_workspace(**given)
    from rich.console import Console

    console = Console(stderr=True)
    steps: list[tuple[str, Callable[[], None]]] = [
        ("chat logs of simulated users → conversations", partial(convert, **given)),
        ("label every feedback turn", partial(label, **given)),
        ("mine examples and seed pairs", partial(mine_seed, labels=recipe.label.judge, **given)),
        ("base model, warm start → M0", partial(warm, **given)),
        ("iteration 1 → M1", partial(iterate, n=1, **given)),
        ("iteration 2 → M2", partial(iterate, n=2, **given)),
        ("measure every model on held-out prompts", partial(evaluate, n=ITERATIONS, **given)),
        ("report", partial(report, **given)),
    ]
    for number, (title, step) in enumerate(steps, 1):
        console.rule(f"[bold]{number}/{len(steps)} {title}", align="left")
        step()
    _print_summary(workspace, recipe, Console())
    again = in_words_of_caller("a second `make demo` redoes nothing")
    console.print(f"{time.monotonic() - started:.0f} s; {again}.")


def _print_summary(workspace: Workspace, recipe: Recipe, console: Console) -> None:
    """Print the funnel, the judge's quality and the gold reward of every model."""
    from drift_data.calibrate.agreement import measure_agreement
    from pipelines.runs import name_run

    name = name_run(recipe, None)
    judged = measure_agreement(workspace, f"labels/{recipe.label.judge}", TRUTH)
    console.print(_make_funnel_table(workspace, recipe, name))
    console.print(_make_judge_table(judged))
    console.print(_make_reward_table(workspace, name))
    console.print(f"The report: {(workspace.path('runs') / name / 'report.html').resolve()}")


def _count_rows(workspace: Workspace, folder: str) -> int:
    return workspace.require(folder).rows_out


def _make_funnel_table(workspace: Workspace, recipe: Recipe, name: str) -> Table:
    from rich.table import Table

    from drift_data.schema import LABELS
    from drift_data.workspace import locate_output
    from pipelines.runs import list_models

    labels = workspace.require(f"labels/{recipe.label.judge}")
    table = Table("step", "rows", "left out", title="Funnel")
    table.add_row("conversations", f"{_count_rows(workspace, 'conversations'):,}", "")
    table.add_row("feedback turns", f"{labels.rows_in:,}", "")
    for label_name in LABELS:
        table.add_row(f"  {label_name}", f"{labels.results[label_name]:,}", "")
    table.add_row("DSAT examples", f"{_count_rows(workspace, 'dsat'):,}", "")
    table.add_row("seed pairs", f"{_count_rows(workspace, 'seed'):,}", "")
    for iteration in list_models(ITERATIONS)[1:]:
        pairs = workspace.require(locate_output(name, iteration, "pairs"))
        dropped = ", ".join(f"{reason} {count}" for reason, count in pairs.dropped.items())
        table.add_row(f"pairs kept, {iteration}", f"{pairs.rows_out:,}", dropped)
    table.columns[1].justify = "right"
    return table


def _make_judge_table(judged: Agreement) -> Table:
    from rich.table import Table

    from drift_data.schema import LABELS

    table = Table(
        "label", "precision", "recall", "given", "true", title="The local judge against the known truth"
    )
    for label_name in LABELS:
        score = judged.scores[label_name]
        precision, recall = (
            "–" if value is None else f"{value:.3f}" for value in (score.precision, score.recall)
        )
        table.add_row(label_name, precision, recall, f"{score.labelled:,}", f"{score.true:,}")
    return table


def _make_reward_table(workspace: Workspace, name: str) -> Table:
    from rich.table import Table

    from drift_data.workspace import locate_output
    from pipelines.runs import list_models

    table = Table("model", "gold reward", "standard error", "engine", title="Held-out prompts, T = 1")
    for model in list_models(ITERATIONS):
        manifest = workspace.require(locate_output(name, model, "eval"))
        gold = manifest.results["gold"]
        engine = str(manifest.made_by.get("engine"))
        table.add_row(model.replace("iter", "M"), f"{gold['mean']:.3f}", f"{gold['stderr']:.3f}", engine)
    return table
