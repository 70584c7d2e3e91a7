"""Every invariant of training, with a fault planted that it has to stop: nothing may be saved, and the row is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from drift_data.workspace import UserError
from drift_train.dpo import checks as dpo_checks
from drift_train.dpo import trainer as dpo_trainer
from drift_train.models.load import load_model, load_renderer
from drift_train.models.log_probs import CheckError
from drift_train.options import TrainOptions
from tests.helpers.dpo_runs import OPTIONS, make_pairs, train
from tests.helpers.random_policy import make_policy
from tests.helpers.training_rows import assistant

pytestmark = pytest.mark.slow

Pairs = list[dict[str, Any]]
Plant = Callable[[Pairs, pytest.MonkeyPatch, Path], None]
CUT = OPTIONS.model_copy(update={"max_length": 60})


def another_split(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
    pairs[5]["split"] = "test"


def equal_replies(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
    pairs[6]["rejected"], pairs[6]["rejected_tokens"] = pairs[6]["chosen"], pairs[6]["chosen_tokens"]


def another_tokenizer_made_the_table(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
    pairs[7]["rejected_tokens"] += 1


def a_late_reply_is_too_long(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
    """Not in the first batch, which is looked at more closely."""
    long = "apple pear " * 30
    pairs[-1]["chosen"] = assistant(long)
    pairs[-1]["chosen_tokens"] = len(load_renderer(policy).render_pair(pairs[-1]["prompt"], long)[1])


def on_data_set(change: Callable[[datasets.Dataset], datasets.Dataset]) -> Plant:
    """Change what TRL made of the pairs."""

    def plant(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
        prepare = dpo_trainer._Trainer._prepare_dataset
        patch.setattr(
            dpo_trainer._Trainer, "_prepare_dataset", lambda self, *args: change(prepare(self, *args))
        )

    return plant


def each(change: Callable[[dict[str, Any]], dict[str, Any]], row: int) -> Plant:
    return on_data_set(
        lambda data: data.map(lambda old, i: change(old) if i == row else old, with_indices=True)
    )


def learned_prompt(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
    """As if the mask began one token early."""
    collate = dpo_trainer.DPOTrainer.__init__

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        collate(self, *args, **kwargs)
        inner = self.data_collator

        def shifted(rows: Any) -> Any:
            batch = inner(rows)
            batch["completion_mask"][2] = batch["completion_mask"][2].roll(-1)
            return batch

        self.data_collator = shifted

    patch.setattr(dpo_trainer._Trainer, "__init__", made)


def reference_of_other_weights(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
    """The live reference is loaded second."""
    other, loaded = make_policy(policy.parent / "other", seed=1), []

    def second_is_another(folder: Path, dtype: torch.dtype, where: torch.device) -> Any:
        loaded.append(folder)
        return load_model(folder if len(loaded) == 1 else other, dtype, where)

    patch.setattr(dpo_trainer, "load_model", second_is_another)


def reference_column(change: Callable[[float], float | None], row: int) -> Plant:
    """Change a log-probability that was computed before training."""

    def plant(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
        compute = dpo_trainer._Trainer._precompute_ref_logps

        def changed(self: Any, *args: Any) -> Any:
            data = compute(self, *args)
            column = data["ref_chosen_logps"][:]
            column[row] = change(column[row])
            return data.remove_columns("ref_chosen_logps").add_column("ref_chosen_logps", column)

        patch.setattr(dpo_trainer._Trainer, "_precompute_ref_logps", changed)

    return plant


def no_reference_at_all(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
    patch.setattr(dpo_trainer._Trainer, "_precompute_ref_logps", lambda self, data, *args: data)


def blind_to_the_first_batch(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
    """The check of step 1 is the only one where the weights are split over devices."""
    patch.setattr(dpo_checks, "is_sharded", lambda: True)
    for row in range(len(pairs)):
        reference_column(lambda value: value - 1, row)(pairs, patch, policy)


def in_parts(plant: Plant) -> Plant:
    """Plant another fault where the weights are split over devices."""

    def both(pairs: Pairs, patch: pytest.MonkeyPatch, policy: Path) -> None:
        patch.setattr(dpo_checks, "is_sharded", lambda: True)
        plant(pairs, patch, policy)

    return both


LIVE = OPTIONS.model_copy(update={"reference_log_probs": "live"})
WILD = OPTIONS.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 0, "warmup_ratio": 0})
EOS = 2  # <|im_end|>
FAULTS: dict[str, tuple[Plant, type[Exception], str, TrainOptions]] = {
    "split is not train": (another_split, UserError, r"c5, turn 2 .*'test'", OPTIONS),
    "chosen equals rejected": (equal_replies, CheckError, r"pair c6, turn 2 .*equals", OPTIONS),
    "equal in tokens only": (
        each(lambda row: {**row, "rejected_ids": row["chosen_ids"]}, 6),
        CheckError,
        r"pair c6, turn 2 has the tokens",
        OPTIONS,
    ),
    "another tokenizer": (
        another_tokenizer_made_the_table,
        CheckError,
        r"rejected reply of pair c7, turn 2",
        OPTIONS,
    ),
    "other tokens of the same number": (
        each(lambda row: {**row, "prompt_ids": [*row["prompt_ids"][:-1], 9]}, 3),
        CheckError,
        r"renders pair c3, turn 2 \(chosen\) to other tokens",
        OPTIONS,
    ),
    "a row is lost": (
        on_data_set(lambda data: data.select([i for i in range(len(data)) if i != 4])),
        CheckError,
        r"11 of 12 pairs; pair c4, turn 2 is missing",
        OPTIONS,
    ),
    "a reply would be cut": (
        a_late_reply_is_too_long,
        CheckError,
        r"chosen reply of pair c11, turn 2 would be cut",
        CUT,
    ),
    "two ends in a reply": (
        each(lambda row: {**row, "chosen_ids": [EOS, *row["chosen_ids"][1:]]}, 2),
        CheckError,
        r"chosen reply of pair c2, turn 2 .*2 EOS",
        OPTIONS,
    ),
    "no end in a reply": (
        each(lambda row: {**row, "rejected_ids": [*row["rejected_ids"][:-1], 9]}, 2),
        CheckError,
        r"rejected reply of pair c2, turn 2 .*0 EOS",
        OPTIONS,
    ),
    "a prompt token is learned": (
        learned_prompt,
        CheckError,
        r"cover \d+ tokens of pair c2, turn 2 \(chosen\), not the \d+",
        OPTIONS,
    ),
    "live reference of other weights": (
        reference_of_other_weights,
        CheckError,
        r"chosen reply of pair c\d+, turn 2 differ",
        LIVE,
    ),
    "precomputed reference of other weights": (
        reference_column(lambda value: value - 1, 4),
        CheckError,
        r"chosen reply of pair c4, turn 2 differ by 1 ",
        OPTIONS,
    ),
    "reference of other weights, seen at step 1": (
        blind_to_the_first_batch,
        CheckError,
        r"before the first update .* a token",
        OPTIONS,
    ),
    "a prompt token is learned, the model in parts": (
        in_parts(learned_prompt),
        CheckError,
        r"cover \d+ tokens of pair c2, turn 2 \(chosen\), not the \d+",
        OPTIONS,
    ),
    "reference row is missing": (
        reference_column(lambda value: None, 9),
        CheckError,
        r"chosen reply of pair c9, turn 2 \(it is None\)",
        OPTIONS,
    ),
    "reference is not a number": (
        reference_column(lambda value: math.nan, 9),
        CheckError,
        r"pair c9, turn 2 \(it is nan\)",
        OPTIONS,
    ),
    "reference was not computed": (no_reference_at_all, CheckError, r"pair c0, turn 2", OPTIONS),
    "a loss becomes NaN": (
        lambda *_: None,
        CheckError,
        r"not a finite number at step \d+.*learning_rate",
        WILD,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_stops_the_run_and_nothing_is_saved(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, error, message, options = FAULTS[fault]
    policy = make_policy(tmp_path / "policy")
    pairs = make_pairs(policy)
    plant(pairs, monkeypatch, policy)
    with pytest.raises(error, match=message):
        train(policy, tmp_path / "model", pairs, options)
    assert not (tmp_path / "model").exists()


def test_weights_that_are_not_numbers_stop_the_run_before_the_first_step(tmp_path: Path) -> None:
    broken = make_policy(tmp_path / "broken")
    model = load_model(broken, torch.float32)
    with torch.no_grad():
        model.lm_head.weight[5, 0] = float("nan")
    model.save_pretrained(broken)
    with pytest.raises(CheckError, match="not finite"):
        train(broken, tmp_path / "model", make_pairs(broken), LIVE)
    with pytest.raises(CheckError, match=r"pair c0, turn 2 \(it is nan\)"):
        train(broken, tmp_path / "model", make_pairs(broken))


def test_rounding_over_a_long_reply_is_no_fault_at_any_beta(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 sums over 500 tokens differ by about 3e-4 between orders of summation; beta makes a margin of 6e-4."""
    policy = make_policy(tmp_path / "policy", context=2048)
    pairs, renderer = make_pairs(policy, 4), load_renderer(policy)
    for pair in pairs:
        for side, text in (("chosen", "apple pear " * 260), ("rejected", "blue fish " * 300)):
            pair[side] = assistant(text)
            pair[f"{side}_tokens"] = len(renderer.render_pair(pair["prompt"], text)[1])
        assert pair["chosen_tokens"] > 500
    for row in range(len(pairs)):
        reference_column(lambda value: value + 3e-4, row)(pairs, monkeypatch, policy)
    long = OPTIONS.model_copy(update={"loss": "sigmoid_norm", "beta": 2.0, "max_length": 2048})
    (step,) = train(policy, tmp_path / "model", pairs, long)
    assert 1e-4 < abs(step["rewards/margins"]) < 2e-3
