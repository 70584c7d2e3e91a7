"""Writes the report of a run: one HTML file that needs no network, no script and no other file.

Logs are hostile text: `report.html` escapes and bounds every value, a strict content policy stands behind that.
This module knows how things look, not how they are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

from drift_data.chats.safe_text import visible
from drift_data.html import charts
from drift_data.html.environment import environment
from drift_data.report.alarms import AlarmOptions, ends
from drift_data.report.figures import Figures, read_figures
from drift_data.report.health import Health, health_table
from drift_data.workspace import UserError, Workspace, replaced_file, tool_version

_LN2 = math.log(2)
_CURVES: list[tuple[str, str, dict[str, str], float | None]] = [
    # name, title, curve → column of the metrics, line to compare with
    ("loss", "Loss", {"loss": "loss"}, _LN2),
    ("margin", "Margin", {"margin": "rewards/margins"}, 0.0),
    ("accuracy", "Accuracy", {"accuracy": "rewards/accuracies"}, 0.5),
    ("reward", "Rewards", {"chosen": "rewards/chosen", "rejected": "rewards/rejected"}, 0.0),
    ("logp", "Log-probabilities", {"chosen": "logps/chosen", "rejected": "logps/rejected"}, None),
    ("length", "Tokens of a reply", {"chosen": "lengths/chosen", "rejected": "lengths/rejected"}, None),
]


class ReportOptions(BaseModel):
    """What the page shows, and when it alarms."""

    model_config = ConfigDict(extra="forbid")

    examples: int = Field(6, ge=0)  # complaints shown
    samples: int = Field(4, ge=0)  # prompts shown with every model's reply
    characters: int = Field(600, ge=1)  # of a message that are shown
    alarms: AlarmOptions = AlarmOptions()


def write_report(
    workspace: Workspace,
    run: str,
    out: Path,
    recipe: Mapping[str, Any] | None = None,
    options: ReportOptions | None = None,
) -> Path:
    """Write the page and return its path. Whatever is not there yet is said on the page.

    Args:
        workspace: holds the tables, and the run under `runs/<run>`.
        run: name of the run.
        out: the HTML file; replaced at once when the page is whole.
        recipe: the options of the run, to be shown; its `name` stands in the heading.
        options: what is shown.

    Raises:
        UserError: there is no workspace.
    """
    if not workspace.root.is_dir():
        raise UserError(f"There is no workspace {workspace.root}. Choose one with WORK=, or run `make demo`.")
    options = options or ReportOptions()
    figures = read_figures(workspace, run, options.examples, options.samples, options.alarms)
    page = (
        environment(options.characters, "drift_data.report")
        .get_template("page.html.jinja")
        .render(
            figures=figures,
            charts=_charts(figures),
            curves=_curve_ends(figures),
            health=health_table(figures.health),
            recipe=_flat(recipe) if recipe else [],
            recipe_name=str(recipe["name"]) if recipe and "name" in recipe else "",
            workspace=str(workspace.root),
            tool=tool_version(),
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(out) as part:
        part.write_text(page, encoding="utf-8")
    return out


def _flat(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested options as (dotted name, value)."""
    rows: list[tuple[str, str]] = []
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", visible(str(value), 200)))
    return rows


def _charts(figures: Figures) -> dict[str, list[tuple[str, Markup]]]:
    """Return part of the page → charts with their titles."""
    drawn: dict[str, list[tuple[str, Markup]]] = {
        "training": [],
        "lengths": [],
        "health": _health_charts([row for row in figures.health if row.measured and not row.stale]),
        "scores": [],
    }
    starts, total = {}, 0.0
    for iteration, steps in figures.steps.items():
        starts[iteration] = total
        total += max(row["step"] for row in steps)
    breaks = [(start + 0.5, f"M{iteration}") for iteration, start in starts.items()]
    for name, title, columns, reference in _CURVES:
        curves = {
            curve: [
                (starts[iteration] + row["step"], row[column])
                for iteration, steps in figures.steps.items()
                for row in steps
                if column in row
            ]
            for curve, column in columns.items()
        }
        curves = {curve: points for curve, points in curves.items() if points}
        if curves:
            summary = f"{title} over {total:.0f} training steps: " + "; ".join(
                f"{curve} from {ends([y for _, y in points])[0]:.3g} to {ends([y for _, y in points])[1]:.3g}"
                for curve, points in curves.items()
            )
            plot = charts.Plot(name, summary, reference=reference, breaks=breaks)
            drawn["training"].append((title, charts.lines(plot, curves)))
    for row in figures.pairs:
        iteration = row["iter"]
        lengths = figures.lengths[iteration]
        groups = {side: [float(pair[side]) for pair in lengths] for side in ("chosen", "rejected")}
        summary = (
            f"Lengths of the pairs that train M{iteration}, in tokens: chosen {row['chosen_mean']:.1f} on average, "
            f"rejected {row['rejected_mean']:.1f}"
        )
        plot = charts.Plot(f"length{iteration}", summary, x_label="tokens")
        drawn["lengths"].append((f"Pairs that train M{iteration}", charts.bars(plot, groups)))
    for number, measure in enumerate(dict.fromkeys(row["measure"] for row in figures.scores)):
        rows = [row for row in figures.scores if row["measure"] == measure]
        values = [(row["model"], row["mean"], row["stderr"]) for row in rows]
        summary = f"{visible(measure, 60)} by model: " + ", ".join(
            f"{model} {mean:.3f}" for model, mean, _ in values
        )
        plot = charts.Plot(f"score{number}", summary, x_label="")
        drawn["scores"].append((visible(measure, 60), charts.scores(plot, values)))
    return drawn


def _health_charts(rows: list[Health]) -> list[tuple[str, Markup]]:
    """Return how the samples change over the iterations, as charts with their titles."""
    parts: list[tuple[str, str, list[tuple[str, float | None, float]]]] = [
        # name, title, (model, value, standard error)
        (
            "kl",
            "KL to the base model, nats a token",
            [(r.sampled, r.measured["kl_base"]["mean"], r.measured["kl_base"]["stderr"]) for r in rows],
        ),
        (
            "step",
            "KL of one iteration, nats a token",
            [(r.model, r.measured["kl_step"]["mean"], r.measured["kl_step"]["stderr"]) for r in rows],
        ),
        (
            "tokens",
            "Tokens of a sample, mean",
            [(r.sampled, r.measured["tokens"]["mean"], 0.0) for r in rows],
        ),
        ("distinct", "Distinct-2 within a sample", [(r.sampled, r.distinct, 0.0) for r in rows]),
    ]
    drawn = []
    for name, title, values in parts:
        known = [(model, value, error) for model, value, error in values if value is not None]
        if known:
            summary = f"{title}: " + ", ".join(f"{model} {value:.3g}" for model, value, _ in known)
            drawn.append((title, charts.scores(charts.Plot(name, summary, x_label=""), known)))
    return drawn


def _curve_ends(figures: Figures) -> list[dict[str, Any]]:
    """Return, for each iteration and curve, the medians of its first and last fifth: the charts as a table."""
    rows = []
    for iteration, steps in figures.steps.items():
        for _, _, columns, _ in _CURVES:
            for column in columns.values():
                values = [row[column] for row in steps if column in row]
                if values:
                    start, end = ends(values)
                    rows.append({"model": f"M{iteration}", "name": column, "start": start, "end": end})
    return rows
