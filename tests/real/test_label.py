"""The embedded judge and mining on the real conversations of `../shared/data/wildchat`.

The figures on the held-out third (sha256 of the hash divisible by 3), which the classifier was not trained on, are
printed with `-s`; on the rest they are those of training data. The bounds are alarms, not claims.
"""

import pytest

from drift_data.calibrate.agreement import measure_agreement
from drift_data.judge.local import LocalJudge
from drift_data.judge.options import Thresholds
from drift_data.judge.stage import label
from drift_data.mine.options import MineOptions
from drift_data.mine.stage import mine
from tests.helpers.real_chats import annotated, needs_data

pytestmark = [pytest.mark.real, needs_data]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Real conversations; annotations of the held-out third and of the rest as two label tables."""
    workspace = annotated(tmp_path_factory.mktemp("real"))
    label(workspace, LocalJudge(), Thresholds())
    return workspace


def test_every_annotated_turn_is_labelled_and_nothing_else(workspace):
    manifest = workspace.require("labels/local")
    assert manifest.rows_in == manifest.rows_out == 1_063
    held, seen = (
        measure_agreement(workspace, "labels/local", name) for name in ("labels/held", "labels/seen")
    )
    assert (held.turns, held.only_truth) == (396, 0) and (seen.turns, seen.only_truth) == (667, 0)


@pytest.mark.parametrize(("part", "precision"), [("labels/held", 0.5), ("labels/seen", 0.7)])
def test_the_judge_is_worth_more_than_chance(workspace, part, precision):
    found = measure_agreement(workspace, "labels/local", part)
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
