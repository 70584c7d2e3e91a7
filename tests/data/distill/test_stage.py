"""A label table or a file → a classifier with its report: whose labels go to which turn, what is shown and kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse

from drift_data.calibrate.options import ThresholdOptions
from drift_data.distill.examples import is_held_out, load_taught_turns
from drift_data.distill.options import Ceiling, DistillOptions
from drift_data.distill.stage import distill_labels
from drift_data.distill.summary import DistillReport
from drift_data.distill.teacher import read_teacher
from drift_data.judge.local import train
from drift_data.judge.local.model import load_classifier
from drift_data.judge.local.options import ClassifierOptions
from drift_data.schema import CONVERSATIONS
from drift_data.workspace import UserError, Workspace
from tests.helpers.html_page import ATTACK, Page, assert_inert
from tests.helpers.quality_sample import PRESENT, turn, write_gold, write_labels

pytestmark = pytest.mark.slow

NAMES = [f"c{n}" for n in range(80)]  # enough that items can be named
SAID = {2: "that is wrong, not what I asked", 4: "tell me about rivers", 6: "shorter please, cut it"}
ITEMS = {2: f"a{ATTACK}", 6: "Revision"}
FEW = ClassifierOptions(trees=3)
OPTIONS = DistillOptions(written=False, hold_out=5, train=FEW)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Complaints at 2 and 6, a question at 4; the labels are in another order than the conversations."""
    found = Workspace(tmp_path / "work")

    def build(outputs) -> None:
        texts = [SAID.get(at, "Here it is." if at % 2 else "Write a text.") for at in range(7)]
        outputs["conversations"].table(CONVERSATIONS).write_rows(
            {
                "conversation_id": name,
                "source": "test",
                "messages": [
                    {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)
                ],
            }
            for name in NAMES
        )

    found.run("convert", ["conversations"], build, options={})
    rows = [
        turn(name, at, 0, 8 if at in ITEMS else 0, *([ITEMS[at]] if at in ITEMS else []))
        for at in (6, 2, 4)
        for name in NAMES[::-1]
    ]
    write_labels(found, [*rows, turn("gone", 2, 0, 8, "Revision")])
    return found


def run(workspace: Workspace, options: DistillOptions = OPTIONS, labels: str | None = "test", **more) -> str:
    asked = {"gold": None, "name": None, **more}
    return distill_labels(
        workspace, labels, asked["gold"], asked["name"], PRESENT, ThresholdOptions(), options
    )


def test_the_teachers_labels_are_joined_by_key_and_not_by_position(workspace: Workspace) -> None:
    rows = read_teacher(workspace, "test", None).rows
    found = load_taught_turns(workspace, rows, None, load_classifier())
    assert found is not None and found.rows.height == 240 == len(found.turns)
    assert found.rows["conversation_id"].to_list() == [name for name in NAMES for _ in SAID]
    assert found.rows["turn"].to_list() == [*SAID] * len(NAMES)
    assert found.rows["gold_label"].to_list() == ["DSAT", "NEUTRAL", "DSAT"] * len(NAMES)
    assert found.rows["item"].to_list() == [ITEMS[2], None, "Revision"] * len(NAMES)
    keyed = found.turns.frame.select("conversation_id", "turn")
    assert keyed.equals(found.rows.select("conversation_id", "turn"))


def test_the_report_is_of_models_that_have_not_seen_the_turn_and_shows_hostile_names_as_text(
    workspace: Workspace,
) -> None:
    folder = workspace.path(run(workspace))
    assert folder.name == "test"
    result = DistillReport.model_validate_json((folder / "distill.json").read_bytes())
    held = [name for name in NAMES if is_held_out(name, 5)]
    assert held and result.turns == 3 * (len(NAMES) - len(held)) and result.held_out[0].turns == 3 * len(held)
    assert result.views[0].figures["f1_DSAT"].value == 1 == result.held_out[0].figures["f1_DSAT"].value
    assert [view.title for view in result.views][-3:] == [
        "shipped",
        "phrases",
        "all DSAT",
    ]
    assert result.views[-1].figures["precision_DSAT"].value == pytest.approx(2 / 3)
    assert result.money is None and result.cascade[-1].share_requests == 1
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert_inert(page, html)
    assert "<script>alert(1)</script>" in page.text and "1 turns of labels/test are left out" in page.text
    assert page.row("student alone")
    card = load_classifier(folder / "model.npz").card
    assert card.data["teacher"] == "test:1" and card.data["held_out"] == 3 * len(held)
    manifest = workspace.require("distilled/test")
    assert (manifest.rows_in, manifest.rows_out, sum(manifest.dropped.values())) == (241, 240, 1)


