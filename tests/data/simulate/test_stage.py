"""The stage `simulate`: the truth is true of the logs, nothing held out leaks, the seed decides all of it."""

from pathlib import Path

import pytest

from drift_data.chats.turns import find_feedback_turns
from drift_data.schema import DSAT, LABEL_ROWS, SAT
from drift_data.simulate import SimulateOptions, simulate
from drift_data.simulate.options import PretrainOptions, UserOptions
from drift_data.simulate.stage import SIMULATED_TABLES
from drift_data.simulate.wildchat import WILDCHAT_SCHEMA
from drift_data.simulate.world import (
    compute_gold_reward,
    compute_gold_strict,
    find_current_task,
    find_faults,
    parse_reply,
    parse_request,
)
from drift_data.workspace import Workspace

SMALL = SimulateOptions(seed=7, conversations=1_500, pretrain=PretrainOptions(clean=400, noisy=400))
Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("simulated"))
    assert simulate(made, SMALL)
    return made


def logs(workspace: Workspace) -> dict[str, Messages]:
    rows = workspace.read("simulated/logs", ["conversation_hash", "conversation"]).to_pylist()
    return {
        row["conversation_hash"]: [{k: m[k] for k in ("role", "content")} for m in row["conversation"]]
        for row in rows
    }


def truth(workspace: Workspace) -> dict[tuple[str, int], dict[str, object]]:
    rows = workspace.read("simulated/truth").to_pylist()
    found = {(row["conversation_id"], row["turn"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_logs_have_the_schema_and_the_habits_of_wildchat(workspace: Workspace) -> None:
    table = workspace.read("simulated/logs")
    assert table.schema == WILDCHAT_SCHEMA
    assert table.num_rows == SMALL.conversations
    for row in table.to_pylist()[:200]:
        messages = row["conversation"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * row["turn"]
        assert len(row["openai_moderation"]) == len(row["detoxify_moderation"]) == len(messages)
        for message in messages:
            asks = message["role"] == "user"
            assert (message["timestamp"] is None) == asks
            assert (message["hashed_ip"] is not None) == asks
            assert (message["header"] is not None) == asks
            assert message["country"] == (row["country"] if asks else None)
        assert row["timestamp"] == messages[-1]["timestamp"]


def test_the_truth_covers_exactly_the_feedback_turns(workspace: Workspace) -> None:
    turns = {
        (key, turn) for key, messages in logs(workspace).items() for turn in find_feedback_turns(messages)
    }
    assert turns == set(truth(workspace))
    assert workspace.read("simulated/truth").schema == LABEL_ROWS


def test_every_complaint_is_about_a_faulty_reply_and_the_revision_mends_what_it_names(
    workspace: Workspace,
) -> None:
    chats, complaints, mended = logs(workspace), 0, 0
    for (key, turn), row in truth(workspace).items():
        if row["label"] != DSAT:
            continue
        messages = chats[key]
        before = messages[: turn - 1]
        wrong = find_faults(find_current_task(before), parse_reply(messages[turn - 1]["content"]))
        assert wrong, messages
        assert str(row["reason"]).endswith(f"wrong: {', '.join(wrong)}")
        complaints += 1
        named = str(row["reason"]).removeprefix("complaint: ").partition(";")[0]
        if named not in ("vague", "same request"):
            assert named in wrong
            assert named not in find_faults(
                find_current_task(before), parse_reply(messages[turn + 1]["content"])
            )
            mended += 1
    assert complaints > 500
    assert mended > 400


def test_logged_replies_have_the_stated_quality(workspace: Workspace) -> None:
    first = [compute_gold_reward(m[:1], m[1]["content"]) for m in logs(workspace).values()]
    assert sum(first) / len(first) == pytest.approx(SMALL.quality, abs=0.02)  # 3.9 standard errors


def test_held_out_tasks_are_asked_for_nowhere_else(workspace: Workspace) -> None:
    held = {
        parse_request(row["messages"][0]["content"])
        for row in workspace.read("simulated/heldout").to_pylist()
    }
    assert len(held) == SMALL.heldout_tasks
    pretrain = [row["messages"] for row in workspace.read("simulated/pretrain").to_pylist()]
    for messages in (*logs(workspace).values(), *pretrain):
        asked = {parse_request(m["content"]) for m in messages if m["role"] == "user"}
        assert held.isdisjoint(asked - {None})


def test_clean_chats_come_first_and_end_well_without_being_perfect_revisions(workspace: Workspace) -> None:
    rows = workspace.read("simulated/pretrain").to_pylist()
    assert [row["phase"] for row in rows] == ["clean"] * 400 + ["noisy"] * 400
    plain, revised = [], []
    for row in rows[:400]:
        *prompt, reply = row["messages"]
        asked = prompt[-1]["content"]
        repeats = any(asked in m["content"] or m["content"] in asked for m in prompt[:-1])
        if parse_request(asked) and not repeats:
            plain.append(compute_gold_strict(prompt, reply["content"]))
        elif asked.endswith(SMALL.pretrain.users.instruction):
            revised.append(compute_gold_reward(prompt, reply["content"]))
    assert len(plain) > 150 and set(plain) == {1.0}
    assert len(revised) > 20 and 0.8 < sum(revised) / len(revised) < 0.97


def test_noisy_chats_have_the_quality_the_base_model_is_to_have(workspace: Workspace) -> None:
    chats = [
        row["messages"] for row in workspace.read("simulated/pretrain").to_pylist() if row["phase"] == "noisy"
    ]
    first = [compute_gold_reward(messages[:1], messages[1]["content"]) for messages in chats]
    assert sum(first) / len(first) == pytest.approx(SMALL.pretrain.quality, abs=0.035)  # 3.7 standard errors


def test_logged_users_do_not_speak_the_instruction_of_rollouts(workspace: Workspace) -> None:
    instruction = SMALL.pretrain.users.instruction
    assert not any(instruction in m["content"] for messages in logs(workspace).values() for m in messages)


def test_thanks_follow_complaints_often_enough_for_seed_pairs(workspace: Workspace) -> None:
    labels = {key: row["label"] for key, row in truth(workspace).items()}
    pairs = sum(label == DSAT and labels.get((key, turn + 2)) == SAT for (key, turn), label in labels.items())
    results = workspace.require("simulated/truth").results
    assert results["DSAT→SAT pairs"] == pairs > 30
    assert results["DSAT turns"] == sum(label == DSAT for label in labels.values())


def test_the_seed_decides_every_byte(workspace: Workspace, tmp_path: Path) -> None:
    again, other = Workspace(tmp_path / "again"), Workspace(tmp_path / "other")
    simulate(again, SMALL)
    simulate(other, SMALL.model_copy(update={"seed": 8}))
    for name in SIMULATED_TABLES:
        assert again.require(name).digest == workspace.require(name).digest
        assert other.require(name).digest != workspace.require(name).digest


def test_an_unchanged_stage_is_not_run_again(workspace: Workspace) -> None:
    assert not simulate(workspace, SMALL)


def test_users_who_never_complain_leave_no_complaint(tmp_path: Path) -> None:
    silent = UserOptions(complains=0)
    made = Workspace(tmp_path)
    simulate(made, SMALL.model_copy(update={"conversations": 200, "users": silent}))
    assert {row["label"] for row in truth(made).values()} == {SAT, "NEUTRAL"}
