"""What a reviewer decides becomes labels/human-<name>: exactly the reviewed turns, and fit for calibrate."""

import json
from dataclasses import replace

import pytest

from drift_data.calibrate.options import CalibrateOptions
from drift_data.calibrate.stage import calibrate_labels, report_agreement
from drift_data.calibrate.summary import Quality
from drift_data.judge.local import LocalJudge
from drift_data.judge.stage import label
from drift_data.labels.reviewer import make_reviewer
from drift_data.labels.tables import find_latest_labels, resolve_labels
from drift_data.mine.options import MineOptions
from drift_data.mine.stage import mine
from drift_data.review.selection import parse_filter
from drift_data.review.session import StaleTurnError
from drift_data.workspace import UserError, Workspace
from tests.helpers.converted import dropped, rows
from tests.helpers.quality_sample import PRESENT, RUBRIC, turn, write_conversations, write_labels
from tests.helpers.review_sample import answer, build_conversations, build_labels, session, to_review

RANDOM = parse_filter("")
TABLE = "labels/human-ann"


@pytest.fixture
def workspace(tmp_path):
    return to_review(tmp_path)


@pytest.fixture
def ann(workspace):
    ann = session(workspace)
    yield ann
    ann.close()


def decide(ann, key, label, chosen=RANDOM, **more):
    return ann.decide(answer(ann, key, label, chosen, **more), chosen)


def table(workspace, name=TABLE):
    return {(row["conversation_id"], row["turn"]): row for row in rows(workspace, name)}


def test_nothing_is_written_before_the_first_decision(workspace, ann):
    assert workspace.manifest(TABLE) is None


def test_the_table_holds_exactly_the_reviewed_turns(workspace, ann):
    decide(ann, ("a", 2), "DSAT")
    decide(ann, ("c", 2), "NEUTRAL")
    decide(ann, ("a", 2), "SAT", items=frozenset({"Gratitude"}), refusal=False)
    found = table(workspace)
    assert {key: row["label"] for key, row in found.items()} == {("c", 2): "NEUTRAL", ("a", 2): "SAT"}
    row = found["a", 2]
    assert (row["sat_score"], row["dsat_score"], row["refusal"]) == (10, 0, False)
    assert row["items"] == [{"name": "Gratitude", "polarity": "SAT", "strength": 10}]
    assert (row["judge"], row["rubric"]) == ("human:ann", RUBRIC.hash)
    assert row["reason"] == "test:1 said DSAT; the judge's label was shown; order=random"
    manifest = workspace.require(TABLE)
    assert (manifest.stage, manifest.rows_out, manifest.results) == (
        "review",
        2,
        {"SAT": 1, "DSAT": 0, "NEUTRAL": 1},
    )


def test_items_that_nobody_touched_go_with_the_label_they_belonged_to(workspace, ann):
    decide(ann, ("a", 2), "DSAT")  # accepted, with the judge's items
    decide(ann, ("b", 2), "NEUTRAL")  # changed: the judge's Style is not the person's
    decide(ann, ("c", 2), "NEUTRAL", items=frozenset({"Gratitude", "Style"}))  # ticked by the person
    names = {key: [item["name"] for item in row["items"]] for key, row in table(workspace).items()}
    assert names == {("a", 2): ["Revision", "Style"], ("b", 2): [], ("c", 2): ["Gratitude", "Style"]}


def test_undo_takes_the_row_out_of_the_table_and_the_last_one_leaves_it_empty(workspace, ann):
    first, second = decide(ann, ("a", 2), "DSAT"), decide(ann, ("b", 2), "SAT")
    ann.undo(second.id)
    assert list(table(workspace)) == [("a", 2)]
    ann.undo(first.id)
    assert table(workspace) == {} and workspace.require(TABLE).rows_out == 0


def test_another_session_goes_on_where_the_first_stopped(workspace, ann):
    decide(ann, ("a", 2), "DSAT")
    ann.close()
    again = session(workspace)
    assert again.queue.key(again.queue.find_next(parse_filter("order=log"), again.codes)) == ("a", 4)
    decide(again, ("a", 4), "SAT")
    assert len(table(workspace)) == 2
    again.close()


