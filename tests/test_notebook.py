import base64
import os

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from drift_data.schema import LABEL_ROWS
from drift_data.workspace import MANIFEST
from tests.helpers.paths import ROOT
from tests.helpers.quality_sample import turn
from tests.helpers.review_sample import to_review
from tests.helpers.sample_workspace import RUN, build_run, metrics, sample

pytestmark = pytest.mark.slow

NOTEBOOK = ROOT / "notebooks" / "explore.ipynb"
AUDIT = ROOT / "notebooks" / "audit.ipynb"
TRAINING = ROOT / "notebooks" / "training.ipynb"


def execute(work, monkeypatch, path=NOTEBOOK):
    monkeypatch.setenv("DRIFT_WORK", str(work))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    return client.execute()


def texts(notebook):
    """All that the cells printed or showed as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(shown)


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("path", [NOTEBOOK, AUDIT, TRAINING])
def test_the_notebook_is_committed_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_the_notebook_runs_on_a_whole_workspace(tmp_path, monkeypatch):
    sample(tmp_path / "work")
    notebook = execute(tmp_path / "work", monkeypatch)
    text = texts(notebook)
    for view in ("conversations", "current_labels", "funnel", "metrics"):
        assert view in text
    assert "not the strongest" in text
    assert text.count("complaint: No, that is wrong. Say it again.") == 5
    assert f"│ {RUN}" in text
    assert "0.875" in text
    assert len(pictures(notebook)) == 7
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures(notebook))


def test_the_notebook_runs_before_any_training(tmp_path, monkeypatch):
    sample(tmp_path / "work", run=False)
    text = texts(execute(tmp_path / "work", monkeypatch))
    assert "No model is trained yet: `make iter N=1`." in text
    assert "No model is measured yet: `make eval`." in text


def test_the_notebook_says_what_to_run_when_nothing_is_there(tmp_path, monkeypatch):
    with pytest.raises(CellExecutionError, match="Run `make demo` first"):
        execute(tmp_path / "nothing", monkeypatch)


def test_the_audit_shows_two_judges_and_a_person(tmp_path, monkeypatch):
    workspace = to_review(tmp_path, {("a", 4): "<b>not\x1b this</b>"})

    def review(build):
        rows = [turn("a", 2, label="DSAT"), turn("b", 2, label="NEUTRAL")]
        build["labels/human-ann"].table(LABEL_ROWS).write_rows(rows)

    workspace.run("review", ["labels/human-ann"], review, options={}, inputs=["conversations"])
    os.utime(workspace.path("labels/test") / "manifest.json", (2e9, 2e9))  # the last made
    notebook = execute(workspace.root, monkeypatch, AUDIT)
    text = texts(notebook)
    assert "judge: labels/test; second judge: labels/other; people: 1" in text
    assert "threshold of DSAT: 5.0" in text
    assert "labels/test and labels/other: 5 turns in common, κ 0.412" in text  # (0.6 - 0.32) / (1 - 0.32)
    assert "labels/test and labels/human-ann: 2 turns in common, κ 0.000" in text
    assert "invalid_answer" in text
    html = str(
        [o["data"].get("text/html") for c in notebook.cells for o in c.get("outputs", ()) if "data" in o]
    )
    assert "&lt;b&gt;not" in html
    assert "<b>not" not in html
    assert "\x1b" not in text


def test_the_audit_says_that_there_is_one_judge(tmp_path, monkeypatch):
    workspace = sample(tmp_path / "work", run=False)
    (workspace.path("labels/simulated") / "manifest.json").unlink()
    text = texts(execute(workspace.root, monkeypatch, AUDIT))
    assert "There is only one judge" in text
    assert "Nobody has reviewed yet" in text


def test_the_training_notebook_reads_a_run(tmp_path, monkeypatch):
    attack = "<b>No\x1b, that is wrong."
    workspace = sample(tmp_path / "work", words=dict.fromkeys(("DSAT", "SAT", "NEUTRAL"), attack))
    notebook = execute(workspace.root, monkeypatch, TRAINING)
    text = texts(notebook)
    assert f"run: {RUN}; models: M0, M1; other runs: none" in text
    assert "▲ M0: KL to the base model, a token: 0.25 (alarm > 0.1)" in text
    assert "2 alarms in 12 checks" in text
    assert "leaks guidance" in text
    assert text.count("Name two cities.") == 4
    assert "0.875" in text  # M1's score
    assert "0.25" in text  # KL from the table: 0.5 nats over 2 tokens
    assert "\x1b" not in text
    assert len(pictures(notebook)) == 3


def test_the_training_notebook_takes_the_run_it_is_given_and_needs_no_evaluation(tmp_path, monkeypatch):
    workspace = sample(tmp_path / "work")
    build_run(workspace, run="second-run", rows=metrics(1, steps=1))
    for model in ("base", "iter0", "iter1"):
        for run in (RUN, "second-run"):
            (workspace.path(f"runs/{run}/{model}/eval") / MANIFEST).unlink()
    monkeypatch.setenv("DRIFT_RUN", RUN)
    text = texts(execute(workspace.root, monkeypatch, TRAINING))
    assert f"run: {RUN}; models: M0, M1; other runs: second-run" in text
    assert "M0 guided" in text
    assert "No model is measured yet: `make eval`." in text


def test_the_training_notebook_says_what_to_run_when_nothing_is_trained(tmp_path, monkeypatch):
    sample(tmp_path / "work", run=False)
    with pytest.raises(CellExecutionError, match="holds no trained model yet"):
        execute(tmp_path / "work", monkeypatch, TRAINING)
