import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from drift_data.schema import MESSAGES, SEED_ROWS
from drift_data.workspace import UserError, Workspace
from drift_train.evaluate import heldout
from drift_train.evaluate.gold import summarize
from drift_train.evaluate.stage import evaluate_heldout, evaluate_samples
from drift_train.models.load import load_model, load_renderer
from drift_train.models.log_probs import compute_log_probs
from drift_train.models.render import Message
from drift_train.options import EvalOptions, TrainOptions
from tests.helpers.training_rows import seed_row, user, write_table

PROMPTS = pa.schema([("conversation_id", pa.string()), ("messages", MESSAGES)])
OPTIONS = EvalOptions(engine="transformers", max_prompt_tokens=64, max_new_tokens=12, samples=2)
NAME = "runs/r/base/eval"


def words(messages: list[Message], completion: str) -> float:
    assert messages[-1]["content"].startswith("list")
    return float(len(completion.split()))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    rows = [{"conversation_id": f"h{i}", "messages": user(f"list {i}")} for i in range(10)]
    rows.append({"conversation_id": "long", "messages": user("list " * 100)})
    write_table(made, "simulated/heldout", PROMPTS, rows)
    return made


def run(workspace: Workspace, policy: Path, options: EvalOptions = OPTIONS) -> bool:
    return evaluate_samples(workspace, "r", "base", str(policy), "simulated/heldout", words, "words", options)


def test_every_prompt_is_sampled_and_scored(workspace: Workspace, policy: Path) -> None:
    assert run(workspace, policy)
    rows = workspace.read(NAME).to_pylist()
    assert {(row["conversation_id"], row["sample"]) for row in rows} == {
        (f"h{i}", sample) for i in range(10) for sample in (0, 1)
    }
    for row in rows:
        assert row["prompt"] == user(f"list {row['conversation_id'][1:]}")
        assert row["score"] == len(row["completion"].split())
        assert row["measure"] == "words"
    assert workspace.require(NAME).dropped == {"prompt_too_long": 2}


def test_the_standard_error_counts_prompts_and_not_samples(workspace: Workspace, policy: Path) -> None:
    run(workspace, policy)
    rows = workspace.read(NAME).to_pylist()
    means = [sum(row["score"] for row in rows if row["conversation_id"] == f"h{i}") / 2 for i in range(10)]
    mean = sum(means) / 10
    stderr = math.sqrt(sum((value - mean) ** 2 for value in means) / 9 / 10)
    result = workspace.require(NAME).results["words"]
    assert result == {
        "mean": pytest.approx(mean, abs=1e-6),
        "stderr": pytest.approx(stderr, abs=1e-6),
        "n": 10,
    }


def test_a_second_evaluation_makes_nothing_again_and_another_seed_does(
    workspace: Workspace, policy: Path
) -> None:
    run(workspace, policy)
    first = workspace.require(NAME).digest
    assert not run(workspace, policy)
    assert run(workspace, policy, OPTIONS.model_copy(update={"seed": 1}))
    assert workspace.require(NAME).digest != first


def test_a_few_prompts_are_the_same_for_every_model(workspace: Workspace, policy: Path) -> None:
    few = OPTIONS.model_copy(update={"prompts": 3, "samples": 1})
    run(workspace, policy, few)
    ids = {row["conversation_id"] for row in workspace.read(NAME).to_pylist()}
    evaluate_samples(workspace, "r", "iter1", str(policy), "simulated/heldout", words, "words", few)
    assert {row["conversation_id"] for row in workspace.read("runs/r/iter1/eval").to_pylist()} == ids
    assert len(ids) in (2, 3)  # the prompt that is too long may be among the three


def test_summary_of_known_numbers() -> None:
    assert summarize([1.0, 2.0, 3.0, 4.0]) == {"mean": 2.5, "stderr": 0.645497, "n": 4}
    assert summarize([1.0]) == {"mean": 1.0, "stderr": 0.0, "n": 1}


def test_held_out_margins_are_beta_times_the_log_ratios_of_the_test_rows(
    policy: Path, tmp_path: Path
) -> None:
    from tests.helpers.dpo_runs import make_pairs
    from tests.helpers.dpo_runs import train as train_model

    train_model(policy, tmp_path / "model", make_pairs(policy), TrainOptions(
        learning_rate=1e-4, global_batch=4, per_device_batch=4, max_length=128, gradient_checkpointing=False,
    ))  # fmt: skip
    workspace = Workspace(tmp_path / "workspace")
    write_table(workspace, "seed", SEED_ROWS, [seed_row(i, "test" if i < 4 else "train") for i in range(8)])
    trained = str(tmp_path / "model")
    assert evaluate_heldout(workspace, "r", "iter1", trained, str(policy), beta=0.1)
    rows = workspace.read("runs/r/iter1/heldout").to_pylist()
    assert [row["conversation_id"] for row in rows] == ["s0", "s1", "s2", "s3"]
    renderer = load_renderer(policy)
    before, after = load_model(policy, torch.float32), load_model(Path(trained), torch.float32)
    for row in rows:
        number = row["conversation_id"][1:]
        sides = [
            renderer.render_pair(row["prompt"], text)
            for text in (f"apple pear {number}", f"blue fish {number}")
        ]
        chosen, rejected = (
            float((compute_log_probs(after, *s) - compute_log_probs(before, *s)).sum()) for s in sides
        )
        assert row["score"] == pytest.approx(0.1 * (chosen - rejected), abs=1e-4)
    results = workspace.require("runs/r/iter1/heldout").results
    assert results["margin"]["n"] == 4
    assert results["accuracy"]["mean"] == 1.0  # it was trained toward the same words


def test_held_out_margins_are_measured_in_float32_on_a_gpu_too(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[torch.dtype] = []

    def watched(folder: Path, dtype: torch.dtype) -> Any:
        taken.append(dtype)
        return load_model(folder, dtype)

    monkeypatch.setattr(heldout, "load_model", watched)
    workspace = Workspace(tmp_path)
    write_table(workspace, "seed", SEED_ROWS, [seed_row(i, "test") for i in range(3)])
    evaluate_heldout(workspace, "r", "base", str(policy), str(policy))
    assert taken == [torch.float32] * 2


def test_a_model_has_no_margin_against_itself(policy: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "seed", SEED_ROWS, [seed_row(i, "test") for i in range(3)])
    evaluate_heldout(workspace, "r", "base", str(policy), str(policy))
    results = workspace.require("runs/r/base/heldout").results
    assert results["margin"] == {"mean": 0.0, "stderr": 0.0, "n": 3}


def test_no_held_out_pair_is_a_clear_error(policy: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "seed", SEED_ROWS, [seed_row(0, "train")])
    with pytest.raises(UserError, match="test_fraction"):
        evaluate_heldout(workspace, "r", "base", str(policy), str(policy))
