"""Turns that a classifier has learned from do not pass for a measurement of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from drift_data.calibrate.options import CalibrateOptions
from drift_data.calibrate.stage import calibrate_labels, report_agreement
from drift_data.calibrate.summary import Quality
from drift_data.judge.local.model import fingerprint_conversation, load_classifier
from drift_data.schema import PREDICTIONS
from drift_data.workspace import Workspace
from tests.helpers.quality_sample import RUBRIC, turn, write_conversations, write_gold, write_labels

NAMES = [f"c{n}" for n in range(40)]
OPTIONS = CalibrateOptions(min_label=5)


def measured(tmp_path: Path, learned: list[str] | None, llm: bool = False) -> tuple[Quality, str]:
    """Return the report on a classifier that scores what it has learned at 9, other complaints at 1, and its page."""
    workspace = Workspace(tmp_path / "work")
    write_conversations(workspace, dict.fromkeys(NAMES, 2))
    model = load_classifier()
    if learned is not None:
        slope, offset = model.calibration
        data = {**model.card.data, "learned_from": [fingerprint_conversation(name) for name in learned]}
        model = replace(
            model, calibration=(slope, offset + 1), card=model.card.model_copy(update={"data": data})
        )

        def build(outputs) -> None:
            model.save(outputs["distilled/mine"].folder / "model.npz")
            outputs["distilled/mine"].table(PREDICTIONS).write_rows([])

        workspace.run("distill", ["distilled/mine"], build, options={})
    judge = {
        "judge": "local:mine",
        "judge_options": {"model": model.hash if learned is not None else "0" * 12},
    }
    if llm:
        judge = {"judge": "cascade:local:mine+openai:x", "judge_options": {"local": judge["judge_options"]}}
    rows = [turn(name, 2, 0, 9 if name in (learned or ()) else 1, "Style") for name in NAMES]
    write_labels(workspace, rows, made_by=judge)
    gold = write_gold(tmp_path / "gold.csv", [(name, 2, "DSAT") for name in NAMES])
    folder = workspace.path(calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS))
    page = (folder / "report.html").read_text(encoding="utf-8")
    return Quality.model_validate_json((folder / "quality.json").read_bytes()), page


@pytest.mark.parametrize("llm", [False, True])
def test_turns_learned_from_are_left_out_of_the_figures_and_of_the_choice(tmp_path: Path, llm: bool) -> None:
    found, page = measured(tmp_path, NAMES[:20], llm)
    assert "CAREFUL: 20 of these 40 turns (20 of 40 conversations)" in found.notes[0]
    assert found.notes[0][:60] in page
    everywhere = found.views[-1]
    assert (everywhere.title, everywhere.turns) == ("as labelled, all turns not learned from", 20)
    # All 40 have recall 0.5; the ones that were learned from 1, the others 0.
    assert everywhere.figures["recall_DSAT"].value == 0
    assert found.choice is not None
    assert {point.threshold for point in found.choice.curves["DSAT"]} == {1, 5}  # 5 is in use, 9 is unknown


def test_with_nothing_but_turns_learned_from_no_threshold_moves_and_the_title_says_so(tmp_path: Path) -> None:
    found, _ = measured(tmp_path, NAMES)
    assert "There are no other turns" in found.notes[0]
    assert [view.title for view in found.views] == ["as labelled, all turns, all learned from"]
    assert found.choice is not None and found.choice.chosen == found.choice.present


def test_a_classifier_that_learned_elsewhere_is_measured_on_all_turns_without_a_note(tmp_path: Path) -> None:
    found, _ = measured(tmp_path, ["elsewhere"])
    assert not any(note.startswith("CAREFUL") for note in found.notes)
    assert (found.views[-1].title, found.views[-1].turns) == ("as labelled, all turns", 40)


def test_of_a_classifier_that_is_gone_the_note_says_that_nothing_is_known(tmp_path: Path) -> None:
    found, _ = measured(tmp_path, None)
    assert "CAREFUL: it is not known from which conversations the classifier of labels/test" in found.notes[0]


def test_agreement_of_a_classifier_with_its_teacher_has_the_note_too(tmp_path: Path) -> None:
    measured(tmp_path, NAMES[:20])
    workspace = Workspace(tmp_path / "work")
    write_labels(workspace, [turn(name, 2, 0, 9, "Style") for name in NAMES], "labels/teacher")
    folder = workspace.path(report_agreement(workspace, "labels/teacher", "labels/test", OPTIONS))
    found = Quality.model_validate_json((folder / "quality.json").read_bytes())
    assert "the classifier of labels/test (local:mine) has learned" in found.notes[0]


def test_the_classifier_that_ships_knows_what_it_has_learned_from() -> None:
    data = load_classifier().card.data
    assert len(set(data["learned_from"])) == data["conversations"] == 209
