"""`drift distill` on simulated users: their true labels, or a language model's answers, → a local judge that agrees."""

import hashlib
import json
from pathlib import Path

import pytest

from drift_data.distill.summary import DistillReport
from pipelines.recipe import load_recipe
from tests.helpers.answered_files import write_answers
from tests.helpers.label_runs import Drift

pytestmark = pytest.mark.slow

SMALL = ["simulate.conversations=500", "distill.train.trees=10", "distill.written=false"]
MODEL = ["label.model=test", "label.prices={test: {input: 1, output: 10}}"]
# Alarms, not measurements.
LEAST_AGREEMENT, LEAST_F1 = 0.9, 0.9


@pytest.fixture
def drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Drift:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = Drift(tmp_path / "work", monkeypatch, capsys)
    for stage in ("simulate", "convert"):
        assert call(run, stage)[0] == 0
    return run


def call(drift: Drift, stage: str, *arguments: object) -> tuple[int, str]:
    options = [part for option in SMALL for part in ("--set", option)]
    return drift(stage, *arguments, *options)


def agreement(
    drift: Drift, table: str, truth: dict[tuple[str, int], str], keys: set[tuple[str, int]]
) -> float:
    """Return the share of turns of which two tables say the same about DSAT."""
    found = drift.labels(table)
    assert found.keys() == truth.keys()
    return sum((found[key] == "DSAT") == (truth[key] == "DSAT") for key in keys) / len(keys)


def result(drift: Drift, name: str) -> DistillReport:
    path = drift.workspace.path(f"distilled/{name}") / "distill.json"
    return DistillReport.model_validate_json(path.read_bytes())


def test_true_labels_become_a_local_judge_that_labels_like_them(drift: Drift) -> None:
    code, said = call(drift, "distill", "--labels", "simulated", "--name", "sim")
    assert code == 0, said
    assert "--classifier sim" in said and "DSAT: precision" in said
    truth = drift.labels("simulated")
    assert call(drift, "label", "--judge", "local")[0] == 0
    shipped = drift.workspace.require("labels/local").digest
    code, said = call(drift, "label", "--judge", "local", "--classifier", "sim")
    assert code == 0, said
    assert drift.workspace.require("labels/local").digest == shipped
    assert agreement(drift, "local-sim", truth, {*truth}) > LEAST_AGREEMENT
    figures = result(drift, "sim").views[0].figures
    assert figures["f1_DSAT"].value is not None and figures["f1_DSAT"].value > LEAST_F1
    assert drift.workspace.read("labels/local-sim").to_pylist()[0]["judge"].startswith("local:sim")
    for arguments in (
        ("distill", "--labels", "simulated", "--name", "sim"),
        ("label", "--classifier", "sim"),
    ):
        code, said = call(drift, *arguments)
        assert code == 0 and "up to date" in said
    code, said = call(drift, "distill", "--labels", "local-sim")
    assert code == 1 and "made by the local judge itself" in said
    code, said = call(drift, "distill", "--labels", "simulated", "--name", "../out")
    assert code == 1 and "--name" in said


def test_answers_of_a_language_model_to_request_files_teach_a_local_judge_for_the_rest(
    drift: Drift, tmp_path: Path
) -> None:
    asked = ("--judge", "batch", "--offline", *(part for option in MODEL for part in ("--set", option)))
    code, said = call(drift, "label", *asked)
    assert code == 0 and "--results" in said
    requested = [
        json.loads(line)["custom_id"]
        for path in drift.work.glob("batch/**/requests-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    rows = drift.workspace.read("labels/simulated").to_pylist()
    truth = {
        (row["conversation_id"], row["turn"]): (
            row["label"],
            next((item["name"] for item in row["items"] if item["polarity"] == row["label"]), None),
        )
        for row in rows
    }
    answered = {name for name, _ in truth if hashlib.sha256(name.encode()).digest()[0] % 4}
    mistakes = {key for key in truth if hashlib.sha256(repr(key).encode()).digest()[0] < 13}  # one in twenty
    answers = write_answers(
        tmp_path / "answers.jsonl",
        drift.workspace,
        load_recipe("demo", [*SMALL, *MODEL, "label.judge=batch"]),
        truth,
        answered,
        lambda conversation, turn: (conversation, turn) in mistakes,
    )
    replied = {json.loads(line)["custom_id"] for line in answers.read_text().splitlines()}
    assert replied < set(requested) and len(replied) > len(requested) / 2
    code, said = call(drift, "label", *asked, "--results", answers, "--final")
    assert code == 0, said
    batch = drift.labels("batch")
    assert {name for name, _ in batch} == answered
    code, said = call(drift, "distill", "--labels", "batch", "--gold", "simulated")
    assert code == 0, said
    found = result(drift, "batch")
    # The price: as many requests as were answered, scaled to all conversations by the share of turns answered.
    assert found.money is not None and found.money.requests == len(replied)
    assert found.money.all_requests == pytest.approx(len(requested), rel=0.1)
    assert found.money.saved_price is not None and found.money.saved_price > 0
    # The last band is the teacher alone, with its mistakes; the student has not learned all of them.
    last = found.cascade[-1]
    assert last.gold is not None and last.gold.figures["recall_DSAT"].value == pytest.approx(0.95, abs=0.04)
    code, said = call(drift, "label", "--judge", "local", "--classifier", "batch")
    assert code == 0, said
    labels = {key: label for key, (label, _) in truth.items()}
    assert (
        agreement(drift, "local-batch", labels, {key for key in truth if key[0] not in answered})
        > LEAST_AGREEMENT
    )
