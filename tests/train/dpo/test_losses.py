"""What is minimised: log-probs, the losses beside DPO's, adapters, and a trace that must not change unseen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, MixtralConfig, MixtralForCausalLM

from drift_train.dpo import trainer as dpo_trainer
from drift_train.dpo.checks import compute_policy_log_probs
from drift_train.models.load import load_model, load_renderer
from drift_train.models.log_probs import compute_log_probs
from drift_train.options import LoraOptions, TrainOptions
from tests.helpers.dpo_runs import OPTIONS, make_pairs, train
from tests.helpers.random_policy import make_policy

pytestmark = pytest.mark.slow

# 50 steps of `trace()` below, on an x86-64 CPU with the locked versions. To renew, after a change that is meant to
# change training: `python -m tests.train.dpo.test_losses`, run from the repository's root.
GOLDEN = Path(__file__).with_name("trace.json")
TRACED = ("loss", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "grad_norm")


def exact_log_probs(policy: Path, pairs: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return (chosen, rejected) of each pair by a plain forward in float64, a reply at a time."""
    renderer, model = load_renderer(policy), load_model(policy, torch.float64)
    return [
        tuple(  # type: ignore[misc]
            float(log_probs_float64(model, *renderer.render_pair(row["prompt"], row[side][0]["content"])))
            for side in ("chosen", "rejected")
        )
        for row in pairs
    ]


def log_probs_float64(model: Any, prompt: list[int], reply: list[int]) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *reply]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None]).sum()


def trainer_of(
    policy: Path, reference: Path, pairs: list[dict[str, Any]], options: TrainOptions, tmp_path: Path
) -> Any:
    tokenizer = load_renderer(policy).tokenizer
    return dpo_trainer.make_trainer(
        policy, reference, pairs, tokenizer, options, tmp_path, keep=False, title="t", logs=tmp_path
    )


@pytest.mark.parametrize("log_probs", ["precompute", "live"])
def test_log_probs_are_those_of_a_plain_float64_forward(policy: Path, tmp_path: Path, log_probs: str) -> None:
    """Of the policy and of another reference, in one padded batch, without the padding mask."""
    other = make_policy(tmp_path / "other", seed=1)
    pairs, options = make_pairs(policy), OPTIONS.model_copy(update={"reference_log_probs": log_probs})
    trainer = trainer_of(policy, other, pairs, options, tmp_path)
    batch = trainer.data_collator(list(trainer.train_dataset))
    ours = compute_policy_log_probs(trainer, batch)
    if log_probs == "precompute":
        theirs = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
    else:
        theirs = trainer.compute_ref_log_probs(trainer.ref_model, batch)
    for folder, (chosen, rejected) in ((policy, ours), (other, theirs)):
        for i, exact in enumerate(exact_log_probs(folder, pairs)):
            assert (float(chosen[i]), float(rejected[i])) == pytest.approx(exact, rel=1e-6)


def test_the_padding_mask_is_left_out_and_changes_no_gradient(policy: Path, tmp_path: Path) -> None:
    pairs = make_pairs(policy)
    trainer = trainer_of(policy, policy, pairs, OPTIONS, tmp_path)
    seen: list[Any] = []
    trainer.model.base_model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.compute_loss(trainer.model, batch).backward()
    without = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    trainer.model.base_model._forward_pre_hooks.clear()
    trainer.compute_loss(trainer.model, batch).backward()
    assert seen[0] is None
    assert seen[1] is not None
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, without[name], rtol=1e-4, atol=1e-7)


def one_batch(**changes: Any) -> TrainOptions:
    return OPTIONS.model_copy(update={"global_batch": 12, "per_device_batch": 12, "alpha": 0, **changes})


def test_the_normalised_loss_divides_each_log_ratio_by_its_tokens(policy: Path, tmp_path: Path) -> None:
    other, pairs = make_policy(tmp_path / "other", seed=1), make_pairs(policy)
    step = train(policy, tmp_path / "m", pairs, one_batch(loss="sigmoid_norm", beta=2.0), reference=other)[0]
    expected = []
    for row, a, b in zip(pairs, exact_log_probs(policy, pairs), exact_log_probs(other, pairs), strict=True):
        delta = (a[0] - b[0]) / row["chosen_tokens"] - (a[1] - b[1]) / row["rejected_tokens"]
        expected.append(math.log1p(math.exp(-2 * delta)))
    assert step["loss"] == pytest.approx(sum(expected) / 12, rel=1e-5)


def test_ld_dpo_counts_the_tokens_past_the_shorter_reply_less(policy: Path, tmp_path: Path) -> None:
    other, pairs = make_policy(tmp_path / "other", seed=1), make_pairs(policy)
    step = train(policy, tmp_path / "m", pairs, one_batch(ld_alpha=0.25), reference=other)[0]
    renderer = load_renderer(policy)
    models = [load_model(folder, torch.float32) for folder in (policy, other)]
    expected = []
    for row in pairs:
        shared = min(row["chosen_tokens"], row["rejected_tokens"])
        ratios = []
        for side in ("chosen", "rejected"):
            prompt, reply = renderer.render_pair(row["prompt"], row[side][0]["content"])
            ours, theirs = (compute_log_probs(model, prompt, reply) for model in models)
            ratio = ours - theirs
            ratios.append(float(ratio[:shared].sum() + 0.25 * ratio[shared:].sum()))
        expected.append(math.log1p(math.exp(-0.1 * (ratios[0] - ratios[1]))))
    assert step["loss"] == pytest.approx(sum(expected) / 12, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"ld_alpha": 0.5}, {"loss": "sigmoid_norm", "beta": 1.0}])
