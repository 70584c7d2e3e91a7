import base64
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from sample_workspace import RUN, sample

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "explore.ipynb"


def execute(work, monkeypatch):
    monkeypatch.setenv("DRIFT_WORK", str(work))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
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


def test_the_notebook_is_committed_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
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
