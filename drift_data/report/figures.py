"""Reads everything that the report shows about a run, with DuckDB; the queries are `sql/*.sql`.

A part whose tables are not there yet is empty; a missing table raises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import duckdb

from drift_data.calibrate.agreement import Agreement, measure_agreement
from drift_data.query.warehouse import (
    FinishedFolder,
    connect,
    find_current_labels,
    find_finished_folders,
    list_view_names,
)
from drift_data.report.alarms import Check, ModelReplies, check_replies
from drift_data.report.health import Health, check_health, read_health
from drift_data.report.options import AlarmOptions
from drift_data.workspace import Workspace

Row = dict[str, Any]
_READ_CHARACTERS = 4_000  # most characters of a message that are read; the page shows fewer
_SIMULATED_TRUTH = "simulated/truth"
# Step of the funnel → the earlier step of which the page shows it as a share.
_SHARE_OF = {
    "conversations": "rows read",
    "SAT turns": "feedback turns",
    "DSAT turns": "feedback turns",
    "NEUTRAL turns": "feedback turns",
    "DSAT examples": "DSAT turns",
    "SAT examples": "SAT turns",
    "seed pairs": "DSAT turns",
}


@dataclass
class Figures:
    """The numbers and texts of one run. Lists are in the order in which the page shows them."""

    run: str
    folders: list[FinishedFolder]  # folders of the data and of this run
    labels: str | None  # the label table that `make seed` mines, such as "labels/local"
    funnel: list[Row] = field(default_factory=list)  # rows after each step
    judges: list[Row] = field(default_factory=list)  # counts of each label, by label table
    agreements: list[Agreement] = field(default_factory=list)  # of each label table with true labels
    items: list[Row] = field(default_factory=list)  # rubric items and how many turns show them
    models: list[Row] = field(default_factory=list)  # rate of complaints by model of the logs
    languages: list[Row] = field(default_factory=list)  # rate of complaints by language
    depths: list[Row] = field(default_factory=list)  # rate of complaints by number of the judged reply
    examples: list[Row] = field(default_factory=list)  # complaints to read
    pairs: list[Row] = field(default_factory=list)  # counts and mean lengths of pairs, by iteration
    lengths: dict[int, list[Row]] = field(default_factory=dict)  # iteration → chosen and rejected tokens
    drops: list[Row] = field(default_factory=list)  # rows left out, by table and reason
    steps: dict[int, list[dict[str, float]]] = field(default_factory=dict)  # iteration → metrics of each step
    health: list[Health] = field(default_factory=list)  # by iteration
    scores: list[Row] = field(default_factory=list)  # evaluations, by measure and model
    samples: list[Row] = field(default_factory=list)  # a prompt, and the reply of each model to it
    checks: list[Check] = field(default_factory=list)


def read_figures(
    workspace: Workspace, run: str, examples: int, samples: int, options: AlarmOptions
) -> Figures:
    """Return everything that the page shows of a run.

    Args:
        workspace: any part of it may be missing.
        run: name of the run.
        examples: number of complaints to show.
        samples: number of prompts to show with every model's reply.
        options: thresholds of the alarms.
    """
    folders = [f for f in find_finished_folders(workspace) if f.columns.get("run", run) == run]
    figures = Figures(run, folders, find_current_labels(workspace))
    with connect(workspace) as connection:
        views = set(list_view_names(connection))
        figures.funnel = _read_funnel(connection, run)
        if figures.labels is not None:
            _read_label_figures(connection, workspace, figures, "conversations" in views)
        if "dsat" in views:
            figures.examples = _query(connection, "examples", characters=_READ_CHARACTERS, examples=examples)
        if "pairs" in views:
            figures.pairs = _query(connection, "pairs", run=run)
            for row in _query(connection, "lengths", run=run):
                figures.lengths.setdefault(row.pop("iter"), []).append(row)
        figures.drops = _query(connection, "drops", run=run)
        if "evaluations" in views:
            figures.scores = _query(connection, "scores", run=run)
            figures.samples = _read_replies(connection, "replies_to_held_out", run, samples)
        if not figures.samples and "rollouts" in views:
            figures.samples = _read_replies(connection, "replies_in_training", run, samples)
    figures.health = read_health(workspace, run)
    figures.steps = {row.iteration: row.steps for row in figures.health if row.steps and not row.stale}
    _add_evaluation_results(figures)
    figures.checks = _check_run(figures, options)
    return figures


def _query(connection: duckdb.DuckDBPyConnection, name: str, **parameters: object) -> list[Row]:
    """Return the rows of `sql/<name>.sql`, column → value."""
    sql = files(__package__).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    return _fetch_rows(connection, sql, parameters)


def _fetch_rows(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, object]
) -> list[Row]:
    result = connection.execute(sql, dict(parameters))
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _read_funnel(connection: duckdb.DuckDBPyConnection, run: str) -> list[Row]:
    """Return the steps of the funnel, each as a share of an earlier step."""
    steps = _fetch_rows(connection, "FROM funnel WHERE run IS NULL OR run = $run", {"run": run})
    counts = {(row["step"], row["iter"]): row["rows"] for row in steps}
    for row in steps:
        if row["step"] == "pairs kept":
            row["of"] = "examples sampled" if row["iter"] else "seed pairs"
            whole = counts.get((row["of"], row["iter"] or None))
        else:
            row["of"] = _SHARE_OF.get(row["step"])
            whole = counts.get((row["of"], None))
        row["share"] = row["rows"] / whole if whole else None
    return steps


def _read_label_figures(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, figures: Figures, has_conversations: bool
) -> None:
    figures.judges = _query(connection, "judges")
    figures.items = _query(connection, "items")
    figures.depths = _query(connection, "rates_by_depth")
    if has_conversations:
        figures.models = _query(connection, "rates_by_model")
        figures.models.sort(key=lambda row: -row["low"])
        figures.languages = _query(connection, "rates_by_language")
    stages = {folder.name: folder.manifest.stage for folder in figures.folders if folder.view == "labels"}
    given = [name for name, stage in stages.items() if stage == "convert"]  # came with the data set
    made = [name for name in stages if name not in given]
    if not given and workspace.manifest(_SIMULATED_TRUTH):
        given = [_SIMULATED_TRUTH]
    figures.agreements = [measure_agreement(workspace, name, truth) for name in made for truth in given]


def _read_replies(connection: duckdb.DuckDBPyConnection, query: str, run: str, prompts: int) -> list[Row]:
    """Return one row a prompt: its request, and the reply of each model, in the order in which they are shown."""
    found: dict[tuple[str, int | None], Row] = {}
    for row in _query(connection, query, characters=_READ_CHARACTERS, run=run, prompts=prompts):
        key = row["conversation_id"], row["turn"]
        sample = found.setdefault(key, {"request": row["request"], "replies": [], **row})
        sample["replies"].append((row["model"], row["completion"]))
    return list(found.values())


def _add_evaluation_results(figures: Figures) -> None:
    """Add mean, standard error and number of prompts to the scores, as the manifests of the evaluations state them."""
    results = {f.columns["model"]: f.manifest.results for f in figures.folders if f.view == "evaluations"}
    for row in figures.scores:
        stated = results.get(row["model"], {}).get(row["measure"])
        if isinstance(stated, dict) and {"mean", "stderr", "n"} <= stated.keys():
            row.update(stated)
    for folder in figures.folders:
        if folder.view == "heldout":
            for measure, stated in folder.manifest.results.items():
                if isinstance(stated, dict) and {"mean", "stderr", "n"} <= stated.keys():
                    name = f"held-out {measure}"
                    figures.scores.append(
                        {**folder.columns, **stated, "measure": name, "tokens": None, "distinct": None}
                    )


def _check_run(figures: Figures, options: AlarmOptions) -> list[Check]:
    measure = figures.scores[0]["measure"] if figures.scores else None
    models = [
        ModelReplies(row["model"], row["mean"], row["stderr"], row["tokens"], row["distinct"])
        for row in figures.scores
        if row["measure"] == measure
    ]
    return check_health(figures.health, options) + check_replies(models, options)