def test_a_precomputed_reference_trains_as_a_live_one(
    policy: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    other, pairs = make_policy(tmp_path / "other", seed=1), make_pairs(policy)
    one, two = (
        train(
            policy,
            tmp_path / name,
            pairs,
            OPTIONS.model_copy(update={"reference_log_probs": name, **changes}),
            reference=other,
        )
        for name in ("precompute", "live")
    )
    for a, b in zip(one, two, strict=True):
        assert {k: a[k] for k in TRACED} == pytest.approx({k: b[k] for k in TRACED}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("log_probs", ["precompute", "live"])
def test_adapters_start_as_the_policy_and_are_merged_into_a_plain_model(
    policy: Path, tmp_path: Path, log_probs: str
) -> None:
    lora = OPTIONS.model_copy(update={"lora": LoraOptions(rank=4), "reference_log_probs": log_probs})
    rows = train(policy, tmp_path / "model", make_pairs(policy), lora.model_copy(update={"epochs": 3}))
    assert rows[0]["loss/sigmoid"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["loss/nll"] > 1  # read off the policy's forward alone, not the reference's
    assert rows[-1]["rewards/margins"] > 0.01
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, tmp_path / "model"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    renderer, model = load_renderer(policy), load_model(tmp_path / "model", torch.float32)
    row = make_pairs(policy)[0]
    assert torch.isfinite(log_probs_of(model, renderer, row)).all()


def log_probs_of(model: Any, renderer: Any, row: dict[str, Any]) -> torch.Tensor:
    return compute_log_probs(model, *renderer.render_pair(row["prompt"], row["chosen"][0]["content"]))


def test_adapters_against_the_base_hold_a_reference_of_their_own(policy: Path, tmp_path: Path) -> None:
    other = make_policy(tmp_path / "other", seed=1)
    lora = OPTIONS.model_copy(update={"lora": LoraOptions(rank=4)})
    one, two = (
        train(policy, tmp_path / name, make_pairs(policy), options, reference=other)
        for name, options in (("lora", lora), ("full", OPTIONS))
    )
    assert one[0]["rewards/margins"] == pytest.approx(two[0]["rewards/margins"], rel=1e-4)
    assert abs(one[0]["rewards/margins"]) > 1e-3


def test_the_balancing_loss_of_experts_is_no_part_of_the_sigmoid_loss(tmp_path: Path) -> None:
    mixture = make_policy(tmp_path / "policy")
    size = AutoConfig.from_pretrained(mixture).vocab_size
    sizes = {"vocab_size": size, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    config = MixtralConfig(
        **sizes, **heads, router_aux_loss_coef=0.1, output_router_logits=True, bos_token_id=None
    )
    MixtralForCausalLM(config).save_pretrained(mixture)
    row = train(mixture, tmp_path / "model", make_pairs(mixture), OPTIONS.model_copy(update={"alpha": 0.01}))[
        0
    ]
    assert row["aux_loss"] > 1
    assert row["loss/sigmoid"] == pytest.approx(math.log(2), abs=1e-4)


def test_replies_lengths_are_logged(policy: Path, tmp_path: Path) -> None:
    pairs = make_pairs(policy)
    step = train(policy, tmp_path / "m", pairs, one_batch())[0]
    for side in ("chosen", "rejected"):
        assert step[f"lengths/{side}"] == pytest.approx(sum(row[f"{side}_tokens"] for row in pairs) / 12)


def test_batches_are_random_and_sorted_inside() -> None:
    lengths = [(i * 37) % 101 for i in range(64)]
    epoch = 0
    sampler = dpo_trainer.LengthSortedBatches(lengths, 16, 42, lambda: epoch)
    first = list(sampler)
    assert sorted(first) == list(range(64))
    batches = [first[i : i + 16] for i in range(0, 64, 16)]
    for batch in batches:
        assert [lengths[i] for i in batch] == sorted((lengths[i] for i in batch), reverse=True)
    assert all(min(lengths[i] for i in batch) < 40 < 60 < max(lengths[i] for i in batch) for batch in batches)
    assert list(sampler) == first
    epoch = 1
    assert list(sampler) != first


def test_the_weight_of_a_last_smaller_micro_batch_is_not_always_the_shortest_pairs() -> None:
    """Five pairs in fours: TRL weighs the mean of four as much as the one that is left."""
    lengths = list(range(13))
    alone = []
    for seed in range(20):
        order = list(dpo_trainer.LengthSortedBatches(lengths, 8, seed, lambda: 0))
        assert sorted(order) == lengths
        assert order[:8] == sorted(order[:8], reverse=True)
        alone.append(sorted(order[8:]).index(order[-1]))  # its rank by length among the five
    assert set(alone) == {0, 1, 2, 3, 4}


def trace(folder: Path) -> list[dict[str, float]]:
    """Train 50 steps on weights that seed 0 fixes."""
    policy = make_policy(folder / "policy")
    options = OPTIONS.model_copy(update={"learning_rate": 2e-5, "epochs": 50 / 6, "alpha": 0.01})
    rows = train(policy, folder / "model", make_pairs(policy, 24), options)
    return [{name: row[name] for name in TRACED} for row in rows]


def test_fifty_steps_are_what_they_were(tmp_path: Path) -> None:
    golden, rows = json.loads(GOLDEN.read_text()), trace(tmp_path)
    assert len(rows) == len(golden) == 50
    for step, (row, expected) in enumerate(zip(rows, golden, strict=True), start=1):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6), f"step {step}"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        lines = [json.dumps(row) for row in trace(Path(name))]
    GOLDEN.write_text("[\n" + ",\n".join(lines) + "\n]\n")
