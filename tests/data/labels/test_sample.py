"""Samples, caps and halves, stage by stage: what can be learned from them, and what becomes of those of earlier versions.

Earlier versions drew samples in the order of the test split. Their tables have no `sample_order` in the manifest.
"""

import hashlib
import json
from pathlib import Path

import pytest

from drift_data.calibrate.options import CalibrateOptions, ThresholdOptions
from drift_data.calibrate.stage import calibrate_labels
from drift_data.calibrate.summary import Quality
from drift_data.chats.order import SAMPLE, choose_split, rank
from drift_data.distill.examples import is_held_out
from drift_data.distill.options import DistillOptions
from drift_data.distill.stage import distill_labels
from drift_data.judge.local import LocalJudge
from drift_data.judge.local.model import fingerprint_conversation, load_classifier
from drift_data.judge.local.options import ClassifierOptions
from drift_data.judge.options import Thresholds
from drift_data.judge.stage import label
from drift_data.mine.options import MineOptions
from drift_data.mine.stage import mine
from drift_data.schema import LABEL_ROWS
from drift_data.workspace import Workspace
from tests.helpers.quality_sample import PRESENT, RUBRIC, write_gold
from tests.helpers.scripted_judge import ScriptedJudge, make_workspace

NAMES = [f"conversation-{n}" for n in range(300)]
SAID = {
    2: "that is wrong, not what I asked",
    4: "tell me about rivers",
    6: "no, you are wrong again",
    8: "and seas?",
}
CHATS = {
    name: [
        (("user", "assistant")[at % 2], SAID.get(at, f"Here it is, {name}." if at % 2 else "Write a text."))
        for at in range(9)
    ]
    for name in NAMES
}
SCORES = {(name, at): (0, 8 if at in (2, 6) else 0) for name in NAMES for at in SAID}
TEST = 0.2  # of the conversations
SPLIT = MineOptions(test_fraction=TEST, per_conversation="all")
IN_TEST = {name for name in NAMES if choose_split(name, TEST) == "test"}
EARLIER = sorted(
    NAMES, key=lambda name: hashlib.sha256(name.encode()).digest()
)  # the order of earlier samples
TABLE, DRAWN_EARLIER = "labels/openai-sample", "an earlier version of this toolkit drew"
FEW = DistillOptions(written=False, train=ClassifierOptions(trees=3))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "work", CHATS)


class FreeJudge(ScriptedJudge):
    """Says nothing of requests."""

    def report(self):
        return {}


def judge() -> FreeJudge:
    return FreeJudge(SCORES)


def sample(workspace: Workspace, size: int, thresholds: Thresholds = PRESENT, **more) -> tuple[bool, int]:
    """Label a sample; return whether it ran, and how many turns were asked for."""
    asked = judge()
    return label(workspace, asked, thresholds, "openai", sample=size, **more), asked.asked


def conversations(workspace: Workspace, table: str = TABLE) -> set[str]:
    return set(workspace.read(table, ["conversation_id"])["conversation_id"].to_pylist())


def splits(workspace: Workspace) -> list[str]:
    mine(workspace, TABLE, SPLIT)
    return workspace.read("dsat", ["split"])["split"].to_pylist()


def earlier_sample(workspace: Workspace, size: int) -> None:
    """Write the labels of a sample as version 0.1.0 did."""
    kept = set(EARLIER[:size])
    rows = [
        {
            "conversation_id": name,
            "turn": at,
            "label": "DSAT" if dsat >= 5 else "NEUTRAL",
            "sat_score": 0,
            "dsat_score": dsat,
            "items": [],
            "judge": "scripted:1",
            "rubric": RUBRIC.hash,
        }
        for (name, at), (_, dsat) in SCORES.items()
        if name in kept
    ]

    def build(outputs) -> None:
        outputs[TABLE].table(LABEL_ROWS).write_rows(rows)
        outputs[TABLE].rows_in = len(rows)

    options = {
        "judge": "scripted:1",
        "rubric": RUBRIC.hash,
        "judge_options": {"prompt": 1},
        "thresholds": PRESENT.model_dump(),
        "sample": size,
    }
    workspace.run("sample", [TABLE], build, options=options, inputs=["conversations"])


def test_a_sample_gives_seed_its_share_of_rows_to_train_on(workspace: Workspace) -> None:
    assert sample(workspace, 50) == (True, 200)
    found = splits(workspace)
    assert len(found) == 100 and 60 <= found.count("train") <= 95  # 80 by chance; none, of an earlier version
    assert conversations(workspace) == set(sorted(NAMES, key=lambda name: rank(name, SAMPLE))[:50])


def test_a_larger_sample_holds_the_smaller_one(workspace: Workspace) -> None:
    sample(workspace, 20)
    small = conversations(workspace)
    assert sample(workspace, 60)[0] and small < conversations(workspace)
    options = workspace.require(TABLE).options
    assert (options["sample"], options["sample_order"]) == (60, "sample/2")
    assert "sample_earlier" not in options