def test_two_sessions_of_one_person_do_not_lose_each_others_decisions(workspace, ann):
    second = session(workspace)
    decide(ann, ("a", 2), "DSAT")
    decide(second, ("b", 2), "SAT")
    decide(ann, ("c", 2), "SAT")
    assert set(table(workspace)) == {("a", 2), ("b", 2), ("c", 2)}
    second.refresh()
    assert len(second.reviewed) == 3
    second.close()


def test_people_do_not_mix(workspace, ann):
    bob = session(workspace, "Bob Łukasz")
    decide(ann, ("a", 2), "DSAT")
    decide(bob, ("a", 2), "SAT")
    assert table(workspace)["a", 2]["label"] == "DSAT"
    assert table(workspace, "labels/human-bob-łukasz")["a", 2]["judge"] == "human:bob-łukasz"
    bob.close()


def test_while_another_process_holds_the_workspace_the_decision_is_kept_and_the_table_follows(workspace, ann):
    with workspace.lock():
        decide(ann, ("a", 2), "DSAT")
        assert "Another process is working" in ann.pending and workspace.manifest(TABLE) is None
    ann.close()  # writes what waits
    assert ann.pending is None and list(table(workspace)) == [("a", 2)]


def test_a_table_that_was_never_written_is_made_from_the_journal_at_the_next_start(workspace, ann):
    """As after a kill between the two."""
    with workspace.lock():
        decide(ann, ("a", 2), "DSAT")
    ann.journal.close()
    session(workspace).close()
    assert list(table(workspace)) == [("a", 2)]


def test_turns_whose_text_changed_are_set_aside_and_come_back_with_their_text(workspace, ann):
    decide(ann, ("a", 2), "DSAT")
    decide(ann, ("b", 2), "SAT")
    build_conversations(workspace, {("a", 1): "another reply"})
    build_labels(workspace)
    ann.refresh()
    assert list(table(workspace)) == [("b", 2)]
    assert [(row["conversation_id"], row["reason"], row["detail"]) for row in dropped(workspace, TABLE)] == [
        ("a", "conversation_changed", "DSAT")
    ]
    assert ann.queue.key(ann.queue.find_next(parse_filter("order=log"), ann.codes)) == (
        "a",
        2,
    )  # to be read again
    build_conversations(workspace)
    build_labels(workspace)
    ann.refresh()
    assert set(table(workspace)) == {("a", 2), ("b", 2)} and dropped(workspace, TABLE) == []


def test_what_was_read_before_a_change_is_not_saved(workspace, ann):
    read = answer(ann, ("a", 2), "DSAT", RANDOM)
    build_conversations(workspace, {("a", 2): "another message"})
    build_labels(workspace)
    ann.refresh()
    with pytest.raises(StaleTurnError, match="changed since you read it"):
        ann.decide(read, RANDOM)
    with pytest.raises(StaleTurnError, match="no such turn"):
        ann.decide(replace(read, key=("a", 6)), RANDOM)
    assert ann.reviewed == {} and workspace.manifest(TABLE) is None


def test_a_table_of_another_stage_or_without_its_journal_is_not_overwritten(workspace, ann):
    decide(ann, ("a", 2), "DSAT")
    ann.close()
    (workspace.root / "review.sqlite").rename(workspace.root / "away")
    with pytest.raises(UserError, match=r"1 reviewed turns that the journal .* does not have"):
        session(workspace)
    write_labels(workspace, [turn("a", 2)], "labels/human-bob")
    with pytest.raises(UserError, match="made by `make label`, not by a review"):
        session(workspace, "bob")
    with pytest.raises(UserError, match="cannot be what is reviewed"):
        session(workspace, "ann", against=TABLE)


@pytest.mark.parametrize(
    ("typed", "table"),
    [
        ("Ann", "labels/human-ann"),
        ("../../etc/passwd", "labels/human-etc-passwd"),
        ("a b/c:d\x00", "labels/human-a-b-c-d"),
        ("x" * 99, "labels/human-" + "x" * 40),
    ],
)
def test_a_name_is_made_one_of_a_folder(typed, table):
    assert make_reviewer(typed).table == table == resolve_labels(f"human:{typed}")


def test_a_name_without_a_letter_is_refused():
    with pytest.raises(UserError, match="no letter or digit"):
        make_reviewer(" ../.. ")


