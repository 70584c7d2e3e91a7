"""The label stage with real judges, and with judges that break their contract."""

import duckdb
import pyarrow as pa
import pytest

from drift_data.chats.turns import find_feedback_turns
from drift_data.judge.base import Judge
from drift_data.judge.dataset import DatasetJudge, find_labelled_source
from drift_data.judge.local import LocalJudge
from drift_data.judge.options import Thresholds
from drift_data.judge.stage import label
from drift_data.labels.tables import find_latest_labels
from drift_data.query.warehouse import find_current_labels
from drift_data.schema import CONVERSATIONS, DROPPED
from drift_data.workspace import AccountingError, UserError, Workspace
from pipelines.experiments.controls import shuffle_labels
from tests.helpers.scripted_judge import CHATS, ScriptedJudge, make_workspace, row

KEYS = [("a", 2), ("a", 4), ("c", 1), ("c", 4)]


def labels_of(workspace, name):
    return {(r["conversation_id"], r["turn"]): r["label"] for r in workspace.read(name).to_pylist()}


def test_the_local_judge_labels_every_feedback_turn_once(tmp_path):
    workspace = make_workspace(tmp_path)
    judge = LocalJudge()
    assert label(workspace, judge, Thresholds())
    assert labels_of(workspace, "labels/local") == dict(
        zip(KEYS, ["DSAT", "SAT", "NEUTRAL", "NEUTRAL"], strict=True)
    )
    manifest = workspace.require("labels/local")
    assert (manifest.rows_in, manifest.rows_out) == (4, 4)
    assert manifest.made_by == {"judge": judge.name, "rubric": judge.rubric.hash, **judge.report()}
    assert manifest.made_by["items"] and manifest.made_by["model"] == judge.options["model"]
    assert manifest.results == {"SAT": 1, "DSAT": 1, "NEUTRAL": 2}
    assert not label(workspace, LocalJudge(), Thresholds())


def test_turns_a_judge_could_not_label_are_dropped_with_the_reason_and_nothing_is_lost(tmp_path):
    workspace = make_workspace(tmp_path)
    label(workspace, ScriptedJudge({("a", 2): (0, 9)}, drop=[("a", 4), ("c", 1)]), Thresholds(), name="mine")
    assert labels_of(workspace, "labels/mine") == {("a", 2): "DSAT", ("c", 4): "NEUTRAL"}
    manifest = workspace.require("labels/mine")
    assert manifest.dropped == {"no_answer": 2} and manifest.made_by["requests"] == 4
    # counted from outside
    accounted = duckdb.sql(
        f"SELECT conversation_id, turn FROM '{tmp_path}/labels/mine/*.parquet' "
        f"UNION ALL SELECT conversation_id, turn FROM '{tmp_path}/dropped/labels/mine/*.parquet' ORDER BY ALL"
    ).fetchall()
    chats = workspace.read("conversations").to_pylist()
    assert accounted == [(c["conversation_id"], t) for c in chats for t in find_feedback_turns(c["messages"])]


@pytest.mark.parametrize(
    "twist",
    [
        lambda rows: rows[1:],  # a lost row
        lambda rows: [rows[0], *rows],  # a doubled row
        lambda rows: rows[::-1],  # another order
        lambda rows: [*rows[:-1], row("c", 3)],  # not a feedback turn
        lambda rows: [*rows[:-1], row("z", 1)],  # another conversation
    ],
    ids=["lost", "doubled", "disordered", "wrong turn", "unknown"],
)
def test_a_judge_that_does_not_answer_each_turn_once_stops_the_stage_and_leaves_nothing(tmp_path, twist):
    workspace = make_workspace(tmp_path)
    with pytest.raises(AccountingError, match="scripted:1"):
        label(workspace, ScriptedJudge({}, twist=twist), Thresholds())
    assert not workspace.path("labels/scripted").exists()


def test_a_turn_both_labelled_and_left_out_stops_the_stage(tmp_path):
    workspace = make_workspace(tmp_path)
    judge = ScriptedJudge({}, drop=[("a", 2)], twist=lambda rows: [row("a", 2), *rows])
    with pytest.raises(AccountingError):
        label(workspace, judge, Thresholds())


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_a_judge_may_read_batches_ahead(tmp_path, ahead):
    chats = {f"{i:04d}": CHATS["a"] for i in range(2_500)}
    workspace = make_workspace(tmp_path, chats)
    label(workspace, ScriptedJudge({}, ahead=ahead), Thresholds())
    ids = workspace.read("labels/scripted", ["conversation_id"])["conversation_id"].to_pylist()
    assert ids == [i for i in chats for _ in range(2)]


def test_other_thresholds_relabel_from_the_kept_scores_without_asking_the_judge(tmp_path):
    scores = {("a", 2): (0, 4), ("a", 4): (6, 0), ("c", 4): (0, 8)}
    workspace = make_workspace(tmp_path / "one")
    judge = ScriptedJudge(scores, drop=[("c", 1)])
    label(workspace, judge, Thresholds(sat=5, dsat=5))
    assert labels_of(workspace, "labels/scripted")[("a", 2)] == "NEUTRAL"
    asked = judge.asked
    assert label(workspace, judge, Thresholds(sat=7, dsat=4))
    assert judge.asked == asked
    relabelled = workspace.require("labels/scripted")
    assert relabelled.results == {"SAT": 0, "DSAT": 2, "NEUTRAL": 1} and relabelled.dropped == {
        "no_answer": 1
    }
    fresh = make_workspace(tmp_path / "two")
    label(fresh, judge, Thresholds(sat=7, dsat=4))
    assert fresh.require("labels/scripted").digest == relabelled.digest


