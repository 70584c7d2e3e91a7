"""Reads how a run is doing, iteration by iteration, from manifests and metrics, and checks it.

M_k is the k-th policy. It is trained on pairs made of replies by M_(k-1). So a column of the page's table tells how
M_(k-1) replied, which of the pairs the filters dropped, and how the training of M_k ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drift_data.report.alarms import Check, check_length_ratio, check_training, compute_end_medians
from drift_data.report.options import AlarmOptions
from drift_data.workspace import UserError, Workspace, locate_run

LoggedSteps = list[dict[str, float]]


@dataclass(frozen=True)
class Health:
    """What is known about one iteration. A figure that was not measured is None or empty.

    The warm start, for example, samples no reply.
    """

    iteration: int
    candidates: int | None = None  # candidate pairs
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason → pairs
    length_ratio: float | None = None  # mean tokens of chosen replies ÷ mean tokens of rejected replies
    measured: Mapping[str, Any] = field(default_factory=dict)  # results of the folder `health`
    steps: LoggedSteps = field(default_factory=list)
    stale: bool = False  # inputs have changed since, so the figures belong to another chain of models

    @property
    def model(self) -> str:
        """The policy that was trained."""
        return f"M{self.iteration}"

    @property
    def heading(self) -> str:
        """The name of the policy, marked when it is stale."""
        return f"{self.model}, stale" if self.stale else self.model

    @property
    def sampled(self) -> str:
        """The policy whose replies were measured."""
        return f"M{self.iteration - 1}"

    @property
    def filtered(self) -> float | None:
        """Share of the candidate pairs that the filters dropped."""
        return sum(self.dropped.values()) / self.candidates if self.candidates else None

    @property
    def length_stops(self) -> float | None:
        """Share of the sampled replies that were cut for length."""
        reasons = self.measured.get("finish_reasons", {})
        return reasons.get("length", 0) / sum(reasons.values()) if reasons else None

    @property
    def distinct(self) -> float | None:
        """Mean share of a reply's pairs of neighbouring tokens that do not repeat an earlier pair."""
        share: float | None = self.measured.get("distinct", {}).get("reply", {}).get("2")
        return share

    def curve(self, name: str) -> float | None:
        """Return the end of a training curve: the median of its last fifth."""
        values = [row[name] for row in self.steps if name in row]
        return compute_end_medians(values)[1] if values else None


def read_health(workspace: Workspace, run: str) -> list[Health]:
    """Return the health of every iteration of a run that has pairs or a model, in order."""
    folders = [path for path in workspace.path(locate_run(run)).glob("iter*") if path.name[4:].isdecimal()]
    rows = []
    for folder in sorted(folders, key=lambda path: int(path.name[4:])):
        name = folder.relative_to(workspace.root).as_posix()
        pairs, health = workspace.manifest(f"{name}/pairs"), workspace.manifest(f"{name}/health")
        steps = read_steps(workspace, name)
        stale = not all(_is_current(workspace, f"{name}/{made}") for made in ("pairs", "model"))
        if pairs is None and not steps:
            continue
        chosen, rejected = (
            (pairs.results.get(f"mean_{side}_tokens") if pairs else None) for side in ("chosen", "rejected")
        )
        rows.append(
            Health(
                iteration=int(folder.name[4:]),
                candidates=pairs.rows_in if pairs else None,
                kept=pairs.rows_out if pairs else 0,
                dropped=pairs.dropped if pairs else {},
                length_ratio=chosen / rejected if chosen and rejected else None,
                # A current iteration shows no figures of models that have been replaced.
                measured=health.results
                if health and (stale or _is_current(workspace, f"{name}/health"))
                else {},
                steps=steps,
                stale=stale,
            )
        )
    return rows


def _is_current(workspace: Workspace, name: str) -> bool:
    """Say whether the inputs of a folder are unchanged. A folder that was not made counts as current."""
    if workspace.manifest(name) is None:
        return True
    try:
        workspace.require(name)
    except UserError:
        return False
    return True


