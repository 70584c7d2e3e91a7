"""The trainer on a tiny model: its losses, its checks, what it saves."""

import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drift_data.workspace import UserError, hash_file
from drift_train.dpo import train as dpo
from drift_train.dpo import trainer as dpo_trainer
from drift_train.models.load import free_memory, load_model, load_renderer
from drift_train.models.log_probs import CheckError, compute_log_probs
from drift_train.options import TrainOptions
from tests.helpers.dpo_runs import OPTIONS, make_pairs, train
from tests.helpers.random_policy import make_policy
from tests.helpers.training_rows import edit_json

pytestmark = pytest.mark.slow


def test_the_sigmoid_loss_is_ln_2_before_anything_is_learned_and_the_nll_is_logged_apart(
    policy: Path, tmp_path: Path
) -> None:
    """With 12 pairs in one batch the first step's loss can be computed by hand from plain forwards."""
    pairs = make_pairs(policy)
    options = OPTIONS.model_copy(update={"global_batch": 12, "per_device_batch": 12, "alpha": 0.01})
    first = train(policy, tmp_path / "model", pairs, options)[0]
    renderer, model = load_renderer(policy), load_model(policy, torch.float32)
    values = [
        compute_log_probs(model, *renderer.render_pair(row["prompt"], row["chosen"][0]["content"]))
        for row in pairs
    ]
    nll = -float(torch.cat(values).mean())
    assert first["loss/nll"] == pytest.approx(nll, rel=1e-5)
    assert first["loss/sigmoid"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["loss"] == pytest.approx(math.log(2) + 0.01 * nll, rel=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert first["logps/chosen"] == pytest.approx(sum(float(v.sum()) for v in values) / 12, rel=1e-5)


def test_metrics_have_a_row_a_step_with_trls_names_and_ours(policy: Path, tmp_path: Path) -> None:
    rows = train(policy, tmp_path / "model", make_pairs(policy), OPTIONS.model_copy(update={"epochs": 2}))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]  # 12 pairs in batches of 4, twice
    for row in rows:
        assert (row["iteration"], row["method"]) == (1, "drift")
        assert row.keys() >= {
            "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
            "logps/rejected", "learning_rate", "grad_norm", "tokens_per_second", "peak_memory_bytes",
        }  # fmt: skip
        assert row["tokens_per_second"] > 0
        assert row["rewards/margins"] == pytest.approx(
            row["rewards/chosen"] - row["rewards/rejected"], abs=1e-5
        )
    assert rows[-1]["rewards/margins"] > 0.01


def test_training_widens_the_margin_of_every_pair(policy: Path, tmp_path: Path) -> None:
    pairs = make_pairs(policy)
    train(policy, tmp_path / "model", pairs, OPTIONS.model_copy(update={"epochs": 3}))
    renderer = load_renderer(policy)
    before, after = load_model(policy, torch.float32), load_model(tmp_path / "model", torch.float32)
    for row in pairs:
        chosen = renderer.render_pair(row["prompt"], row["chosen"][0]["content"])
        rejected = renderer.render_pair(row["prompt"], row["rejected"][0]["content"])
        gain = [
            float((compute_log_probs(after, *reply) - compute_log_probs(before, *reply)).sum())
            for reply in (chosen, rejected)
        ]
        assert gain[0] > gain[1]


def test_the_same_seed_gives_the_same_weights(policy: Path, tmp_path: Path) -> None:
    pairs = make_pairs(policy)
    for name in ("one", "two"):
        train(policy, tmp_path / name, pairs)
    train(policy, tmp_path / "other", pairs, OPTIONS.model_copy(update={"seed": 1}))
    weights = [hash_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "other")]
    assert weights[0] == weights[1] != weights[2]


def test_batches_are_accumulated_to_the_same_update(policy: Path, tmp_path: Path) -> None:
    pairs = make_pairs(policy)
    plain = OPTIONS.model_copy(update={"alpha": 0.0, "optimizer": "adamw_torch"})
    train(policy, tmp_path / "one", pairs, plain.model_copy(update={"per_device_batch": 4}))
    train(policy, tmp_path / "four", pairs, plain.model_copy(update={"per_device_batch": 1}))
    one, four = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "four"))
    start = load_file(policy / "model.safetensors")
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - four[name]).abs().max()) for name in one)
    assert moved > 1e-5
    assert apart < moved / 100