def test_a_persons_partial_labels_are_never_the_default(workspace, ann):
    assert find_latest_labels(workspace) == "labels/other"
    decide(ann, ("a", 2), "DSAT")
    assert find_latest_labels(workspace) == "labels/other"


def test_no_judge_may_take_the_table_of_a_person(workspace):
    with pytest.raises(
        UserError, match="NAME=human-ann: this beginning is reserved for the labels of `make review`"
    ):
        label(workspace, LocalJudge(), PRESENT, "human-ann")


def test_mining_a_persons_labels_takes_the_reviewed_turns_only(workspace, ann):
    decide(ann, ("b", 2), "DSAT")
    decide(ann, ("d", 2), "DSAT", items=frozenset({"Ignored"}))
    decide(ann, ("a", 2), "NEUTRAL")
    mine(workspace, TABLE, MineOptions())
    found = {
        row["conversation_id"]: (row["turn"], row["feedback"], row["items"])
        for row in rows(workspace, "dsat")
    }
    assert found == {"b": (2, "message 2 of b", ["Style"]), "d": (2, "message 2 of d", ["Ignored"])}


def test_calibrate_compares_the_reviewed_turns_only(workspace, ann):
    decide(ann, ("a", 2), "DSAT")
    decide(ann, ("b", 2), "NEUTRAL", parse_filter("order=uncertain"))
    for name in ("human:ann", "human-ann", TABLE):
        folder = calibrate_labels(workspace, "labels/test", name, RUBRIC, CalibrateOptions())
        quality = Quality.model_validate_json((workspace.path(folder) / "quality.json").read_bytes())
        assert (quality.match.turns, quality.match.only_labels, quality.match.only_gold) == (2, 4, {})
        everywhere = quality.views[-1]
        assert everywhere.true == {"SAT": 0, "DSAT": 1, "NEUTRAL": 1}
        assert everywhere.given == {"SAT": 0, "DSAT": 2, "NEUTRAL": 0}
    notes = " ".join(quality.notes)
    assert "1 of 2 turns of labels/human-ann were picked" in notes
    assert "2 of 2 turns of labels/human-ann were decided with the judge's label in sight" in notes


def test_calibrate_says_nothing_of_turns_that_were_drawn_and_decided_blind(workspace):
    ann = session(workspace, blind=True)
    decide(ann, ("a", 2), "DSAT")
    ann.close()
    folder = calibrate_labels(workspace, "labels/test", "human:ann", RUBRIC, CalibrateOptions())
    quality = json.loads((workspace.path(folder) / "quality.json").read_text())
    assert not [note for note in quality["notes"] if "labels/human-ann" in note]


def test_calibrate_after_more_reviews_is_made_anew(workspace, ann):
    decide(ann, ("a", 2), "DSAT")
    folder = calibrate_labels(workspace, "labels/test", "human:ann", RUBRIC, CalibrateOptions())
    decide(ann, ("b", 2), "NEUTRAL")
    calibrate_labels(workspace, "labels/test", "human:ann", RUBRIC, CalibrateOptions())
    quality = json.loads((workspace.path(folder) / "quality.json").read_text())
    assert quality["match"]["turns"] == 2


def test_turns_that_nobody_reviewed_are_called_so_when_a_person_is_compared(workspace, ann):
    decide(ann, ("a", 2), "DSAT")
    folder = report_agreement(workspace, TABLE, "labels/test", CalibrateOptions())
    quality = Quality.model_validate_json((workspace.path(folder) / "quality.json").read_bytes())
    assert quality.match.turns == 1 and quality.match.only_gold == {"not reviewed": 5}


def test_reviews_survive_labels_of_another_judge(tmp_path):
    """What was reviewed counts for every judge that has the turn."""
    workspace = Workspace(tmp_path / "work")
    write_conversations(workspace, {"a": 4})
    write_labels(workspace, [turn("a", 2), turn("a", 4)], thresholds=PRESENT)
    ann = session(workspace)
    decide(ann, ("a", 4), "SAT")
    write_labels(workspace, [turn("a", 2)])
    ann.refresh()
    assert ann.reloaded and len(ann.queue) == 1 and set(table(workspace)) == {("a", 4)}
    ann.close()
