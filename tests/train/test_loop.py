"""Warm start and iterations on a dozen examples: what is made from what, and what is made again."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drift_data.schema import DSAT_ROWS, PREFERENCES
from drift_data.workspace import UserError, Workspace, hash_file, hash_folder
from drift_train import loop
from drift_train.dpo import rehearsal
from drift_train.dpo import train as dpo
from drift_train.methods.options import LoopOptions
from drift_train.models import find as base
from drift_train.options import TrainOptions
from tests.helpers.loop_workspace import OPTIONS, TRAIN, make_workspace
from tests.helpers.training_rows import assistant, dsat_row, preference_row, user, write_table

pytestmark = pytest.mark.slow

STEPS = [
    "iter0/pairs",
    "iter0/model",
    *(f"iter{k}/{x}" for k in (1, 2) for x in ("rollouts", "pairs", "model")),
]


def digests(workspace: Workspace) -> dict[str, str]:
    return {step: workspace.require(f"runs/r/{step}").digest for step in STEPS}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [step for step in STEPS if before[step] != after[step]]


@pytest.fixture(scope="module")
def finished(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run of two iterations, which tests only read."""
    workspace = make_workspace(tmp_path_factory.mktemp("finished"))
    assert loop.iterate(workspace, "r", 2, str(policy), OPTIONS)
    return workspace


def test_missing_earlier_steps_are_made_first(finished: Workspace) -> None:
    assert all(finished.manifest(f"runs/r/{step}") for step in STEPS)


def test_a_second_call_makes_nothing_again(finished: Workspace, policy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.root.rglob("*") if path.is_file()}
    assert not loop.iterate(finished, "r", 2, str(policy), OPTIONS)
    assert not loop.warm(finished, "r", str(policy), OPTIONS)
    after = {path: path.stat().st_mtime_ns for path in finished.root.rglob("*") if path.is_file()}
    assert after == before


