from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drift_data import schema
from drift_data.chats.turns import find_feedback_turns
from drift_data.convert.options import CleanOptions
from drift_data.convert.stage import convert
from drift_data.simulate import SimulateOptions, simulate
from drift_data.workspace import UserError, Workspace
from tests.helpers.converted import accounts, converted, dropped, rows
from tests.helpers.wildchat_schema import chat, write_wildchat

OPTIONS = SimulateOptions.model_validate({"conversations": 60, "heldout": 5, "heldout_tasks": 5})


@pytest.fixture
def simulated(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "work")
    small = OPTIONS.pretrain.model_copy(update={"clean": 5, "noisy": 5})
    simulate(workspace, OPTIONS.model_copy(update={"pretrain": small}))
    return workspace


def test_simulated_logs_of_the_workspace_are_the_default_input(simulated: Workspace) -> None:
    assert convert(simulated, "simulated", [], CleanOptions())
    chats, labels = rows(simulated), rows(simulated, "labels/simulated")
    assert len(chats) == 60 and accounts(simulated, 60)
    keys = [(row["conversation_id"], turn) for row in chats for turn in find_feedback_turns(row["messages"])]
    assert sorted((row["conversation_id"], row["turn"]) for row in labels) == sorted(keys)
    assert accounts(simulated, len(keys), "labels/simulated")
    assert labels == rows(simulated, "simulated/truth")
    assert not convert(simulated, "simulated", [], CleanOptions())


def test_only_truth_of_kept_conversations_is_copied(simulated: Workspace) -> None:
    assert convert(simulated, "simulated", [], CleanOptions(min_turns=3))
    kept = {row["conversation_id"]: row["messages"] for row in rows(simulated)}
    labels = rows(simulated, "labels/simulated")
    assert 0 < len(kept) < 60
    assert {row["conversation_id"] for row in labels} <= set(kept)
    assert accounts(simulated, sum(len(find_feedback_turns(m)) for m in kept.values()), "labels/simulated")


def test_logs_without_simulation_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make simulate"):
        convert(Workspace(tmp_path / "work"), "simulated", [], CleanOptions())
    logs = write_wildchat(tmp_path / "logs" / "part-0.parquet", [chat("q", "a")])
    with pytest.raises(UserError, match="holds no truth"):
        converted(tmp_path, "simulated", logs)


def truth(folder: Path, *keys: tuple[str, int]) -> None:
    row = {"label": "SAT", "sat_score": 1.0, "dsat_score": 0.0, "judge": "simulated:truth", "rubric": "s"}
    data = [{"conversation_id": name, "turn": turn, **row} for name, turn in keys]
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(data, schema=schema.LABEL_ROWS), folder / "part-00000.parquet")


def test_a_feedback_turn_without_truth_is_left_out_with_a_reason(tmp_path: Path) -> None:
    chats = [
        chat("q", "a", "b", conversation_hash="x"),
        chat("q2", "a", "b", "c", "d", conversation_hash="y"),
    ]
    logs = write_wildchat(tmp_path / "logs" / "part-0.parquet", chats)
    truth(tmp_path / "truth", ("y", 4))
    workspace = converted(tmp_path, "simulated", logs)
    assert [(row["conversation_id"], row["turn"]) for row in rows(workspace, "labels/simulated")] == [
        ("y", 4)
    ]
    left = dropped(workspace, "labels/simulated")
    assert [(r["conversation_id"], r["turn"], r["reason"]) for r in left] == [
        ("x", 2, "no_label"),
        ("y", 2, "no_label"),
    ]


def test_truth_of_other_logs_stops_the_run(tmp_path: Path) -> None:
    logs = write_wildchat(tmp_path / "logs" / "part-0.parquet", [chat("q", "a", "b", conversation_hash="x")])
    truth(tmp_path / "truth", ("other", 2))
    with pytest.raises(UserError, match="truth of conversation other, which is not in the logs"):
        converted(tmp_path, "simulated", logs)
