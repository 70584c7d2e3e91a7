import hashlib
import json
from pathlib import Path

import pytest
import yaml

from drift_data.calibrate.options import CalibrateOptions
from drift_data.calibrate.stage import calibrate_labels, report_agreement
from drift_data.calibrate.summary import Quality
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import Rubric
from drift_data.workspace import UserError, Workspace
from pipelines.stages import calibrate as stage
from tests.helpers.html_page import ATTACK, Page, assert_inert
from tests.helpers.quality_sample import PRESENT, RUBRIC, turn, write_conversations, write_gold, write_labels

OPTIONS = CalibrateOptions(min_label=5)
SETTINGS = [
    "calibrate.min_label=5",
    "offline=false",
]  # an offline recipe would switch off the Hub for later tests


def part(name):
    return ("choosing", "reporting")[hashlib.sha256(name.encode()).digest()[-1] % 2]


NAMES = [f"c{n}" for n in range(40)]
CHOOSING = [name for name in NAMES if part(name) == "choosing"]
REPORTING = [name for name in NAMES if part(name) == "reporting"]


def result(workspace, folder):
    return Quality.model_validate_json((workspace.path(folder) / "quality.json").read_bytes())


def page(workspace, folder):
    html = (workspace.path(folder) / "report.html").read_text(encoding="utf-8")
    found = Page(html)
    assert_inert(found, html)
    return found


@pytest.fixture
def workspace(tmp_path):
    """Complaints score 3 in the choosing part and 7 in the reporting part; neutral turns 0 and 5."""
    workspace = Workspace(tmp_path / "work")
    write_conversations(workspace, dict.fromkeys(NAMES, 4))
    rows = []
    for name in NAMES:
        complaint, calm = (3, 0) if name in CHOOSING else (7, 5)
        rows.append(turn(name, 2, 0, complaint, "Revision", refusal=name == "c0", evidence=f"<{name}>"))
        rows.append(turn(name, 4, 0, calm, *(["Style"] if calm else []), refusal=False))
    write_labels(workspace, rows)
    return workspace


@pytest.fixture
def gold(tmp_path):
    rows = [
        (name, at, label, item, strength, refusal)
        for name in NAMES
        for at, label, item, strength, refusal in (
            (2, "DSAT", "Revision", 1 + (name in REPORTING), name in ("c0", "c1")),
            (4, "NEUTRAL", "None", 0, False),
        )
    ]
    return write_gold(tmp_path / "gold.csv", rows, "conversation_id,turn,label,item,strength,refusal")


def test_thresholds_are_chosen_on_one_part_and_reported_on_the_other(workspace, gold):
    folder = calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS)
    assert folder == "quality/test"
    quality = result(workspace, folder)
    # The reporting part alone would choose 7. The choosing part needs 3, which lets the calm turns of the other in.
    assert quality.choice.chosen == Thresholds(sat=5, dsat=3)
    new, old, nothing, everywhere = quality.views
    assert [view.title for view in quality.views] == [
        "chosen thresholds, reporting part",
        "as labelled, reporting part",
        "all NEUTRAL, reporting part",
        "as labelled, all turns",
    ]
    count = len(REPORTING)
    assert new.turns == 2 * count and new.conversations == count
    assert new.confusion["DSAT"] == {"SAT": 0, "DSAT": count, "NEUTRAL": 0}
    assert new.confusion["NEUTRAL"] == {"SAT": 0, "DSAT": count, "NEUTRAL": 0}
    assert (new.figures["precision_DSAT"].value, new.figures["recall_DSAT"].value) == (0.5, 1)
    assert old.confusion == new.confusion and quality.gain["f1_DSAT"].value == 0
    assert nothing.figures["recall_DSAT"].value == 0 and nothing.figures["accuracy"].value == 0.5
    assert everywhere.turns == 80 and everywhere.figures["recall_DSAT"].value == count / 40
    assert everywhere.figures["recall_DSAT"].low < count / 40 < everywhere.figures["recall_DSAT"].high


def test_items_strengths_and_refusals_are_counted(workspace, gold):
    quality = result(workspace, calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS))
    found = {item.name: item for item in quality.items}
    count = len(REPORTING)
    revision, style = found["Revision"], found["Style"]
    assert (revision.turns, revision.share, revision.strength) == (40, 0.5, 5)
    assert (revision.labelled, revision.right, revision.other, revision.found) == (count, count, 40, count)
    assert (style.turns, style.labelled, style.right, style.other) == (count, count, 0, 0)
    assert [s.model_dump() for s in quality.strengths] == [
        {"strength": 1, "turns": 40 - count, "found": 0},
        {"strength": 2, "turns": count, "found": count},
    ]
    assert quality.refusal.model_dump(exclude={"kappa"}) == {
        "both": 1,
        "only_labels": 0,
        "only_other": 1,
        "neither": 78,
    }
    # observed 79/80, chance (1·2 + 79·78) / 6400
    assert quality.refusal.kappa == pytest.approx((79 / 80 - 6164 / 6400) / (1 - 6164 / 6400))


