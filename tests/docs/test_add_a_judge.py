"""The judge that the page "Add a judge" shows labels a workspace."""

import re
from pathlib import Path
from typing import Any

from drift_data.judge.options import Thresholds
from drift_data.judge.stage import label
from tests.helpers.paths import ROOT
from tests.helpers.scripted_judge import make_workspace

PAGE = ROOT / "docs" / "develop" / "add-a-judge.md"


def test_the_judge_of_the_page_labels_every_feedback_turn(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec"), names)
    workspace = make_workspace(tmp_path)
    assert label(workspace, names["WordJudge"](), Thresholds(), "word")
    found = workspace.read("labels/word").to_pylist()
    labels = {(row["conversation_id"], row["turn"]): row["label"] for row in found}
    assert labels == {("a", 2): "DSAT", ("a", 4): "NEUTRAL", ("c", 1): "NEUTRAL", ("c", 4): "NEUTRAL"}
    assert {(row["judge"], row["rubric"]) for row in found} == {("word:not-right", "word")}
    assert not workspace.require("labels/word").dropped
