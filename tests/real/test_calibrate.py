"""Calibration of the embedded judge on the real, annotated conversations of `../shared/data/wildchat`.

The figures are printed with `-s`. The classifier was trained on two thirds of these annotations, and the figures
are of the other third; `test_real_held_out.py` has more of them.
"""

import pytest

from drift_data.calibrate.summary import Quality
from drift_data.calibrate.thresholds import read_thresholds
from drift_data.judge.local import LocalJudge
from drift_data.judge.options import Thresholds
from drift_data.judge.stage import label
from drift_data.workspace import Workspace
from pipelines.stages.calibrate import calibrate
from tests.helpers.converted import converted
from tests.helpers.real_chats import GOLD, LOGS, needs_data

pytestmark = [pytest.mark.real, needs_data]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = converted(tmp_path_factory.mktemp("real"), "wildchat", LOGS)
    label(workspace, LocalJudge(), Thresholds())
    return workspace


def result(workspace: Workspace, folder: str) -> Quality:
    return Quality.model_validate_json((workspace.path(folder) / "quality.json").read_bytes())


def test_every_gold_turn_is_measured_or_left_out_with_a_reason(workspace: Workspace) -> None:
    calibrate(str(GOLD), work=workspace.root, overrides=["offline=false"])
    quality = result(workspace, "quality/local")
    left_out = quality.match.only_gold
    print(quality.match)
    assert quality.match.turns + sum(left_out.values()) == 1_063
    assert quality.match.turns == workspace.require("labels/local").rows_out and not quality.match.only_labels
    assert all(reason.startswith("conversation left out by convert") for reason in left_out)
    unseen = quality.views[-1]
    assert unseen.title == "as labelled, all turns not learned from" and unseen.turns == 383
    assert unseen.true["DSAT"] == 69 and 0.2 < unseen.figures["kappa_dsat"].value < 0.45
    assert read_thresholds(workspace.path("quality/local") / "thresholds.yaml") == quality.choice.chosen
    assert quality.choice.chosen.sat == 5.0 and quality.choice.notes[0].startswith("SAT: ")
    assert "633 of these 1,016 turns (209 of 349 conversations)" in quality.notes[0]


def test_a_floor_for_precision_trades_recall(workspace: Workspace) -> None:
    calibrate(str(GOLD), work=workspace.root, overrides=["calibrate.min_precision=0.85", "offline=false"])
    choice = result(workspace, "quality/local").choice
    points = {point.threshold: point for point in choice.curves["DSAT"]}
    assert points[choice.chosen.dsat].precision >= 0.85 or any(
        "no threshold" in note for note in choice.notes
    )


def test_two_tables_of_one_judge_agree_wholly(workspace: Workspace) -> None:
    label(workspace, LocalJudge(), Thresholds(), "again")
    calibrate(labels="local", against="again", work=workspace.root, overrides=["offline=false"])
    quality = result(workspace, "quality/local-against-again")
    assert quality.views[0].figures["kappa"].model_dump() == {"value": 1.0, "low": None, "high": None}
    assert quality.choice is None and not quality.other_is_gold