@pytest.mark.parametrize(
    ("pairs", "epochs", "expected"), [(491, 3, 5), (11_000, 1, 35), (320, 1, 1), (288, 1, 0), (20, 1, 0)]
)
def test_warm_up_is_a_tenth_of_the_steps_and_none_in_a_short_run(
    pairs: int, epochs: int, expected: int
) -> None:
    assert dpo_trainer.count_warmup_steps(pairs, TrainOptions(epochs=epochs)) == expected


def test_a_single_step_learns_something(policy: Path, tmp_path: Path) -> None:
    (row,) = train(policy, tmp_path / "model", make_pairs(policy, 4))
    assert row["learning_rate"] == OPTIONS.learning_rate
    before, after = (
        load_file(policy / "model.safetensors"),
        load_file(tmp_path / "model" / "model.safetensors"),
    )
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def test_learning_rate_zero_leaves_the_weights_as_they_are(policy: Path, tmp_path: Path) -> None:
    train(policy, tmp_path / "model", make_pairs(policy), OPTIONS.model_copy(update={"learning_rate": 0}))
    before, after = (
        load_file(policy / "model.safetensors"),
        load_file(tmp_path / "model" / "model.safetensors"),
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_saved_folder_is_a_plain_model_without_pickles(policy: Path, tmp_path: Path) -> None:
    train(policy, tmp_path / "model", make_pairs(policy))
    assert {path.name for path in (tmp_path / "model").iterdir()} == {path.name for path in policy.iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (policy / name).read_bytes()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["dtype"] == "float32"
    load_model(tmp_path / "model", torch.float32)


def test_a_generation_config_that_contradicts_itself_is_kept_and_costs_no_training(tmp_path: Path) -> None:
    """transformers loads it with a warning and refuses to save it, in a checkpoint or at the end."""
    odd = make_policy(tmp_path / "odd")
    edit_json(odd / "generation_config.json", do_sample=False, temperature=0.6)
    options = OPTIONS.model_copy(update={"checkpoint_steps": 1})
    assert (
        len(train(odd, tmp_path / "model", make_pairs(odd), options, unfinished=tmp_path / "unfinished")) == 3
    )
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["temperature"] == 0.6
    assert load_renderer(tmp_path / "model").ends == load_renderer(odd).ends


def test_a_reference_that_is_not_the_policy_is_allowed_and_shows_in_the_margin(
    policy: Path, tmp_path: Path
) -> None:
    other = make_policy(tmp_path / "other", seed=1)
    first = train(policy, tmp_path / "model", make_pairs(policy), reference=other)[0]
    assert abs(first["rewards/margins"]) > 1e-3


@pytest.mark.parametrize(("log_probs", "models"), [("precompute", 1), ("live", 2)])
def test_no_model_is_held_when_the_memory_is_given_back(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_probs: str, models: int
) -> None:
    """Or a GPU would stay full, and the next iteration's engine would not start."""
    held: list[weakref.ref[Any]] = []
    freed: list[list[bool]] = []

    def watched(folder: Path, dtype: torch.dtype, where: torch.device) -> Any:
        model = load_model(folder, dtype, where)
        held.append(weakref.ref(model))
        return model

    def looked_at() -> None:
        free_memory()
        freed.append([each() is None for each in held])

    monkeypatch.setattr(dpo_trainer, "load_model", watched)
    monkeypatch.setattr(dpo, "free_memory", looked_at)
    options = OPTIONS.model_copy(update={"reference_log_probs": log_probs})
    train(policy, tmp_path / "model", make_pairs(policy), options)
    assert freed == [[True] * models]  # a reference that is the policy itself is not loaded for precomputing


def test_metrics_stay_those_of_the_model_that_is_there(policy: Path, tmp_path: Path) -> None:
    train(policy, tmp_path / "model", make_pairs(policy))
    before = (tmp_path / "model.jsonl").read_text()
    wild = OPTIONS.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 0})
    with pytest.raises(CheckError, match=r"model\.partial\.jsonl"):
        train(policy, tmp_path / "model", make_pairs(policy), wild)
    assert (tmp_path / "model.jsonl").read_text() == before


def test_several_gpus_in_one_process_are_a_clear_error(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(UserError, match=r"sees 8 GPUs.*CUDA_VISIBLE_DEVICES=0"):
        train(policy, tmp_path / "model", make_pairs(policy))


def test_a_max_length_beyond_the_models_context_is_a_clear_error(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_length 4096 is beyond the 512 positions"):
        train(policy, tmp_path / "model", make_pairs(policy), OPTIONS.model_copy(update={"max_length": 4096}))