def test_another_prompt_or_other_conversations_ask_the_judge_again(tmp_path):
    workspace = make_workspace(tmp_path)
    judge = ScriptedJudge({})
    label(workspace, judge, Thresholds())
    judge.options = {"prompt": 2}
    label(workspace, judge, Thresholds())
    assert judge.asked == 8
    make_workspace(tmp_path, {"a": CHATS["a"]})
    label(workspace, judge, Thresholds(dsat=4))
    assert judge.asked == 10 and workspace.require("labels/scripted").rows_out == 2


def test_labels_that_the_data_carries_pass_through_untouched(tmp_path):
    item = {"name": "their own item", "polarity": "DSAT", "strength": 1}
    carried = [
        row(
            "c",
            4,
            label="DSAT",
            dsat_score=1.0,
            items=[item],
            reason="as they said",
            judge="wild:gpt",
            rubric="w",
        ),
        row("c", 1, label="NEUTRAL", judge="wild:gpt", rubric="w"),
        row("a", 2, label="SAT", dsat_score=99.0, evidence="e", refusal=True, judge="wild:gpt", rubric="w"),
    ]
    workspace = make_workspace(tmp_path, labels=carried)
    assert find_labelled_source(workspace) == "carried"
    judge: Judge = DatasetJudge(workspace)
    assert judge.name == "dataset:carried"
    label(workspace, judge, Thresholds())
    assert workspace.read("labels/dataset").to_pylist() == carried[::-1]  # in the order of the conversations
    manifest = workspace.require("labels/dataset")
    assert manifest.dropped == {"no_label_in_the_data": 1} and manifest.made_by["rubric"] is None
    assert not label(workspace, judge, Thresholds(dsat=1))


def test_the_dataset_judge_says_so_when_the_data_carries_no_labels_or_strange_ones(tmp_path):
    workspace = make_workspace(tmp_path / "none")
    with pytest.raises(UserError, match="carries no labels"):
        find_labelled_source(workspace)
    workspace = make_workspace(tmp_path / "strange", labels=[row("a", 2, label="sat?")])
    with pytest.raises(UserError, match=r"sat\?"):
        label(workspace, DatasetJudge(workspace, "carried"), Thresholds())
    with pytest.raises(UserError, match="choose another name"):
        label(workspace, DatasetJudge(workspace, "carried"), Thresholds(), name="carried")


def test_the_latest_labels_are_those_the_label_stage_made_last(tmp_path):
    workspace = make_workspace(tmp_path, labels=[row(*key, label="NEUTRAL") for key in KEYS])
    assert find_latest_labels(workspace) == "labels/carried"
    label(workspace, ScriptedJudge({}), Thresholds(), name="zz")
    assert find_latest_labels(workspace) == "labels/zz"
    label(workspace, LocalJudge(), Thresholds())
    assert find_latest_labels(workspace) == "labels/local"
    shuffle_labels(workspace, "labels/local", seed=1)
    assert find_latest_labels(workspace) == "labels/local"
    with pytest.raises(UserError, match="make label"):
        find_latest_labels(Workspace(tmp_path / "empty"))


def test_labels_that_came_with_earlier_conversations_do_not_count(tmp_path):
    workspace = make_workspace(tmp_path, labels=[row(*key, label="NEUTRAL") for key in KEYS])
    assert (find_latest_labels(workspace), find_labelled_source(workspace)) == ("labels/carried", "carried")

    def others(outputs):
        outputs["conversations"].table(CONVERSATIONS)

    workspace.run("convert", ["conversations"], others, options={"source": "another"})
    with pytest.raises(UserError, match="make label"):
        find_latest_labels(workspace)
    with pytest.raises(UserError, match="carries no labels"):
        find_labelled_source(workspace)
    assert find_current_labels(workspace) is None


def test_shuffled_labels_are_the_same_labels_on_other_turns(tmp_path):
    chats = {f"{i:03d}": CHATS["a"] for i in range(100)}
    scores = {(i, 2): (0, 9) for i in chats}
    workspace = make_workspace(tmp_path, chats)
    label(workspace, ScriptedJudge(scores, drop=[("000", 4)]), Thresholds())
    assert shuffle_labels(workspace, "labels/scripted", seed=1)
    before, after = labels_of(workspace, "labels/scripted"), labels_of(workspace, "labels/shuffled")
    assert before.keys() == after.keys()
    assert sorted(before.values()) == sorted(after.values())
    moved = sum(before[key] != after[key] for key in before)
    assert 70 < moved < 130  # half of 199 by chance
    rows = workspace.read("labels/shuffled").to_pylist()
    assert all((r["label"] == "DSAT") == (r["dsat_score"] == 9) for r in rows)
    assert workspace.require("labels/shuffled").dropped == {"no_answer": 1}
    assert pa.parquet.read_table(workspace.dropped_path("labels/shuffled")).schema.names == DROPPED.names
    assert not shuffle_labels(workspace, "labels/scripted", seed=1)
    assert shuffle_labels(workspace, "labels/scripted", seed=2)
    assert labels_of(workspace, "labels/shuffled") != after