def test_a_sample_of_an_earlier_version_is_up_to_date_and_users_are_told_what_it_is(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier_sample(workspace, 50)
    before = workspace.require(TABLE)
    assert sample(workspace, 50) == (False, 0) and workspace.require(TABLE) == before
    told = capsys.readouterr().err
    assert "up to date" in told and f"{DRAWN_EARLIER} 50 of the 50 conversations of {TABLE}" in told
    assert set(splits(workspace)) == {"test"}
    assert DRAWN_EARLIER in capsys.readouterr().err
    assert sample(workspace, 50, Thresholds(sat=5, dsat=9)) == (True, 0)  # decided anew, nobody is asked
    assert (
        conversations(workspace) == set(EARLIER[:50])
        and "sample_order" not in workspace.require(TABLE).options
    )


def test_a_sample_of_an_earlier_version_grows_by_conversations_that_are_not_the_test_split(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier_sample(workspace, 50)
    assert sample(workspace, 90) == (True, 360)
    grown = conversations(workspace)
    assert len(grown) == 90 and grown > set(EARLIER[:50])
    assert len(grown - set(EARLIER[:50]) - IN_TEST) > 25
    options = workspace.require(TABLE).options
    assert (options["sample"], options["sample_order"], options["sample_earlier"]) == (90, "sample/2", 50)
    assert f"{DRAWN_EARLIER} 50 of the 90 conversations of {TABLE}" in capsys.readouterr().err
    assert sample(workspace, 90) == (False, 0)
    assert sample(workspace, 130)[0] and conversations(workspace) > grown
    assert sample(workspace, 300)[0] and conversations(workspace) == set(NAMES)
    assert splits(workspace).count("test") == 2 * len(IN_TEST)


def test_a_smaller_sample_of_an_earlier_version_is_a_part_of_it(workspace: Workspace) -> None:
    earlier_sample(workspace, 50)
    assert sample(workspace, 30)[0] and conversations(workspace) == set(EARLIER[:30])


def test_a_deleted_sample_of_an_earlier_version_is_drawn_anew(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier_sample(workspace, 50)
    (workspace.path(TABLE) / "manifest.json").unlink()
    sample(workspace, 50)
    assert splits(workspace).count("train") >= 60 and DRAWN_EARLIER not in capsys.readouterr().err


def test_an_earlier_sample_of_all_conversations_is_nothing_to_be_told(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier_sample(workspace, 300)
    assert sample(workspace, 300) == (False, 0) and DRAWN_EARLIER not in capsys.readouterr().err


def run(workspace: Workspace, options: DistillOptions = FEW, labels: str = "openai-sample") -> Path:
    return workspace.path(distill_labels(workspace, labels, None, "x", PRESENT, ThresholdOptions(), options))


def learned_in_test(folder: Path) -> tuple[int, int]:
    """Return from how many conversations of the test split, and from how many in all, a classifier has learned."""
    learned = load_classifier(folder / "model.npz").card.data["learned_from"]
    return len({*map(fingerprint_conversation, IN_TEST)} & {*learned}), len(learned)


@pytest.mark.slow
def test_a_classifier_distilled_from_a_sample_learns_from_the_test_split_by_chance_only(
    workspace: Workspace,
) -> None:
    sample(workspace, 60)
    test, learned = learned_in_test(run(workspace))
    assert learned == 60 and test <= 22  # 12 by chance


@pytest.mark.slow
def test_a_classifier_distilled_from_a_part_of_all_labels_learns_from_the_test_split_by_chance_only(
    workspace: Workspace,
) -> None:
    label(workspace, judge(), PRESENT, "openai")
    test, learned = learned_in_test(run(workspace, FEW.model_copy(update={"max_turns": 240}), "openai"))
    assert learned == 60 and test <= 22


def forget_the_orders(folder: Path) -> None:
    """Make the manifest of a classifier what an earlier version wrote."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["options"]["orders"]
    path.write_text(json.dumps(manifest))


@pytest.mark.slow
def test_a_classifier_of_an_earlier_version_is_kept_until_something_else_changes(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier_sample(workspace, 60)
    cut = FEW.model_copy(update={"max_turns": 200})
    folder = run(workspace, cut)
    notes = json.loads((folder / "distill.json").read_text())["notes"]
    assert any(DRAWN_EARLIER in note for note in notes)
    assert learned_in_test(folder) == (50, 50)  # the whole sample lies in the test split
    forget_the_orders(folder)
    made, _ = (folder / "model.npz").stat().st_mtime_ns, capsys.readouterr()
    run(workspace, cut)
    told = capsys.readouterr().err
    assert (folder / "model.npz").stat().st_mtime_ns == made
    assert (
        "distilled/x. Because the teacher has more turns than distill.max_turns, it read those of the test split first"
        in told
    )
    assert "distilled/x is kept" in told
    run(workspace, cut.model_copy(update={"seed": 1}))
    assert workspace.require("distilled/x").options["orders"] == {"max_turns": "teacher-cap/2"}


def reported(workspace: Workspace, gold: str) -> Quality:
    folder = calibrate_labels(workspace, "labels/local-x", gold, RUBRIC, CalibrateOptions(min_label=5))
    return Quality.model_validate_json((workspace.path(folder) / "quality.json").read_bytes())


@pytest.mark.slow
def test_conversations_held_out_by_an_even_number_reach_the_reporting_half_of_calibrate(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(workspace, judge(), PRESENT, "openai")
    even = FEW.model_copy(update={"hold_out": 2})
    folder = run(workspace, even, "openai")
    label(workspace, LocalJudge(load_classifier(folder / "model.npz")), PRESENT, "local-x")
    rows = [(name, at, "DSAT" if dsat else "NEUTRAL") for (name, at), (_, dsat) in SCORES.items()]
    gold = write_gold(tmp_path / "gold.csv", rows)
    quality = reported(workspace, gold)
    held = sum(is_held_out(name, 2) for name in NAMES)
    (half,) = {view.turns for view in quality.views if view.title.endswith("reporting part")}
    assert 0.35 * 4 * held < half < 0.65 * 4 * held  # none, of an earlier version

    forget_the_orders(folder)
    made, _ = (folder / "model.npz").stat().st_mtime_ns, capsys.readouterr()
    run(workspace, even, "openai")
    assert (folder / "model.npz").stat().st_mtime_ns == made
    assert "none in the part on which it reports" in capsys.readouterr().err
