"""The embedded judge and mining on the real conversations of `../shared/data/wildchat`.

The figures on the held-out third (sha256 of the hash divisible by 3), which the classifier was not trained on, are
printed with `-s`; on the rest they are those of training data. The bounds are alarms, not claims.
"""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from drift_data.agreement import agreement
from drift_data.judge.decide import Thresholds
from drift_data.judge.local import LocalJudge
from drift_data.label import label
from drift_data.mine import MineOptions, mine
from drift_data.schema import CONVERSATIONS, LABEL_ROWS
from drift_data.workspace import Workspace

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "wildchat"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not DATA.is_dir(), reason=f"{DATA} is not there: the real logs are not part of the project"
    ),
]


def held_out(conversation: str) -> bool:
    return int(hashlib.sha256(conversation.encode()).hexdigest(), 16) % 3 == 0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Real conversations; annotations of the held-out third and of the rest as two label tables."""
    workspace = Workspace(tmp_path_factory.mktemp("real"))
    with (DATA / "conversations.jsonl").open(encoding="utf-8") as file:
        chats = [json.loads(line) for line in file]
    rows = [
        {
            "conversation_id": chat["conversation_hash"],
            "source": "wildchat",
            "messages": [{"role": m["role"], "content": m["content"]} for m in chat["conversation"]],
        }
        for chat in chats
    ]
    with (DATA / "labels.csv").open(encoding="utf-8", newline="") as file:
        annotated = list(csv.DictReader(file))

    def annotation(row):
        return {
            "conversation_id": row["conversation_hash"],
            "turn": int(row["turn"]),
            "label": row["label"],
            "sat_score": 0,
            "dsat_score": 0,
            "refusal": row["refusal"] == "true",
            "judge": "human:annotators",
            "rubric": "guide",
        }

    def build(outputs):
        outputs["conversations"].table(CONVERSATIONS).write_rows(rows)
        for name, wanted in (("labels/held", True), ("labels/seen", False)):
            part = [annotation(row) for row in annotated if held_out(row["conversation_hash"]) is wanted]
            outputs[name].table(LABEL_ROWS).write_rows(part)

    workspace.run("convert", ["conversations", "labels/held", "labels/seen"], build, options={})
    label(workspace, LocalJudge(), Thresholds())
    return workspace


def test_every_annotated_turn_is_labelled_and_nothing_else(workspace):
    manifest = workspace.require("labels/local")
    assert manifest.rows_in == manifest.rows_out == 1_063
    held, seen = (agreement(workspace, "labels/local", name) for name in ("labels/held", "labels/seen"))
    assert (held.turns, held.only_truth) == (396, 0) and (seen.turns, seen.only_truth) == (667, 0)


@pytest.mark.parametrize(("part", "precision"), [("labels/held", 0.5), ("labels/seen", 0.7)])
def test_the_judge_is_worth_more_than_chance(workspace, part, precision):
    found = agreement(workspace, "labels/local", part)
    print(part, found.scores["DSAT"], "kappa of DSAT", found.kappa_dsat, found.scores["SAT"])
    base_rate = found.scores["DSAT"].true / found.turns
    assert found.scores["DSAT"].precision > max(precision, 2 * base_rate)
    assert found.kappa_dsat > 0.2


def test_mining_accounts_for_every_labelled_turn(workspace):
    mine(workspace, "labels/local", MineOptions())
    counts = workspace.require("labels/local").results
    for name in ("dsat", "sat"):
        manifest = workspace.require(name)
        assert manifest.rows_in == counts[name.upper()] == manifest.rows_out + sum(manifest.dropped.values())
    dsat = workspace.read("dsat").to_pylist()
    assert len(dsat) == len({row["conversation_id"] for row in dsat}) > 20
    assert all(
        row["prompt"][-1]["role"] == "user" and row["rejected"][0]["role"] == "assistant" for row in dsat
    )
    assert workspace.require("dsat").dropped["refusal"] > 0