def test_the_thresholds_are_written_as_a_piece_of_a_recipe(workspace, gold):
    folder = workspace.path(calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS))
    text = (folder / "thresholds.yaml").read_text()
    assert yaml.safe_load(text) == {"label": {"thresholds": {"sat": 5.0, "dsat": 3.0}}}
    assert text.startswith("# Thresholds for labels/test, chosen by `make calibrate`")
    assert json.loads((folder / "manifest.json").read_text())["results"]["precision_DSAT"]["value"] == 0.5


def test_the_same_again_is_up_to_date_and_other_gold_is_not(workspace, gold, capsys):
    folder = calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS)
    before = workspace.require(folder)
    assert list(before.files) == ["gold.csv"] and set(before.inputs) == {"conversations", "labels/test"}
    capsys.readouterr()
    calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS)
    assert "calibrate: up to date (quality/test)" in capsys.readouterr().err
    with Path(gold).open("a") as file:
        file.write("c0,6,SAT,None,0,false\n")
    calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS)
    assert "up to date" not in capsys.readouterr().err
    assert result(workspace, folder).match.only_gold == {"no feedback turn of the labels": 1}
    assert workspace.require(folder).files != before.files


def test_labels_without_scores_get_a_report_and_no_thresholds(workspace, gold):
    rows = [turn(name, 2, label="DSAT") for name in NAMES]
    write_labels(workspace, rows, "labels/dataset", thresholds=None)
    folder = calibrate_labels(workspace, "labels/dataset", gold, RUBRIC, OPTIONS)
    quality = result(workspace, folder)
    assert quality.choice is None and quality.notes == [
        "The labels have no scores: there are no thresholds to choose."
    ]
    assert [view.title for view in quality.views] == ["as labelled, all turns", "all NEUTRAL, all turns"]
    assert quality.views[0].figures["accuracy"].value == 1
    assert not (workspace.path(folder) / "thresholds.yaml").exists()
    assert "#thresholds" not in [a.get("href") for _, a in page(workspace, folder).elements]


def test_labels_made_with_another_rubric_are_not_calibrated_by_this_one(workspace, gold):
    other = Rubric(name="other", items=RUBRIC.items[:3])
    with pytest.raises(
        UserError, match=rf"rubric {RUBRIC.hash}, but the rubric in use is other \({other.hash}\)"
    ):
        calibrate_labels(workspace, "labels/test", gold, other, OPTIONS)


def test_labels_are_not_measured_against_themselves(workspace):
    with pytest.raises(UserError, match="GOLD=test is the table that is measured"):
        calibrate_labels(workspace, "labels/test", "test", RUBRIC, OPTIONS)
    with pytest.raises(UserError, match="AGAINST=labels/test and LABELS= name the same table"):
        report_agreement(workspace, "labels/test", "labels/test", OPTIONS)


def test_two_judges_are_compared_without_calling_either_right(workspace):
    rows = [turn(name, 2, 0, 9 if n < 30 else 0, "Revision") for n, name in enumerate(NAMES)]
    write_labels(workspace, rows, "labels/other")
    folder = report_agreement(workspace, "labels/other", "labels/test", OPTIONS)
    assert folder == "quality/other-against-test"
    quality = result(workspace, folder)
    assert not quality.other_is_gold and quality.choice is None
    assert quality.match.only_gold == {"no feedback turn of the labels": 40}
    shown = page(workspace, folder)
    words = " ".join(shown.texts).lower()
    assert not any(word in words for word in ("precision", "recall", "gold", " true"))
    assert shown.row("κ, DSAT or not")[1] != "–" and shown.row("DSAT: these / other labels")[1].startswith(
        "30 / "
    )