def read_steps(workspace: Workspace, folder: str) -> LoggedSteps:
    """Return the metrics of each logged training step of an iteration; empty while its model is unfinished."""
    path = workspace.path(folder) / "metrics.jsonl"
    if workspace.manifest(f"{folder}/model") is None or not path.is_file():
        return []
    rows = map(json.loads, path.read_text().splitlines())
    return [
        {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
        for row in rows
        if "loss" in row
    ]


def check_health(rows: Sequence[Health], options: AlarmOptions) -> list[Check]:
    """Return the checks of every current iteration: its training, its pairs, and the replies it learned from."""
    rows = [row for row in rows if not row.stale]
    checks = check_training({row.iteration: row.steps for row in rows if row.steps}, options)
    first: Health | None = None
    for row in rows:
        if row.length_ratio is not None:
            name = "chosen replies longer or shorter than rejected ones"
            checks.append(check_length_ratio(name, f"{row.model} pairs", row.length_ratio, options))
        if row.iteration and row.filtered is not None:
            checks.append(
                _check_above("pairs filtered out", f"{row.model} pairs", row.filtered, options.filtered)
            )
        if row.length_stops is not None:
            name = "replies cut for length"
            checks.append(_check_above(name, row.sampled, row.length_stops, options.length_stops))
        if row.measured:
            limit = options.kl
            checks.append(
                _check_above(
                    "KL to the base model, a token", row.sampled, row.measured["kl_base"]["mean"], limit
                )
            )
            checks.append(
                _check_above(
                    "KL of one iteration, a token", row.model, row.measured["kl_step"]["mean"], limit
                )
            )
            checks += _compare_with_first(first, row, options) if first else []
            first = first or row
    return checks


def _check_above(name: str, where: str, value: float, limit: float) -> Check:
    return Check(name, where, f"{value:.3g}", f"> {limit:.3g}", value > limit)


def _compare_with_first(first: Health, row: Health, options: AlarmOptions) -> list[Check]:
    """Return the checks of an iteration's samples against those of the first iteration."""
    checks = []
    before, now = first.measured["tokens"]["mean"], row.measured["tokens"]["mean"]
    if before:
        name = f"samples longer or shorter than {first.sampled}'s"
        checks.append(check_length_ratio(name, row.sampled, now / before, options))
    for name, old, new in (
        ("samples repeat themselves more", first.distinct, row.distinct),
        ("samples resemble each other more", first.measured["diversity"], row.measured["diversity"]),
    ):
        if old and new is not None:
            limit = options.distinct_share
            checks.append(Check(name, row.sampled, f"{new / old:.2f}", f"< {limit:.2f}", new / old < limit))
    return checks


def tabulate_health(rows: Sequence[Health]) -> list[tuple[str, list[str]]]:
    """Return the figures as lines: the name of a figure, then its text for each iteration; "–" where the figure is missing."""
    lines: list[tuple[str, list[str]]] = [
        ("pairs kept", [f"{row.kept:,}" for row in rows]),
        ("pairs filtered out", [_format_percent(row.filtered) for row in rows]),
        ("  by reason", [", ".join(f"{why} {n:,}" for why, n in row.dropped.items()) or "–" for row in rows]),
        ("margin at the end", [_format_number(row.curve("rewards/margins")) for row in rows]),
        ("accuracy at the end", [_format_number(row.curve("rewards/accuracies")) for row in rows]),
        ("chosen reward at the end", [_format_number(row.curve("rewards/chosen")) for row in rows]),
    ]
    if not any(row.measured for row in rows):
        return lines
    return [
        *lines,
        ("KL of this iteration, nats a token", [_format_with_error(row, "kl_step") for row in rows]),
        ("learned from replies of", [row.sampled if row.measured else "–" for row in rows]),
        ("  their KL to the base, nats a token", [_format_with_error(row, "kl_base") for row in rows]),
        ("  tokens: mean", [_format_number(row.measured.get("tokens", {}).get("mean")) for row in rows]),
        ("  tokens: 10 %, 50 %, 90 % quantile", [_format_quantiles(row) for row in rows]),
        ("  cut for length", [_format_percent(row.length_stops) for row in rows]),
        ("  distinct-1, -2, -3 within a reply", [_format_distinct(row, "reply") for row in rows]),
        ("  distinct-1, -2, -3 over all", [_format_distinct(row, "corpus") for row in rows]),
        ("  mean cosine distance", [_format_number(row.measured.get("diversity")) for row in rows]),
    ]


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _format_percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _format_with_error(row: Health, name: str) -> str:
    found = row.measured.get(name)
    return f"{found['mean']:.2g} ± {found['stderr']:.1g}" if found else "–"


def _format_quantiles(row: Health) -> str:
    tokens = row.measured.get("tokens")
    return ", ".join(f"{tokens[name]:.0f}" for name in ("p10", "p50", "p90")) if tokens else "–"


def _format_distinct(row: Health, of: str) -> str:
    shares = row.measured.get("distinct", {}).get(of, {})
    return ", ".join("–" if share is None else f"{share:.2f}" for share in shares.values()) or "–"
