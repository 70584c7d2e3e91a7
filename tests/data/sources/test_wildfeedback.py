"""WildFeedback's files, typed after the layout that is known of them (field names with their typing errors)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from drift_data.sources.wildfeedback import read_label
from drift_data.workspace import UserError, Workspace
from tests.helpers.converted import accounts, converted, dropped, reasons, rows

NONE: tuple[bool | None, bool | None] = (None, None)


def utterance(number: int, content: Any, sat: Any = False, dsat: Any = False, **more: Any) -> dict[str, Any]:
    return {
        "UtteranceId": number,
        "TurnId": number // 2,
        "Role": "User" if number % 2 == 0 else "Agent",
        "Content": content,
        "Satisfaction": sat,
        "Disatisfaction": dsat,
        "Satisfaction-Justificiation": "she says thanks" if sat else "",
        "Dissatisfaction-Justificiation": "the user is not content" if dsat else "",
        "Preceeding": "YES",
        "Domain": "writing",
    } | more


def conversation(*contents: str, flags: Sequence[tuple[Any, Any]] = ()) -> list[dict[str, Any]]:
    """Return utterances; `flags` are those of the User rows, and the Agent row after each repeats them."""
    of_user = [*flags, *[(False, False)] * len(contents)]
    return [utterance(i, content, *of_user[i // 2]) for i, content in enumerate(contents)]


def annotation(tmp_path: Path, *conversations: list[dict[str, Any]]) -> Path:
    path = tmp_path / "sat_dsat_annotation.json"
    path.write_text(json.dumps([row for rows in conversations for row in rows], indent=1))
    return path


def labels(workspace: Workspace) -> dict[tuple[str, int], str]:
    ids = {r["conversation_id"]: r["messages"][0]["content"] for r in rows(workspace)}
    found = rows(workspace, "labels/wildfeedback")
    return {(ids[row["conversation_id"]], row["turn"]): row["label"] for row in found}


def test_flags_on_a_user_row_judge_the_reply_before_it(tmp_path: Path) -> None:
    first = conversation(
        "q1", "a1", "no!", "a2", "thanks", flags=[(False, False), (False, True), (True, False)]
    )
    second = conversation("q2", "a", "next", flags=[(True, True), (False, False)])
    workspace = converted(tmp_path, "wildfeedback", annotation(tmp_path, first, second))
    assert labels(workspace) == {("q1", 2): "DSAT", ("q1", 4): "SAT", ("q2", 2): "NEUTRAL"}
    assert [[m["content"] for m in row["messages"]] for row in rows(workspace)] == [
        ["q1", "a1", "no!", "a2", "thanks"],
        ["q2", "a", "next"],
    ]
    assert accounts(workspace, 2) and accounts(workspace, 3, "labels/wildfeedback")
    assert workspace.require("conversations").results["utterances"] == 8


def test_label_rows_carry_item_reason_judge_and_scores(tmp_path: Path) -> None:
    path = annotation(tmp_path, conversation("q", "a", "no!", flags=[(False, False), (False, True)]))
    (row,) = rows(converted(tmp_path, "wildfeedback", path), "labels/wildfeedback")
    assert row["items"] == [{"name": "Dissatisfaction", "polarity": "DSAT", "strength": 10}]
    assert (row["sat_score"], row["dsat_score"]) == (0.0, 10.0)
    assert row["reason"] == "the user is not content"
    assert (row["judge"], row["rubric"]) == ("dataset:wildfeedback", "wildfeedback")


@pytest.mark.parametrize(
    ("justification", "label"),
    [
        ("The user asks to rewrite the answer.", "DSAT"),
        ("The user points out an error.", "DSAT"),
        ("Requests more details about step 2", "DSAT"),
        ("The user sounds impatient.", "NEUTRAL"),
        ("", "NEUTRAL"),
    ],
)
def test_both_flags_are_dsat_only_when_a_change_is_asked_for(justification: str, label: str) -> None:
    found = read_label(utterance(2, "x", True, True, **{"Dissatisfaction-Justificiation": justification}), 1)
    assert isinstance(found, dict)
    assert found["label"] == label
    assert [item["polarity"] for item in found["items"]] == ["SAT", "DSAT"]


def test_turn_with_missing_flags_is_left_out_of_the_labels_only(tmp_path: Path) -> None:
    talk = conversation("q", "a", "b", "c", "d", "e", "f")
    talk[2] |= {"Satisfaction": None, "Disatisfaction": None}
    talk[4] |= {"Satisfaction": "yes"}
    del talk[6]["Satisfaction"]
    workspace = converted(tmp_path, "wildfeedback", annotation(tmp_path, talk, conversation("q2", "a", "b")))
    assert labels(workspace) == {("q2", 2): "NEUTRAL"}
    assert [(row["turn"], row["reason"]) for row in dropped(workspace, "labels/wildfeedback")] == [
        (2, "no_flags"),
        (4, "flag_not_boolean"),
        (6, "no_flags"),
    ]
    assert accounts(workspace, 2) and accounts(workspace, 4, "labels/wildfeedback")


def test_one_true_flag_is_a_label_when_the_other_is_missing() -> None:
    found = read_label(utterance(2, "x", None, True), 1)
    assert isinstance(found, dict) and found["label"] == "DSAT"


def test_labels_follow_their_conversation_past_dropped_ones_and_repeats(tmp_path: Path) -> None:
    talks = [
        conversation("q1", "a", "b", flags=[(False, False), (True, False)]),
        conversation("broken", "a", "b", flags=[(False, False), (True, False)]),
        conversation("q1", "a", "b", flags=[(False, False), (True, False)]),
        conversation("q3", "a", "b", flags=[(False, False), (False, True)]),
    ]
    talks[1][1]["Content"] = None
    workspace = converted(tmp_path, "wildfeedback", annotation(tmp_path, *talks))
    assert labels(workspace) == {("q1", 2): "SAT", ("q3", 2): "DSAT"}
    assert reasons(workspace) == {
        "sat_dsat_annotation.json:3": "null_content",
        "sat_dsat_annotation.json:6": "duplicate",
    }
    both = converted(
        tmp_path / "all", "wildfeedback", tmp_path / "sat_dsat_annotation.json", deduplicate="off"
    )
    ids = [row["conversation_id"] for row in rows(both)]
    assert ids[1] == f"{ids[0]}-2"
    assert [row["conversation_id"] for row in rows(both, "labels/wildfeedback")] == ids


def test_ids_are_the_same_wherever_a_conversation_stands(tmp_path: Path) -> None:
    one, two = conversation("q1", "a"), conversation("q2", "a")
    first = rows(converted(tmp_path / "1", "wildfeedback", annotation(tmp_path, one, two)))
    second = rows(converted(tmp_path / "2", "wildfeedback", annotation(tmp_path, two, one)))
    assert [r["conversation_id"] for r in first] == [r["conversation_id"] for r in reversed(second)]
    assert first[0]["conversation_id"].startswith("wildfeedback-")


def test_conversation_whose_utterances_are_broken_is_set_aside_whole(tmp_path: Path) -> None:
    no_number = conversation("q1", "a", "b")
    no_number[1]["UtteranceId"] = None
    other_role = conversation("q2", "a")
    other_role[1]["Role"] = "Bot"
    number_content = conversation("q3", "a")
    number_content[1]["Content"] = 3
    good = conversation("q5", "a")
    path = annotation(tmp_path, no_number, other_role, number_content, good)
    workspace = converted(tmp_path, "wildfeedback", path)
    assert [row["messages"][0]["content"] for row in rows(workspace)] == ["q5"]
    assert list(reasons(workspace).values()) == [
        "no_utterance_id",
        "unknown_role",
        "content_not_text",
    ]
    assert accounts(workspace, 4)


def test_conversation_without_its_beginning_is_set_aside(tmp_path: Path) -> None:
    lost = conversation("q1", "a", "b", "c")[2:]
    workspace = converted(
        tmp_path, "wildfeedback", annotation(tmp_path, conversation("q", "a", "b", "c"), lost)
    )
    assert [len(row["messages"]) for row in rows(workspace)] == [4]
    assert list(reasons(workspace).values()) == ["conversation_without_beginning"]


def test_annotation_that_breaks_off_loses_only_the_conversation_at_the_break(tmp_path: Path) -> None:
    path = annotation(tmp_path, conversation("q1", "a", "b"), conversation("q2", "a", "b"))
    path.write_text(path.read_text()[:-300])
    workspace = converted(tmp_path, "wildfeedback", path)
    assert [row["messages"][0]["content"] for row in rows(workspace)] == ["q1"]
    assert list(reasons(workspace).values()) == ["broken_off"]
    assert accounts(workspace, 2)


def pairs(tmp_path: Path) -> Path:
    talk = [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
        {"from": "human", "value": "again"},
    ]
    rows = [
        {"conversations": talk, "chosen": {"value": "good"}, "rejected": {"value": "bad"}},
        {"conversations": talk, "chosen": {"value": "same"}, "rejected": {"value": "same"}},
        {"conversations": talk[:2], "chosen": {"value": "x"}, "rejected": {"value": "y"}},
        {"conversations": talk, "chosen": {}, "rejected": {"value": "y"}},
        {"conversations": [], "chosen": {"value": "x"}, "rejected": {"value": "y"}},
    ]
    path = tmp_path / "wildfeedback.json"
    path.write_text(json.dumps(rows))
    return path


def test_pairs_become_preferences_and_unusable_ones_are_set_aside(tmp_path: Path) -> None:
    workspace = converted(tmp_path, "wildfeedback", pairs(tmp_path))
    (row,) = rows(workspace, "preferences")
    assert [message["content"] for message in row["prompt"]] == ["q", "a", "again"]
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad"}]
    assert row["split"] in ("train", "test")
    assert reasons(workspace, "preferences") == {
        "wildfeedback.json:1": "chosen_equals_rejected",
        "wildfeedback.json:2": "two_assistant_messages_in_a_row",
        "wildfeedback.json:3": "malformed_messages",
        "wildfeedback.json:4": "does_not_start_with_user",
    }
    assert accounts(workspace, 5, "preferences")
    assert not workspace.path("conversations").exists()


def test_the_folder_of_three_files_gives_all_tables_and_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    annotation(raw, conversation("q1", "a", "b"))
    pairs(raw)
    (raw / "user_preference.json").write_text(json.dumps([{"user_summary": "likes lists", "turns": 3}]))
    workspace = converted(tmp_path, "wildfeedback", raw)
    assert len(rows(workspace)) == len(rows(workspace, "labels/wildfeedback")) == 1
    assert len(rows(workspace, "preferences")) == 1
    assert "user_preference.json is left out" in capsys.readouterr().err
    assert "user_summary" in str(workspace.require("conversations").results["files_left_out"])


@pytest.mark.parametrize("name", ["sat_dsat_annotation.json", "user_preference.json"])
def test_another_layout_stops_and_lists_the_keys(tmp_path: Path, name: str) -> None:
    row = utterance(0, "q")
    row["Satisfied"] = row.pop("Satisfaction")
    (tmp_path / name).write_text(json.dumps([row]))
    with pytest.raises(UserError, match=r"Satisfaction is missing.*UtteranceId, TurnId, Role.*Satisfied"):
        converted(tmp_path, "wildfeedback", tmp_path / name)


def test_a_conversation_of_one_utterance_ends_before_the_next(tmp_path: Path) -> None:
    path = annotation(tmp_path, conversation("alone"), conversation("q", "a"))
    workspace = converted(tmp_path, "wildfeedback", path)
    assert [row["messages"][0]["content"] for row in rows(workspace)] == ["q"]
    assert reasons(workspace) == {"sat_dsat_annotation.json:0": "no_reply"}


def test_flags_that_the_first_utterance_does_not_have_are_no_other_layout(tmp_path: Path) -> None:
    rows_ = conversation("q", "a", "no!", flags=[NONE, (False, True)])
    rows_[:2] = [{key: row[key] for key in ("UtteranceId", "Role", "Content")} for row in rows_[:2]]
    workspace = converted(tmp_path, "wildfeedback", annotation(tmp_path, rows_))
    assert labels(workspace) == {("q", 2): "DSAT"}


def test_a_justification_that_is_no_utf8_costs_no_label(tmp_path: Path) -> None:
    rows_ = conversation("q", "a", "no!", flags=[NONE, (False, True)])
    rows_[2]["Dissatisfaction-Justificiation"] = "bad \ud800"
    path = tmp_path / "annotation.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_)))
    workspace = converted(tmp_path, "wildfeedback", path)
    assert [row["reason"] for row in rows(workspace, "labels/wildfeedback")] == ["bad ?"]