def test_the_base_models_weights_are_read_once_a_call(
    finished: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(folder: Path) -> str:
        read.append(folder)
        return hash_folder(folder)

    monkeypatch.setattr(base, "hash_folder", counted)
    assert not loop.iterate(finished, "r", 2, str(policy), OPTIONS)
    assert read == [policy]


def test_seed_pairs_are_the_train_rows_of_seed(finished: Workspace) -> None:
    rows = finished.read("runs/r/iter0/pairs").to_pylist()
    assert {row["conversation_id"] for row in rows} == {f"s{i}" for i in range(12) if i != 3}
    for row in rows:
        number = row["conversation_id"][1:]
        assert row["prompt"] == user(f"please list {number} fruits")
        assert row["chosen"] == assistant(f"apple pear {number}")
        assert row["rejected"] == assistant(f"blue fish {number}")
        assert (row["method"], row["policy"]) == ("seed", "logs")


def test_rollouts_show_the_complaint_and_pairs_do_not(finished: Workspace) -> None:
    logged = {row["conversation_id"]: row for row in finished.read("dsat").to_pylist()}
    for k in (1, 2):
        rollouts = {
            row["conversation_id"]: row for row in finished.read(f"runs/r/iter{k}/rollouts").to_pylist()
        }
        assert len(rollouts) == 12
        for identity, row in rollouts.items():
            example = logged[identity]
            assert example["split"] == "train"
            assert row["messages"] == [
                *example["prompt"],
                *example["rejected"],
                *user("no that is wrong\n\ntry again"),
            ]
            assert (row["kind"], row["sample"], row["engine"]) == ("guided", 0, "transformers")
        pairs = finished.read(f"runs/r/iter{k}/pairs").to_pylist()
        assert pairs
        for row in pairs:
            example, rollout = logged[row["conversation_id"]], rollouts[row["conversation_id"]]
            assert row["prompt"] == example["prompt"]
            assert row["chosen"] == assistant(rollout["completion"])
            assert row["rejected"] == example["rejected"]
            assert (row["method"], row["policy"], row["split"]) == ("drift", f"iter{k - 1}", "train")
            assert rollout["finish_reason"] == "stop"


def test_every_rollout_is_a_pair_or_dropped_with_a_reason(finished: Workspace) -> None:
    for k in (1, 2):
        rollouts = finished.read(f"runs/r/iter{k}/rollouts").to_pylist()
        manifest = finished.require(f"runs/r/iter{k}/pairs")
        assert manifest.rows_in == len(rollouts) == manifest.rows_out + sum(manifest.dropped.values())
        stops = sum(row["finish_reason"] == "length" for row in rollouts)
        assert manifest.dropped.get("length_stop", 0) == stops


def test_iterations_take_different_examples(finished: Workspace) -> None:
    taken = [
        {row["conversation_id"] for row in finished.read(f"runs/r/iter{k}/rollouts").to_pylist()}
        for k in (1, 2)
    ]
    assert not taken[0] & taken[1]


def test_each_model_starts_from_the_one_before(finished: Workspace, policy: Path) -> None:
    names = {k: finished.require(f"runs/r/iter{k}/model").made_by for k in (0, 1, 2)}
    assert (names[0]["policy"], names[0]["reference"]) == (str(policy), str(policy))
    assert (names[1]["policy"], names[1]["reference"]) == ("runs/r/iter0/model", "runs/r/iter0/model")
    assert (names[2]["policy"], names[2]["reference"]) == ("runs/r/iter1/model", "runs/r/iter1/model")
    weights = {hash_file(finished.path(f"runs/r/iter{k}/model") / "model.safetensors") for k in (0, 1, 2)}
    assert len({*weights, hash_file(policy / "model.safetensors")}) == 4


def test_manifests_name_the_engine_and_the_checked_log_probs(finished: Workspace) -> None:
    made_by = finished.require("runs/r/iter1/rollouts").made_by
    assert (made_by["engine"], made_by["precision"], made_by["rechecked_rows"]) == (
        "transformers",
        "float32",
        8,
    )
    assert made_by["largest_log_prob_difference"] <= 1e-3


def test_metrics_of_every_iteration_are_kept(finished: Workspace) -> None:
    for k, method in ((0, "seed"), (1, "drift"), (2, "drift")):
        lines = finished.path(f"runs/r/iter{k}/metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        assert {(row["iteration"], row["method"]) for row in rows} == {(k, method)}


@pytest.mark.parametrize("killed", [1, 2])
def test_a_run_that_was_cut_goes_on_and_ends_as_an_undisturbed_one(
    finished: Workspace, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    workspace = make_workspace(tmp_path)
    real, calls = dpo.train, []

    def dies(*args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append(kwargs["iteration"])
        if kwargs["iteration"] == killed and calls.count(killed) == 1:
            real(*args, **kwargs)  # all but the last moment of the stage
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(dpo, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        loop.iterate(workspace, "r", 2, str(policy), OPTIONS)
    assert workspace.manifest(f"runs/r/iter{killed}/model") is None
    loop.iterate(workspace, "r", 2, str(policy), OPTIONS)
    assert calls == [0, *range(1, killed + 1), *range(killed, 3)]  # nothing before the cut was made again
    assert digests(workspace) == digests(finished)


def test_another_option_makes_again_exactly_what_depends_on_it(policy: Path, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    loop.iterate(workspace, "r", 2, str(policy), OPTIONS)
    first = digests(workspace)
    other = TRAIN.model_copy(update={"learning_rate": 3e-5})
    loop.iterate(workspace, "r", 2, str(policy), OPTIONS.model_copy(update={"train": other}))
    assert changed(first, digests(workspace)) == [
        "iter1/model",
        "iter2/rollouts",
        "iter2/pairs",
        "iter2/model",
    ]


def test_too_few_seed_pairs_leave_the_base_model_as_m0_and_say_so(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(tmp_path, seeds=5)
    assert loop.warm(workspace, "r", str(policy), OPTIONS)
    manifest = workspace.require("runs/r/iter0/model")
    assert manifest.made_by == {
        "model": str(policy),
        "warm_start": False,
        "reason": "4 seed pairs are fewer than min_seed_pairs 8",
    }
    assert "M0 is the base model" in capsys.readouterr().err
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert hash_file(workspace.path("runs/r/iter0/model") / name) == hash_file(policy / name)
    assert not loop.warm(workspace, "r", str(policy), OPTIONS)


def test_a_base_model_as_m0_has_no_metrics_of_an_earlier_warm_start(policy: Path, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    loop.warm(workspace, "r", str(policy), OPTIONS)
    metrics = workspace.path("runs/r/iter0/metrics.jsonl")
    assert metrics.exists()
    loop.warm(workspace, "r", str(policy), OPTIONS.model_copy(update={"warm": None}))
    assert not metrics.exists()


def test_without_warm_start_no_seed_table_is_needed(policy: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "dsat", DSAT_ROWS, [dsat_row(i) for i in range(12)])
    options = OPTIONS.model_copy(update={"warm": None})
    loop.iterate(workspace, "r", 1, str(policy), options)
    assert workspace.require("runs/r/iter0/model").made_by["reason"] == "the recipe has no warm start"
    assert workspace.require("runs/r/iter1/model").results["steps"] >= 1


def test_the_base_can_be_the_reference_of_every_iteration(policy: Path, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    based = OPTIONS.model_copy(update={"train": TRAIN.model_copy(update={"reference": "base"})})
    loop.iterate(workspace, "r", 1, str(policy), based)
    made_by = workspace.require("runs/r/iter1/model").made_by
    assert (made_by["policy"], made_by["reference"]) == ("runs/r/iter0/model", str(policy))
    first = json.loads(workspace.path("runs/r/iter1/metrics.jsonl").read_text().splitlines()[0])
    assert abs(first["rewards/margins"]) > 1e-3  # M0 has moved from the base already


def test_preferences_keep_their_rejected_reply_and_are_sampled_from_x_alone(
    policy: Path, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "preferences", PREFERENCES, [preference_row(i) for i in range(8)])
    rollout = OPTIONS.rollout.model_copy(update={"examples": None})
    options = OPTIONS.model_copy(update={"examples": "preferences", "warm": None, "rollout": rollout})
    loop.iterate(workspace, "r", 1, str(policy), options)
    sampled = workspace.read("runs/r/iter1/rollouts").to_pylist()
    assert all(
        row["kind"] == "plain" and row["messages"] == user(f"list {row['conversation_id'][1:]}")
        for row in sampled
    )
    for row in workspace.read("runs/r/iter1/pairs").to_pylist():
        assert row["rejected"] == assistant(f"blue {row['conversation_id'][1:]}")


def test_a_long_conversation_is_shortened_alike_for_rollout_and_training(
    policy: Path, tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path)
    early = [message for i in range(6) for message in (*user(f"please list {i}"), *assistant("apple"))]
    long = [
        {**dsat_row(i), "prompt": [{"role": "system", "content": "one"}, *early, *user(f"red {i}")]}
        for i in range(12)
    ]
    write_table(workspace, "dsat", DSAT_ROWS, [*long, dsat_row(20)])
    loop.iterate(workspace, "r", 1, str(policy), OPTIONS.model_copy(update={"warm": None}))
    manifest = workspace.require("runs/r/iter1/rollouts")
    assert manifest.results["shortened_prompts"] >= 11
    shown = {
        row["conversation_id"]: row["messages"] for row in workspace.read("runs/r/iter1/rollouts").to_pylist()
    }
    trained = workspace.read("runs/r/iter1/pairs").to_pylist()
    assert trained
    for row in trained:
        messages = shown[row["conversation_id"]]
        assert row["prompt"] == messages[:-2]
        assert messages[-1]["content"] == "no that is wrong\n\ntry again"
        if row["conversation_id"] != "c20":
            assert row["prompt"][0] == {"role": "system", "content": "one"}
            assert row["prompt"][1]["role"] == "user"
            assert row["prompt"][-1] == user(f"red {row['conversation_id'][1:]}")[0]
            assert len(row["prompt"]) < 14


def test_examples_that_cannot_be_asked_are_dropped_with_a_reason(policy: Path, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    rows = [dsat_row(i) for i in range(10)]
    rows[3]["prompt"] = user("please " * 300)
    rows[4]["rejected"] = assistant("yes<|im_end|>")
    write_table(workspace, "dsat", DSAT_ROWS, rows)
    loop.iterate(workspace, "r", 1, str(policy), OPTIONS.model_copy(update={"warm": None}))
    manifest = workspace.require("runs/r/iter1/rollouts")
    assert (manifest.rows_in, manifest.rows_out) == (10, 8)
    assert manifest.dropped == {"prompt_too_long": 1, "special_token": 1}


def test_no_training_row_at_all_is_a_clear_error(policy: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "dsat", DSAT_ROWS, [dsat_row(i, "test") for i in range(3)])
    with pytest.raises(UserError, match="no row of split train"):
        loop.iterate(workspace, "r", 1, str(policy), OPTIONS.model_copy(update={"warm": None}))


def test_a_base_model_that_is_nowhere_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a finished folder"):
        loop.warm(make_workspace(tmp_path), "r", "no-such-model", OPTIONS)


def test_iteration_zero_is_the_warm_start(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make warm"):
        loop.iterate(make_workspace(tmp_path), "r", 0, str(policy), OPTIONS)


def test_the_warm_start_is_rehearsed_before_it_is_trained(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed: list[Any] = []

    def too_small(policy: Path, reference: Path, examples: Any, training: TrainOptions, *rest: Any) -> None:
        rehearsed.append((policy, reference, [example.conversation_id for example in examples], training))
        raise UserError("Halve per_device_batch")

    monkeypatch.setattr(rehearsal, "rehearse", too_small)
    workspace = make_workspace(tmp_path / "w")
    with pytest.raises(UserError, match="Halve"):
        loop.warm(workspace, "r", str(policy), OPTIONS)
    assert workspace.manifest("runs/r/iter0/model") is None
    ((start, reference, examples, training),) = rehearsed
    assert (start, reference, training) == (policy, policy, OPTIONS.warm)
    assert examples == [f"s{i}" for i in range(12) if i != 3]  # training reads no test row, nor does this


def test_nothing_but_the_metrics_of_the_model_stays_beside_it(finished: Workspace) -> None:
    for k in (0, 1, 2):
        names = {path.name for path in finished.path(f"runs/r/iter{k}").iterdir()}
        assert names == {"pairs", "model", "metrics.jsonl", *(("rollouts", "health") if k else ())}


@pytest.mark.parametrize(
    ("values", "warm_start", "iteration"),
    [
        (
            {},
            ["make_seed_pairs", "rehearse_warm_start", "train_policy 0"],
            ["sample_rollouts", "make_pairs", "train_policy", "measure_health"],
        ),
        (
            {"warm": None, "method": "iterdpo", "examples": "preferences", "reward": {}},
            ["take_base_model"],
            ["sample_rollouts", "score_rollouts", "make_pairs", "train_policy", "measure_health"],
        ),
        (
            {"min_seed_pairs": 10, "health": None},
            ["make_seed_pairs", "take_base_model"],
            ["sample_rollouts", "make_pairs", "train_policy"],
        ),
    ],
)
def test_the_steps_run_in_the_order_of_the_algorithm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, Any],
    warm_start: list[str],
    iteration: list[str],
) -> None:
    steps: list[str] = []

    def watch(name: str) -> None:
        def step(workspace: Workspace, *rest: Any) -> bool:
            steps.append(" ".join([name, *(str(part) for part in rest if isinstance(part, int))]))
            return True

        monkeypatch.setattr(loop, name, step)

    for name in {
        *warm_start,
        *iteration,
        "check_reward_model",
        "find_usable_examples",
        "rehearse_iterations",
    }:
        watch(name.split()[0])
    monkeypatch.setattr(loop, "find_model", lambda workspace, name: name)
    monkeypatch.setattr(Workspace, "require", lambda workspace, name: SimpleNamespace(rows_out=9))
    assert loop.iterate(Workspace(tmp_path), "r", 2, "base", LoopOptions.model_validate(values))
    checks = ["find_usable_examples", *(["check_reward_model"] if "reward" in values else [])]
    assert steps == [
        *checks,
        *warm_start,
        "rehearse_iterations",
        *(f"{name} {k}" for k in (1, 2) for name in iteration),
    ]
