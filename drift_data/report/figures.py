"""Everything the report shows of a run, read from the workspace with DuckDB. Knows no HTML.

A part whose tables are not there yet is empty; nothing here raises for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from drift_data.calibrate.agreement import Agreement, measure_agreement
from drift_data.query.warehouse import Folder, connect, current_labels, finished, view_names
from drift_data.report.alarms import AlarmOptions, Check, Replies, reply_checks
from drift_data.report.health import Health, health_checks, read_health
from drift_data.workspace import Workspace

Row = dict[str, Any]
_READ = 4_000  # characters of a message that are read; the page shows fewer
_TRUTH = "simulated/truth"
# A step of the funnel → the step it is a part of.
_OF = {
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
    """The numbers and texts of one run. Lists are in the order in which they are shown."""

    run: str
    folders: list[Folder]  # of the data and of this run
    labels: str | None  # the labels that count
    funnel: list[Row] = field(default_factory=list)
    judges: list[Row] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    items: list[Row] = field(default_factory=list)
    models: list[Row] = field(default_factory=list)
    languages: list[Row] = field(default_factory=list)
    depths: list[Row] = field(default_factory=list)
    examples: list[Row] = field(default_factory=list)
    pairs: list[Row] = field(default_factory=list)
    lengths: dict[int, list[Row]] = field(default_factory=dict)  # iteration → chosen and rejected tokens
    drops: list[Row] = field(default_factory=list)
    steps: dict[int, list[dict[str, float]]] = field(default_factory=dict)  # iteration → metrics
    health: list[Health] = field(default_factory=list)  # by iteration
    scores: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)  # a prompt, and what each model replied to it
    checks: list[Check] = field(default_factory=list)


def read_figures(
    workspace: Workspace, run: str, examples: int, samples: int, options: AlarmOptions
) -> Figures:
    """Return what there is to show of a run.

    Args:
        workspace: any part of it may be missing.
        run: name of the run.
        examples: number of complaints to show.
        samples: number of prompts to show with every model's reply.
        options: thresholds of the alarms.
    """
    folders = [f for f in finished(workspace) if f.columns.get("run", run) == run]
    figures = Figures(run, folders, current_labels(workspace))
    with connect(workspace) as connection:
        views = set(view_names(connection))
        figures.funnel = _funnel(connection, run)
        if figures.labels is not None:
            _read_labels(connection, workspace, figures, "conversations" in views)
        if "dsat" in views:
            figures.examples = _rows(connection, _EXAMPLES, [_READ, _READ, _READ, examples])
        if "pairs" in views:
            figures.pairs = _rows(connection, _PAIRS, [run])
            for row in _rows(connection, _LENGTHS, [run]):
                figures.lengths.setdefault(row.pop("iter"), []).append(row)
        figures.drops = _rows(connection, _DROPS, [run])
        if "evaluations" in views:
            figures.scores = _rows(connection, _SCORES, [run])
            figures.samples = _samples(_rows(connection, _REPLIES, [_READ, _READ, run, samples]))
        if not figures.samples and "rollouts" in views:
            figures.samples = _samples(_rows(connection, _ROLLOUTS, [_READ, _READ, run, samples]))
    figures.health = read_health(workspace, run)
    figures.steps = {row.iteration: row.steps for row in figures.health if row.steps and not row.stale}
    _add_results(figures)
    figures.checks = _checks(figures, options)
    return figures


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> list[Row]:
    result = connection.execute(sql, list(values))
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _funnel(connection: duckdb.DuckDBPyConnection, run: str) -> list[Row]:
    """Return the steps with the share of the step they are a part of."""
    steps = _rows(connection, "FROM funnel WHERE run IS NULL OR run = ?", [run])
    counts = {(row["step"], row["iter"]): row["rows"] for row in steps}
    for row in steps:
        if row["step"] == "pairs kept":
            row["of"] = "examples sampled" if row["iter"] else "seed pairs"
            whole = counts.get((row["of"], row["iter"] or None))
        else:
            row["of"] = _OF.get(row["step"])
            whole = counts.get((row["of"], None))
        row["share"] = row["rows"] / whole if whole else None
    return steps


def _read_labels(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, figures: Figures, conversations: bool
) -> None:
    figures.judges = _rows(connection, _JUDGES)
    figures.items = _rows(connection, _ITEMS)
    figures.depths = _rows(connection, _RATES.format(key="least(turn // 2, 10)", source=""))
    if conversations:
        source = "JOIN conversations USING (conversation_id)"
        figures.models = _rows(connection, _RATES.format(key="model", source=source))
        figures.models.sort(key=lambda row: -row["low"])
        figures.languages = _rows(connection, _RATES.format(key="language", source=source))
    stages = {folder.name: folder.manifest.stage for folder in figures.folders if folder.view == "labels"}
    given = [name for name, stage in stages.items() if stage == "convert"]  # came with the data set
    made = [name for name in stages if name not in given]
    if not given and workspace.manifest(_TRUTH):
        given = [_TRUTH]
    figures.agreements = [measure_agreement(workspace, name, truth) for name in made for truth in given]


def _samples(rows: Sequence[Row]) -> list[Row]:
    """Return prompt → {request, replies by model}, from rows in the order in which they are shown."""
    found: dict[tuple[str, int | None], Row] = {}
    for row in rows:
        key = row["conversation_id"], row["turn"]
        sample = found.setdefault(key, {"request": row["request"], "replies": [], **row})
        sample["replies"].append((row["model"], row["completion"]))
    return list(found.values())


def _add_results(figures: Figures) -> None:
    """Add what the manifests of evaluations say to their rows: mean, standard error, number of prompts."""
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


def _checks(figures: Figures, options: AlarmOptions) -> list[Check]:
    measure = figures.scores[0]["measure"] if figures.scores else None
    models = [
        Replies(row["model"], row["mean"], row["stderr"], row["tokens"], row["distinct"])
        for row in figures.scores
        if row["measure"] == measure
    ]
    return health_checks(figures.health, options) + reply_checks(models, options)


_JUDGES = """
SELECT labels_of, any_value(judge) AS judge, count(*) AS turns,
    count(*) FILTER (label = 'SAT') AS "SAT", count(*) FILTER (label = 'DSAT') AS "DSAT",
    count(*) FILTER (label = 'NEUTRAL') AS "NEUTRAL"