def test_every_cell_leads_to_its_turns_and_the_turns_are_there(workspace, gold):
    shown = page(
        workspace, calibrate_labels(workspace, "labels/test", gold, RUBRIC, CalibrateOptions(examples=3))
    )
    links = [a["href"][1:] for tag, a in shown.elements if tag == "a"]
    ids = [a["id"] for _, a in shown.elements if "id" in a]
    # Disagreements first, then the larger cell.
    misses = sorted([(len(CHOOSING), "DSAT-as-NEUTRAL"), (len(REPORTING), "NEUTRAL-as-DSAT")])[::-1]
    hits = sorted([(len(REPORTING), "DSAT-as-DSAT"), (len(CHOOSING), "NEUTRAL-as-NEUTRAL")])[::-1]
    cells = [name for _, name in misses + hits]
    assert len(CHOOSING) != len(REPORTING)
    assert [name for name in ids if "-as-" in name] == cells and set(cells) <= set(links)
    assert [name for name in ids if name.startswith("turn-")] == [f"turn-{n}" for n in range(1, 13)]
    assert {f"turn-{n}" for n in range(1, 13)} <= set(links)
    assert "text 4 of c" in shown.text and "text 1 of c" in shown.text


def test_hostile_logs_names_and_answers_stay_text(tmp_path):
    workspace = Workspace(tmp_path / "work")
    names = [f"{n}{ATTACK}".replace("\ud7ff", "") for n in range(12)]
    write_conversations(workspace, dict.fromkeys(names, 2), text=ATTACK * 40)
    more = {"reason": ATTACK, "evidence": ATTACK, "refusal": True}
    write_labels(workspace, [turn(name, 2, 0, 7, ATTACK, **more) for name in names])
    rows = [
        {
            **turn(name, 2, label="NEUTRAL", **more),
            "items": [{"name": ATTACK, "polarity": "SAT", "strength": 1}],
        }
        for name in names
    ]
    write_labels(workspace, rows, "labels/human", thresholds=None)
    options = CalibrateOptions(characters=500)
    folder = calibrate_labels(workspace, "labels/test", "human", RUBRIC, options)
    shown = page(workspace, folder)
    assert "<script>alert(1)</script>" in shown.text and r"\u202egpj.exe" in shown.text
    cut = len(f"{ATTACK * 40} 2 of {names[0]}") - 500
    assert f"({cut:,} more characters)" in shown.text
    assert (workspace.path(folder) / "report.html").stat().st_size < 200_000


def test_the_stage_prints_the_figures_and_what_was_left_out(workspace, gold, capsys):
    with Path(gold).open("a") as file:
        file.write("elsewhere,2,SAT,None,0,false\n")
    stage.calibrate(gold, labels="test", work=workspace.root, overrides=SETTINGS)
    said = capsys.readouterr().out
    assert "1 turns of gold.csv are left out: conversation not in the workspace" in said
    assert "thresholds: sat 5 → 5, dsat 5 → 3" in said
    assert (
        "SAT: 0 turns of the choosing part have this label, fewer than calibrate.min_label=5; its threshold stays 5."
        in " ".join(said.split())
    )
    assert str(workspace.path("quality/test/report.html").resolve()) in said.replace("\n", "")


def test_the_stage_wants_either_gold_or_another_judge(workspace, gold):
    for values in ((None, None), (gold, "other")):
        with pytest.raises(UserError, match=r"Give GOLD=.* or AGAINST="):
            stage.calibrate(*values, labels="test", work=workspace.root, overrides=SETTINGS)


def test_present_thresholds_that_are_the_best_are_kept_without_a_second_column(workspace, tmp_path):
    gold = write_gold(tmp_path / "g.csv", [(name, at, "NEUTRAL") for name in NAMES for at in (2, 4)])
    quality = result(workspace, calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS))
    assert quality.choice.chosen == PRESENT and quality.gain == {}
    assert quality.views[0].title == "as labelled, reporting part"


def test_the_reporting_part_has_no_say_in_the_thresholds(tmp_path):
    """Complaints score 3 in one part, 7 in the other, where calm turns score 5: alone, or with both, 7 is best."""
    workspace, turns = Workspace(tmp_path / "work"), (2, 4, 6, 8)
    write_conversations(workspace, dict.fromkeys(NAMES, 8))
    scores = {"choosing": (3, 0), "reporting": (7, 5)}
    write_labels(
        workspace, [turn(name, at, 0, scores[part(name)][at > 2], "Style") for name in NAMES for at in turns]
    )
    labels = [(name, at, "DSAT" if at == 2 else "NEUTRAL") for name in NAMES for at in turns]
    gold = write_gold(tmp_path / "gold.csv", labels)
    choice = result(workspace, calibrate_labels(workspace, "labels/test", gold, RUBRIC, OPTIONS)).choice
    assert choice.chosen.dsat == 3
    assert [(point.threshold, point.given) for point in choice.curves["DSAT"]] == [(3, len(CHOOSING)), (5, 0)]