def test_the_learning_curve_is_measured_on_the_held_out_turns_too_and_the_ceiling_is_on_the_page(
    workspace: Workspace,
) -> None:
    ceiling = Ceiling(kappa_dsat=0.91, low=0.82, high=0.96, note=f"two passes {ATTACK}")
    more = {"learning_curve": True, "ceiling": ceiling, "about": "conversations of a test"}
    folder = workspace.path(run(workspace, OPTIONS.model_copy(update=more)))
    result = DistillReport.model_validate_json((folder / "distill.json").read_bytes())
    assert [row.share for row in result.learning] == [0.25, 0.5, 1.0]
    half, whole = result.learning[1:]
    assert half.view is not None and whole.view is not None
    assert half.view.turns < whole.view.turns == result.turns
    for row in result.learning:
        assert row.held_out is None or row.held_out.turns == result.held_out[0].turns
    assert half.held_out is not None and half.held_out.figures["f1_DSAT"].value == 1
    assert {*result.curves} == {"distilled", "shipped", "phrases"}
    assert result.curves["distilled"][0] == (
        1.0,
        1.0,
    )  # (recall, precision) of the surest turns: all complaints
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert_inert(page, html)
    assert "Ceiling: κ of DSAT against the rest 0.910 (0.820–0.960), two passes" in page.text
    data = load_classifier(folder / "model.npz").card.data
    assert (data["about"], data["hold_out"], data["written"]) == ("conversations of a test", 5, None)


def test_a_second_run_is_up_to_date_and_a_changed_option_or_label_makes_it_anew(
    workspace: Workspace,
) -> None:
    path = workspace.path(run(workspace)) / "distill.json"
    first, made = path.read_bytes(), path.stat().st_mtime_ns
    run(workspace)
    assert path.stat().st_mtime_ns == made
    run(workspace, OPTIONS.model_copy(update={"train": ClassifierOptions(trees=4)}))
    again = path.stat().st_mtime_ns
    assert again != made and json.loads(path.read_bytes())["model"] != json.loads(first)["model"]
    run(workspace)
    assert path.read_bytes() == first  # the same options give the same classifier and report
    write_labels(workspace, [turn(name, at, 0, 8 * (at > 2)) for name in NAMES for at in SAID])
    run(workspace)
    assert path.read_bytes() != first


def test_gold_beside_a_table_measures_the_cascade_and_alone_is_the_teacher(
    workspace: Workspace, tmp_path: Path
) -> None:
    rows = [(name, at, "DSAT" if at == 2 else "NEUTRAL") for name in NAMES for at in SAID]
    gold = write_gold(tmp_path / "gold.csv", rows)
    beside = workspace.path(run(workspace, gold=gold, name="beside"))
    result = DistillReport.model_validate_json((beside / "distill.json").read_bytes())
    last = result.cascade[-1]  # the teacher alone: half of its complaints are none
    assert last.gold is not None and last.gold.figures["precision_DSAT"].value == 0.5
    assert last.teacher.figures["precision_DSAT"].value == 1
    alone = workspace.path(run(workspace, labels=None, gold=gold))
    result = DistillReport.model_validate_json((alone / "distill.json").read_bytes())
    assert result.labels["DSAT"] * 2 == result.labels["NEUTRAL"] and result.gold is None
    with pytest.raises(UserError, match="and LABELS= name the same table"):
        run(workspace, gold="test")


def test_what_cannot_teach_is_said(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="Give LABELS= or GOLD="):
        run(workspace, labels=None)
    with pytest.raises(UserError, match=r"no .*labels/nobody"):
        run(workspace, labels="nobody")
    write_labels(workspace, [turn("gone", 2, 0, 8)], "labels/others")
    with pytest.raises(UserError, match="made for other conversations"):
        run(workspace, labels="others")
    write_labels(workspace, [turn(name, 2, 0, 8) for name in NAMES[:9]], "labels/few")
    with pytest.raises(UserError, match=r"Too few labels to learn from: .* DSAT turns"):
        run(workspace, labels="few")
    assert not workspace.path("distilled/few").exists()


def test_a_linear_model_that_has_not_converged_is_used_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(train._SOLVER, "max_iter", 1)
    generator = np.random.default_rng(0)
    matrix = sparse.csr_matrix(generator.normal(size=(60, 5)))
    true = generator.random(60) < 0.5
    weights, _ = train._fit_logistic(matrix, true, np.ones(60), 100.0, "a text")
    assert np.isfinite(weights).all()
    assert "The linear model of a text has not converged after 1 steps" in capsys.readouterr().err