FROM labels GROUP BY labels_of ORDER BY labels_of
"""
_ITEMS = """
SELECT item.name AS name, item.polarity AS polarity, count(*) AS turns,
    count(*) / (SELECT count(*) FROM current_labels) AS share, avg(item.strength) AS strength
FROM (SELECT label, unnest(items) AS item FROM current_labels) WHERE item.polarity = label
GROUP BY ALL ORDER BY turns DESC, name LIMIT 20
"""
_RATES = """
SELECT {key} AS key, count(*) AS turns, count(*) FILTER (label = 'DSAT') AS dsat, dsat / turns AS rate,
    wilson_low(dsat, turns) AS low, wilson_high(dsat, turns) AS high
FROM current_labels {source} GROUP BY 1 ORDER BY turns DESC, key LIMIT 12
"""
# The same examples in every report of the same tables: in the order of a hash, not of the file.
_EXAMPLES = """
SELECT conversation_id, turn, left(prompt[-1].content, ?) AS request, length(prompt) AS messages,
    left(rejected[1].content, ?) AS reply, left(feedback, ?) AS feedback, items, left(reason, 500) AS reason
FROM dsat ORDER BY md5(conversation_id || turn) LIMIT ?
"""
_PAIRS = """
SELECT iter, any_value(method) AS method, any_value(policy) AS policy, count(*) AS pairs,
    avg(chosen_tokens) AS chosen_mean, median(chosen_tokens) AS chosen_median,
    avg(rejected_tokens) AS rejected_mean, median(rejected_tokens) AS rejected_median
FROM pairs WHERE run = ? GROUP BY iter ORDER BY iter
"""
_LENGTHS = """
SELECT iter, chosen_tokens AS chosen, rejected_tokens AS rejected FROM (
    SELECT *, row_number() OVER (PARTITION BY iter ORDER BY md5(conversation_id || turn)) AS place
    FROM pairs WHERE run = ?
) WHERE place <= 20000
"""
_DROPS = """
SELECT "table", run, iter, reason, count(*) AS rows FROM dropped WHERE run IS NULL OR run = ?
GROUP BY ALL ORDER BY run NULLS FIRST, iter NULLS FIRST, "table", rows DESC, reason
"""
# n counts prompts: several samples of one prompt are not several prompts. `distinct` is the mean share of a
# reply's word pairs that occur in it once or are its first occurrence.
_SCORES = """
WITH replies AS (
    SELECT *, string_split_regex(trim(completion), '\\s+') AS words FROM evaluations WHERE run = ?
), prompts AS (
    SELECT iter, model, measure, conversation_id, avg(score) AS score, avg(tokens) AS tokens,
        avg(CASE WHEN length(words) > 1 THEN
            length(list_distinct(list_zip(words[:-2], words[2:]))) / (length(words) - 1) END) AS pairs
    FROM replies GROUP BY ALL
)
SELECT iter, model, measure, avg(score) AS mean, coalesce(stddev_samp(score), 0) / sqrt(count(*)) AS stderr,
    count(*) AS n, avg(tokens) AS tokens, avg(pairs) AS "distinct"
FROM prompts GROUP BY ALL ORDER BY measure, iter NULLS FIRST, model
"""
# The same prompts in every report, those that most models were asked first. One reply a model: its first sample.
_REPLIES = """
WITH replies AS (
    SELECT conversation_id, NULL::INTEGER AS turn, model, iter, left(prompt[-1].content, ?) AS request,
        left(completion, ?) AS completion
    FROM evaluations WHERE run = ?
    QUALIFY row_number() OVER (PARTITION BY conversation_id, model ORDER BY measure, sample) = 1
), shown AS (
    SELECT conversation_id FROM replies GROUP BY 1 ORDER BY count(*) DESC, md5(conversation_id) LIMIT ?
)
FROM replies SEMI JOIN shown USING (conversation_id) ORDER BY md5(conversation_id), iter NULLS FIRST
"""
# Where no held-out prompt was asked: examples that the policies were asked in training, most iterations first.
_ROLLOUTS = """
WITH replies AS (
    SELECT conversation_id, turn, 'M' || (iter - 1) || ' ' || kind AS model, iter,
        left(messages[-1].content, ?) AS request, left(completion, ?) AS completion
    FROM rollouts WHERE run = ? AND sample = 0
), shown AS (
    SELECT conversation_id, turn FROM replies GROUP BY 1, 2
    ORDER BY count(*) DESC, md5(conversation_id || turn) LIMIT ?
)
FROM replies SEMI JOIN shown USING (conversation_id, turn) ORDER BY md5(conversation_id || turn), iter, model
"""
