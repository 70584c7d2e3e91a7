"""Every method on logs and on preference pairs, with guidance and without: two iterations on a tiny policy, and
each pair compared with the table or the rollout it must come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from drift_data.schema import DSAT_ROWS, PREFERENCES, REWARDS, SAT_ROWS, SEED_ROWS
from drift_data.workspace import UserError, Workspace
from drift_train import loop
from drift_train.methods.options import LoopOptions
from tests.helpers.random_policy import make_policy
from tests.helpers.random_reward import make_pair_reward
from tests.helpers.training_rows import (
    assistant,
    dsat_row,
    preference_row,
    sat_row,
    seed_row,
    user,
    write_table,
)

pytestmark = pytest.mark.slow

Rows = dict[tuple[str, int], dict[str, Any]]
Samples = dict[tuple[str, int], dict[str, list[str]]]

EXAMPLES = 8


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_reward(tmp_path_factory.mktemp("reward") / "model")


def make_workspace(root: Path) -> Workspace:
    """Fill all tables, each with a test row that must not be used, and with a preference pair that has no feedback."""
    workspace, rows = Workspace(root), range(2 * EXAMPLES)
    write_table(workspace, "dsat", DSAT_ROWS, [*map(dsat_row, rows), dsat_row(90, "test")])
    write_table(workspace, "sat", SAT_ROWS, [*map(sat_row, rows), sat_row(90, "test")])
    write_table(workspace, "seed", SEED_ROWS, [*map(seed_row, rows), seed_row(90, "test")])
    preferences = [preference_row(i, f"too blue {i}") for i in rows]
    preferences += [preference_row(90), {**preference_row(91, "no"), "split": "test"}]
    write_table(workspace, "preferences", PREFERENCES, preferences)
    return workspace


def options(reward: Path, **values: Any) -> LoopOptions:
    rollout = {
        "engine": "transformers",
        "max_prompt_tokens": 100,
        "max_new_tokens": 200,
        "examples": EXAMPLES,
        "instruction": "try again",
        "recheck": 2,
        **values.pop("rollout", {}),
    }
    train = {
        "learning_rate": 5e-5,
        "global_batch": 4,
        "per_device_batch": 4,
        "max_length": 320,
        "gradient_checkpointing": False,
    }
    ranking = {"model": str(reward)}
    return LoopOptions.model_validate(
        {"rollout": rollout, "train": train, "warm": None, "reward": ranking, **values}
    )


def key(row: dict[str, Any]) -> tuple[str, int]:
    return row["conversation_id"], row.get("turn", 2)


def samples(workspace: Workspace, iteration: int) -> Samples:
    """Return the sampled texts by example and kind, in order of sampling."""
    found: Samples = {}
    rows = workspace.read(f"runs/r/iter{iteration}/rollouts").to_pylist()
    for row in sorted(rows, key=lambda row: int(row["sample"])):
        found.setdefault(key(row), {}).setdefault(row["kind"], []).append(row["completion"])
    return found


def rewards(workspace: Workspace, iteration: int) -> dict[tuple[str, int], list[float]]:
    made = workspace.read(f"runs/r/iter{iteration}/rewards")
    assert made.schema.equals(REWARDS)
    found: dict[tuple[str, int], list[float]] = {}
    for row in sorted(made.to_pylist(), key=lambda row: int(row["sample"])):
        found.setdefault(key(row), []).append(row["reward"])
    return found


# method, examples, guidance → table; chosen and rejected: a column of it, or a kind of rollout
CASES = [
    ("drift", "logs", True, "dsat", "guided", "rejected"),
    ("drift", "logs", False, "dsat", "plain", "rejected"),
    ("drift", "preferences", True, "preferences", "guided", "rejected"),
    ("drift", "preferences", False, "preferences", "plain", "rejected"),
    ("spin", "logs", True, "seed", "chosen", "guided"),
    ("spin", "logs", False, "sat", "chosen", "plain"),
    ("spin", "preferences", True, "preferences", "chosen", "guided"),
    ("spin", "preferences", False, "preferences", "chosen", "plain"),
    ("iterdpo", "logs", True, "dsat", "guided", "plain"),
    ("iterdpo", "logs", False, "dsat", "best", "worst"),
    ("iterdpo", "preferences", True, "preferences", "guided", "plain"),
    ("iterdpo", "preferences", False, "preferences", "best", "worst"),
]


@pytest.mark.parametrize(("method", "examples", "guidance", "table", "chosen", "rejected"), CASES)
def test_two_iterations_make_the_pairs_of_the_definition(
    policy: Path,
    reward: Path,
    tmp_path: Path,
    method: str,
    examples: str,
    guidance: bool,
    table: str,
    chosen: str,
    rejected: str,
) -> None:
    workspace = make_workspace(tmp_path)
    chosen_options = options(reward, method=method, examples=examples, rollout={"guidance": guidance})
    loop.iterate(workspace, "r", 2, str(policy), chosen_options)
    rows: Rows = {key(row): row for row in workspace.read(table).to_pylist() if row["split"] == "train"}
    for iteration in (1, 2):
        sampled = samples(workspace, iteration)
        assert len(sampled) == EXAMPLES
        assert sampled.keys() <= rows.keys()
        ranked = rewards(workspace, iteration) if chosen == "best" else None
        assert (workspace.manifest(f"runs/r/iter{iteration}/rewards") is None) == (ranked is None)
        check_prompts(workspace, iteration, rows)
        pairs = workspace.read(f"runs/r/iter{iteration}/pairs").to_pylist()
        assert len(pairs) >= 2
        for pair in pairs:
            at = key(pair)
            sides = {"chosen": chosen, "rejected": rejected}
            for side, origin in sides.items():
                if ranked is not None:
                    texts, scores = sampled[at]["plain"], ranked[at]
                    assert len(texts) == 2
                    assert scores[0] != scores[1]
                    pick = max if origin == "best" else min
                    text = texts[pick((0, 1), key=scores.__getitem__)]
                elif origin in ("chosen", "rejected"):
                    text = rows[at][origin][0]["content"]
                else:
                    (text,) = sampled[at][origin]
                assert pair[side] == assistant(text), side
            assert pair["prompt"] == rows[at]["prompt"]
            assert (pair["method"], pair["policy"]) == (method, f"iter{iteration - 1}")
    taken = [set(samples(workspace, iteration)) for iteration in (1, 2)]
    assert not taken[0] & taken[1]
    assert workspace.require("runs/r/iter2/model").results["steps"] >= 1


def check_prompts(workspace: Workspace, iteration: int, rows: Rows) -> None:
    for row in workspace.read(f"runs/r/iter{iteration}/rollouts").to_pylist():
        example = rows[key(row)]
        if row["kind"] == "plain":
            assert row["messages"] == example["prompt"]
        else:
            guiding = user(f"{example['feedback']}\n\ntry again")
            assert row["messages"] == [*example["prompt"], *example["rejected"], *guiding]


def test_an_example_without_feedback_guides_nothing_and_is_counted(
    policy: Path, reward: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path)
    guided = options(reward, examples="preferences", rollout={"guidance": True, "examples": None})
    loop.iterate(workspace, "r", 1, str(policy), guided)
    name = "runs/r/iter1/rollouts"
    manifest = workspace.require(name)
    assert (manifest.rows_in, manifest.rows_out) == (2 * EXAMPLES + 1, 2 * EXAMPLES)
    assert manifest.dropped == {"no_feedback": 1}
    (dropped,) = pq.read_table(workspace.dropped_path(name) / "part-00000.parquet").to_pylist()
    assert (dropped["conversation_id"], dropped["reason"]) == ("u90", "no_feedback")


def test_the_best_of_several_samples_by_reward_makes_the_one_pair(
    policy: Path, reward: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path)
    loop.iterate(
        workspace,
        "r",
        1,
        str(policy),
        options(reward, rollout={"samples": 3, "select": "best", "recheck": 0}),
    )
    sampled, scores = samples(workspace, 1), rewards(workspace, 1)
    ended = {
        (key(row), row["sample"])
        for row in workspace.read("runs/r/iter1/rollouts").to_pylist()
        if row["finish_reason"] == "stop"
    }
    pairs = workspace.read("runs/r/iter1/pairs").to_pylist()
    assert len({key(pair) for pair in pairs}) == len(pairs) > 0
    others = 0
    for pair in pairs:
        at = key(pair)
        order = sorted(range(3), key=lambda number: -scores[at][number])
        replies = sampled[at]["guided"]
        usable = [(at, n) in ended and bool(replies[n].strip()) and "<|" not in replies[n] for n in range(3)]
        first = next(n for n in order if usable[n])
        assert pair["chosen"] == assistant(sampled[at]["guided"][first])
        others += first != 0
    assert others  # the reward has chosen
    made_by = workspace.require("runs/r/iter1/rewards").made_by
    assert made_by == {"reward_model": str(reward), "max_length": 48}


def test_the_first_of_several_samples_that_can_be_learned_makes_the_one_pair(
    policy: Path, reward: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path)
    few = options(reward, rollout={"samples": 3, "max_new_tokens": 5, "examples": None})
    loop.iterate(workspace, "r", 1, str(policy), few)
    assert workspace.manifest("runs/r/iter1/rewards") is None
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in workspace.read("runs/r/iter1/rollouts").to_pylist():
        rows.setdefault(key(row), []).append(row)
    assert {len(found) for found in rows.values()} == {3}
    pairs = {key(pair): pair for pair in workspace.read("runs/r/iter1/pairs").to_pylist()}
    later = 0
    for at, found in rows.items():
        usable = [row for row in found if row["finish_reason"] == "stop" and row["completion"].strip()]
        if usable:
            assert pairs.pop(at)["chosen"] == assistant(usable[0]["completion"])
            later += usable[0]["sample"] > 0
    assert not pairs
    manifest = workspace.require("runs/r/iter1/pairs")
    assert manifest.results["later_choices"] == later > 0
    assert manifest.rows_in == len(rows)


def test_samples_that_a_reward_cannot_tell_apart_make_no_pair(
    policy: Path, reward: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path)
    greedy = options(reward, method="iterdpo", rollout={"guidance": False, "temperature": 0})
    with pytest.raises(UserError, match=r"No pair is left.*reward_tie"):
        loop.iterate(workspace, "r", 1, str(policy), greedy)
    assert workspace.require("runs/r/iter1/pairs").dropped == {"reward_tie": EXAMPLES}


@pytest.mark.parametrize("method", ["spin", "iterdpo"])
def test_a_long_prompt_is_shortened_alike_for_all_rollouts_and_for_training(
    policy: Path, reward: Path, tmp_path: Path, method: str
) -> None:
    workspace = make_workspace(tmp_path)
    early = [message for i in range(6) for message in (*user(f"please list {i}"), *assistant("apple"))]
    for table, schema, make in (("dsat", DSAT_ROWS, dsat_row), ("seed", SEED_ROWS, seed_row)):
        long = [{**make(i), "prompt": [*early, *user(f"red {i}")]} for i in range(EXAMPLES)]
        write_table(workspace, table, schema, long)
    loop.iterate(
        workspace,
        "r",
        1,
        str(policy),
        options(reward, method=method, rollout={"guidance": True, "max_prompt_tokens": 90}),
    )
    manifest = workspace.require("runs/r/iter1/rollouts")
    assert manifest.results["shortened_prompts"] == EXAMPLES
    shown: dict[tuple[str, int], dict[str, Any]] = {}
    for row in workspace.read("runs/r/iter1/rollouts").to_pylist():
        shown.setdefault(key(row), {})[row["kind"]] = row["messages"]
    for pair in workspace.read("runs/r/iter1/pairs").to_pylist():
        kinds = shown[key(pair)]
        assert kinds["guided"][-1]["content"] == "no that is wrong\n\ntry again"
        assert pair["prompt"] == kinds["guided"][:-2] == kinds.get("plain", pair["prompt"])
        assert 1 <= len(pair["prompt"]) < 13
        assert pair["prompt"][-1]["content"].startswith("red")


def remade(workspace: Workspace, table: str, rows: list[dict[str, Any]]) -> None:
    schemas = {"sat": SAT_ROWS, "seed": SEED_ROWS, "preferences": PREFERENCES}
    write_table(workspace, table, schemas[table], rows)


@pytest.mark.parametrize(
    ("values", "table", "rows", "message"),
    [
        ({"method": "spin"}, "sat", [sat_row(1, "test")], "the logs hold none"),
        (
            {"method": "spin", "rollout": {"guidance": True}},
            "seed",
            [seed_row(1, "test")],
            r"DSAT→SAT pairs; set loop\.rollout\.guidance=false",
        ),
        (
            {"examples": "preferences", "rollout": {"guidance": True}},
            "preferences",
            [preference_row(1), preference_row(2, " ")],
            r"None of the 2 rows.*has feedback.*guidance=false",
        ),
    ],
)
def test_nothing_to_learn_from_is_said_before_anything_is_trained(
    policy: Path,
    reward: Path,
    tmp_path: Path,
    values: dict[str, Any],
    table: str,
    rows: list[dict[str, Any]],
    message: str,
) -> None:
    workspace = make_workspace(tmp_path)
    remade(workspace, table, rows)
    with pytest.raises(UserError, match=message):
        loop.iterate(workspace, "r", 1, str(policy), options(reward, **values))
    assert not workspace.path("runs").exists()


def test_spin_without_a_sat_table_names_the_target_that_makes_it(
    policy: Path, reward: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"sat is not there yet\. Run `make seed`"):
        loop.iterate(Workspace(tmp_path), "r", 1, str(policy), options(reward, method="spin"))


def test_a_reward_model_that_is_none_is_said_before_anything_is_trained(policy: Path, tmp_path: Path) -> None:
    workspace, other = make_workspace(tmp_path / "work"), make_policy(tmp_path / "other")
    with pytest.raises(UserError, match="is not a reward model"):
        loop.iterate(
            workspace, "r", 1, str(policy), options(other, method="iterdpo", rollout={"guidance": False})
        )
    with pytest.raises(UserError, match="No reward model nowhere"):
        loop.iterate(
            workspace,
            "r",
            1,
            str(policy),
            options(Path("nowhere"), method="iterdpo", rollout={"guidance": False}),
        )
    assert not workspace.path("runs").exists()
