"""Writes the report of a run: one HTML file that needs no network, no script and no other file.

Logs are hostile text. `html.environment` escapes and bounds every value; as a second guard, the page's content policy
forbids scripts and every request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from drift_data.chats.safe_text import escape_invisible
from drift_data.html import charts
from drift_data.html.environment import make_environment
from drift_data.report.alarms import compute_end_medians
from drift_data.report.figures import Figures, read_figures
from drift_data.report.health import Health, tabulate_health
from drift_data.report.options import ReportOptions
from drift_data.workspace import UserError, Workspace, read_tool_version, replace_file

_LN2 = math.log(2)
_CURVES: list[tuple[str, str, dict[str, str], float | None]] = [
    # name, title, curve → column of the metrics, y of a line to compare the curves with
    ("loss", "Loss", {"loss": "loss"}, _LN2),
    ("margin", "Margin", {"margin": "rewards/margins"}, 0.0),
    ("accuracy", "Accuracy", {"accuracy": "rewards/accuracies"}, 0.5),
    ("reward", "Rewards", {"chosen": "rewards/chosen", "rejected": "rewards/rejected"}, 0.0),
    ("logp", "Log-probabilities", {"chosen": "logps/chosen", "rejected": "logps/rejected"}, None),
    ("length", "Tokens of a reply", {"chosen": "lengths/chosen", "rejected": "lengths/rejected"}, None),
]


def write_report(
    workspace: Workspace,
    run: str,
    out: Path,
    recipe: Mapping[str, Any] | None = None,
    options: ReportOptions | None = None,
) -> Path:
    """Write the page and return its path. The page names whatever the workspace does not have yet.

    Args:
        workspace: holds the tables, and the run under `runs/<run>`.
        run: name of the run.
        out: the HTML file; it is replaced only when the page is whole.
        recipe: the options of the run, which the page lists; its `name` stands in the heading.
        options: what the page shows, and where alarms go off.

    Raises:
        UserError: there is no workspace.
    """
    if not workspace.root.is_dir():
        raise UserError(f"There is no workspace {workspace.root}. Choose one with WORK=, or run `make demo`.")
    options = options or ReportOptions()
    figures = read_figures(workspace, run, options.examples, options.samples, options.alarms)
    page = (
        make_environment(options.characters, "drift_data.report")
        .get_template("page.html.jinja")
        .render(
            figures=figures,
            charts=_draw_charts(figures),
            curves=_list_curve_ends(figures),
            health=tabulate_health(figures.health),
            recipe=_flatten(recipe) if recipe else [],
            recipe_name=str(recipe["name"]) if recipe and "name" in recipe else "",
            workspace=str(workspace.root),
            tool=read_tool_version(),
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(out) as part:
        part.write_text(page, encoding="utf-8")
    return out


def _flatten(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested options as (dotted name, value)."""
    rows: list[tuple[str, str]] = []
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", escape_invisible(str(value), 200)))
    return rows


def _draw_charts(figures: Figures) -> dict[str, list[tuple[str, Markup]]]:
    """Return the charts of each part of the page, with their titles."""
    drawn: dict[str, list[tuple[str, Markup]]] = {
        "training": [],
        "lengths": [],
        "health": _draw_health_charts([row for row in figures.health if row.measured and not row.stale]),
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
                f"{curve} from {compute_end_medians([y for _, y in points])[0]:.3g} to {compute_end_medians([y for _, y in points])[1]:.3g}"
                for curve, points in curves.items()
            )
            plot = charts.Plot(name, summary, reference=reference, breaks=breaks)
            drawn["training"].append((title, charts.draw_lines(plot, curves)))
    for row in figures.pairs:
        iteration = row["iter"]
        lengths = figures.lengths[iteration]
        groups = {side: [float(pair[side]) for pair in lengths] for side in ("chosen", "rejected")}
        summary = (
            f"Lengths of the pairs that train M{iteration}, in tokens: chosen {row['chosen_mean']:.1f} on average, "
            f"rejected {row['rejected_mean']:.1f}"
        )
        plot = charts.Plot(f"length{iteration}", summary, x_label="tokens")
        drawn["lengths"].append((f"Pairs that train M{iteration}", charts.draw_histogram(plot, groups)))
    for number, measure in enumerate(dict.fromkeys(row["measure"] for row in figures.scores)):
        rows = [row for row in figures.scores if row["measure"] == measure]
        values = [(row["model"], row["mean"], row["stderr"]) for row in rows]
        summary = f"{escape_invisible(measure, 60)} by model: " + ", ".join(
            f"{model} {mean:.3f}" for model, mean, _ in values
        )
        plot = charts.Plot(f"score{number}", summary, x_label="")
        drawn["scores"].append((escape_invisible(measure, 60), charts.draw_scores(plot, values)))
    return drawn


def _draw_health_charts(rows: list[Health]) -> list[tuple[str, Markup]]:
    """Return charts, with their titles, of how the samples change over the iterations."""
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
            drawn.append((title, charts.draw_scores(charts.Plot(name, summary, x_label=""), known)))
    return drawn


def _list_curve_ends(figures: Figures) -> list[dict[str, Any]]:
    """Return the training curves as rows of a table: the medians of the first and last fifth of every curve."""
    rows = []
    for iteration, steps in figures.steps.items():
        for _, _, columns, _ in _CURVES:
            for column in columns.values():
                values = [row[column] for row in steps if column in row]
                if values:
                    start, end = compute_end_medians(values)
                    rows.append({"model": f"M{iteration}", "name": column, "start": start, "end": end})
    return rows
