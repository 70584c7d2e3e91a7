"""Health of a run read back from its folders, and the alarms that stand on it."""

import json
import shutil
from typing import Any

import pytest
from rich.console import Console

from drift_data.report.figures import read_figures
from drift_data.report.health import Health, check_health, read_health, read_steps, tabulate_health
from drift_data.report.options import AlarmOptions
from drift_data.workspace import MANIFEST, Workspace
from pipelines.console import print_health
from tests.helpers.sample_workspace import HEALTH, RUN, metrics, sample

OPTIONS = AlarmOptions()


def measured(**changes: Any) -> dict[str, Any]:
    """Results of a healthy iteration, with changes."""
    healthy = {
        **HEALTH,
        "kl_base": {"mean": 0.01, "stderr": 0.001, "n": 4},
        "kl_step": {"mean": 0.001, "stderr": 0.001, "n": 4},
        "finish_reasons": {"stop": 99, "length": 1},
        "diversity": 0.5,
    }
    return {**healthy, **changes}


def distinct(share: float) -> dict[str, Any]:
    return {"corpus": {"1": 0.1, "2": 0.2, "3": 0.3}, "reply": {"1": 0.9, "2": share, "3": 0.9}}


def alarms(*rows: Health) -> list[tuple[str, str]]:
    return [(check.name, check.where) for check in check_health(rows, OPTIONS) if check.alarm]


def row(iteration: int, **changes: Any) -> Health:
    return Health(iteration, candidates=100, kept=100, length_ratio=1.0, measured=measured(**changes))


def test_a_run_is_read_iteration_by_iteration(tmp_path) -> None:
    first, second = read_health(sample(tmp_path / "work"), RUN)
    assert (first.iteration, first.candidates, first.kept, first.measured) == (0, 1, 1, {})
    assert (second.candidates, second.kept, second.dropped) == (4, 3, {"leaks guidance": 1})
    assert (second.filtered, second.length_stops, second.distinct) == (0.25, 0.25, 0.9)
    assert second.length_ratio == 1.2
    assert second.measured == HEALTH
    assert second.curve("rewards/margins") == 0.95  # median of steps 9 and 10
    assert read_health(Workspace(tmp_path / "nothing"), RUN) == []


def test_an_iteration_of_another_chain_is_stale_and_raises_no_alarm(
    tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = sample(tmp_path / "work")
    path = workspace.path(f"runs/{RUN}/iter0/model") / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "another M0"}))
    rows = read_health(workspace, RUN)
    assert [(row.heading, row.stale) for row in rows] == [("M0", False), ("M1, stale", True)]
    assert rows[1].measured == HEALTH
    assert {check.where for check in check_health(rows, OPTIONS)} <= {"M0", "M0 pairs"}
    assert list(read_figures(workspace, RUN, 1, 1, OPTIONS).steps) == [0]
    print_health(workspace, RUN, OPTIONS, Console(width=100))
    shown = capsys.readouterr().out
    assert "M1, stale" in shown
    assert "`drift iter --n 1` makes them again" in shown
    assert "replies cut for length" not in shown


def test_a_measurement_of_a_model_that_is_no_more_is_none(tmp_path) -> None:
    workspace = sample(tmp_path / "work")
    path = workspace.path(f"runs/{RUN}/iter1/model") / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "another M1"}))
    (row,) = [row for row in read_health(workspace, RUN) if row.iteration == 1]
    assert (row.stale, row.measured, bool(row.steps)) == (False, {}, True)


def test_ten_iterations_are_in_their_order(tmp_path) -> None:
    workspace = sample(tmp_path / "work")
    for k in (10, 2):
        shutil.copytree(workspace.path(f"runs/{RUN}/iter1"), workspace.path(f"runs/{RUN}/iter{k}"))
    assert [found.iteration for found in read_health(workspace, RUN)] == [0, 1, 2, 10]


def test_metrics_of_a_model_that_is_not_finished_are_not_shown(tmp_path) -> None:
    workspace = sample(tmp_path / "work")
    folder = f"runs/{RUN}/iter1"
    assert len(read_steps(workspace, folder)) == len(metrics(1))
    assert all("method" not in step for step in read_steps(workspace, folder))  # numbers only
    (workspace.path(folder) / "model" / MANIFEST).unlink()
    assert read_steps(workspace, folder) == []


def test_a_healthy_iteration_alarms_nowhere() -> None:
    assert alarms(row(1), row(2)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kl_base": {"mean": 0.2, "stderr": 0.0, "n": 4}}, ("KL to the base model, a token", "M1")),
        ({"kl_step": {"mean": 0.2, "stderr": 0.0, "n": 4}}, ("KL of one iteration, a token", "M2")),
        ({"finish_reasons": {"stop": 80, "length": 20}}, ("replies cut for length", "M1")),
        ({"tokens": {**HEALTH["tokens"], "mean": 1.0}}, ("samples longer or shorter than M0's", "M1")),
        ({"tokens": {**HEALTH["tokens"], "mean": 4.0}}, ("samples longer or shorter than M0's", "M1")),
        ({"distinct": distinct(0.5)}, ("samples repeat themselves more", "M1")),
        ({"diversity": 0.3}, ("samples resemble each other more", "M1")),
    ],
)
def test_each_sign_alarms_where_it_belongs(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert alarms(row(1), row(2, **changes)) == [expected]


def test_pairs_that_filters_take_alarm_except_in_the_warm_start() -> None:
    filtered = {"candidates": 10, "kept": 4, "dropped": {"leak": 4, "length_stop": 2}}
    assert alarms(Health(1, **filtered)) == [("pairs filtered out", "M1 pairs")]
    assert alarms(Health(0, **filtered)) == []


def test_thresholds_are_options() -> None:
    strict = AlarmOptions(kl=0.005)
    assert [c.threshold for c in check_health([row(1)], strict) if c.alarm] == ["> 0.005"]


def test_what_was_not_measured_is_a_dash() -> None:
    table = dict(tabulate_health([Health(0, candidates=3, kept=3), row(1)]))
    assert table["  their KL to the base, nats a token"] == ["–", "0.01 ± 0.001"]
    assert table["  distinct-1, -2, -3 within a reply"] == ["–", "1.00, 0.90, –"]
    assert table["margin at the end"] == ["–", "–"]
    assert "learned from replies of" not in dict(tabulate_health([Health(0, candidates=3, kept=3)]))


def test_the_terminal_shows_the_table_and_every_alarm(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = sample(tmp_path / "work")
    print_health(workspace, RUN, OPTIONS, Console(width=100))
    shown = capsys.readouterr().out
    assert "0.25 ± 0.01" in shown
    assert "leaks guidance 1" in shown
    assert "▲ M0: replies cut for length: 0.25; alarm > 0.1" in shown
    path = workspace.path(f"runs/{RUN}/iter1/health") / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "results": measured()}))
    print_health(workspace, RUN, OPTIONS, Console(width=100))
    assert "No alarm in 12 checks." in capsys.readouterr().out
