"""The updates that are made and thrown away before anything is sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from drift_data.workspace import UserError, hash_file
from drift_train.dpo import train as dpo
from drift_train.dpo import trainer as dpo_trainer
from drift_train.dpo.rehearsal import make_longest_pairs, rehearse
from drift_train.methods.examples import Example
from drift_train.models.load import load_renderer
from drift_train.models.log_probs import CheckError
from tests.helpers.dpo_runs import OPTIONS, make_pairs, train
from tests.helpers.random_policy import make_policy
from tests.helpers.training_rows import edit_json, user

pytestmark = pytest.mark.slow


def example(i: int, prompt: str = "please list three fruits", rejected: str = "blue fish") -> Example:
    return Example(f"c{i}", 2, "train", user(f"{prompt} {i}"), None, rejected, "no that is wrong")


def test_its_pairs_fill_the_length_that_training_may_see_and_no_more(policy: Path) -> None:
    renderer = load_renderer(policy)
    pairs = make_longest_pairs([example(i) for i in range(5)], renderer, 100, 3)
    assert [row["conversation_id"] for row in pairs] == ["c0", "c1", "c2"]
    for row in pairs:
        for side in ("chosen", "rejected"):
            prompt, reply = renderer.render_pair(row["prompt"], row[side][0]["content"])
            assert 99 <= len(prompt) + len(reply) <= 100
            assert len(reply) == row[f"{side}_tokens"]


def test_an_example_with_control_tokens_is_passed_over_and_none_at_all_is_said(policy: Path) -> None:
    renderer, hostile = load_renderer(policy), example(0, rejected="<|im_end|>")
    assert make_longest_pairs([hostile, example(1)], renderer, 100, 3)[0]["conversation_id"] == "c1"
    with pytest.raises(UserError, match=r"c0, turn 2: special_token"):
        make_longest_pairs([hostile], renderer, 100, 3)
    with pytest.raises(UserError, match=r"prompt_fills_context.*Raise max_length"):
        make_longest_pairs([example(0)], renderer, 20, 3)


def test_it_leaves_nothing_behind(policy: Path, tmp_path: Path) -> None:
    before = hash_file(policy / "model.safetensors")
    rehearse(policy, policy, [example(i) for i in range(3)], OPTIONS, tmp_path, "t")
    assert not list(tmp_path.iterdir())
    assert hash_file(policy / "model.safetensors") == before


def test_too_little_memory_names_the_knob(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dpo, "check_first_batch", full)
    with pytest.raises(UserError, match=r"Halve per_device_batch \(2\).*lora"):
        rehearse(policy, policy, [example(0)], OPTIONS, tmp_path, "t")


def test_a_broken_model_and_a_bad_tokenizer_stop_it(tmp_path: Path) -> None:
    broken = make_policy(tmp_path / "broken")
    from drift_train.models.load import load_model

    model = load_model(broken, torch.float32)
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    model.save_pretrained(broken)
    with pytest.raises(CheckError, match=r"pair c0, turn 2"):
        rehearse(broken, broken, [example(0)], OPTIONS, tmp_path, "t")
    padded = make_policy(tmp_path / "padded")
    edit_json(padded / "tokenizer_config.json", pad_token="<|im_end|>")
    with pytest.raises(UserError, match="has the pad_token"):
        rehearse(padded, padded, [example(0)], OPTIONS, tmp_path, "t")
    silent = make_policy(tmp_path / "silent", template=None)
    with pytest.raises(UserError, match="no chat template"):
        rehearse(silent, silent, [example(0)], OPTIONS, tmp_path, "t")


def test_a_model_that_cannot_be_saved_stops_it(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(dpo, "save_model", full)
    with pytest.raises(OSError, match="No space left"):
        rehearse(policy, policy, [example(0)], OPTIONS, tmp_path, "t")


def test_a_tracker_that_is_not_installed_is_a_clear_error(policy: Path, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"report_to": ["comet_ml"]})
    with pytest.raises(UserError, match=r"report_to \['comet_ml'\]: .*comet"):
        rehearse(policy, policy, [example(0)], options, tmp_path, "t")
    with pytest.raises(UserError, match=r"report_to \['comet_ml'\]: .*comet"):
        train(policy, tmp_path / "model", make_pairs(policy), options)


@pytest.mark.parametrize(("global_batch", "micro_batches"), [(2, 1), (4, 2), (32, 2)])
def test_it_is_long_enough_for_the_optimizers_state_and_for_gradients_that_wait(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, global_batch: int, micro_batches: int
) -> None:
    """Of pairs in twos: two updates, each of two micro-batches where the training accumulates."""
    seen: list[tuple[int, int]] = []
    plain = dpo_trainer._Trainer.training_step

    def counted(trainer: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        seen.append((len(inputs["input_ids"]), len(trainer.optimizer.state)))
        return plain(trainer, model, inputs, *rest)

    monkeypatch.setattr(dpo_trainer._Trainer, "training_step", counted)
    options = OPTIONS.model_copy(update={"global_batch": global_batch})
    rehearse(policy, policy, [example(i) for i in range(3)], options, tmp_path, "t")
    assert [rows for rows, _ in seen] == [4] * 2 * micro_batches  # chosen and rejected of two pairs
    assert [state > 0 for _, state in seen] == [False] * micro_batches + [True] * micro_batches
