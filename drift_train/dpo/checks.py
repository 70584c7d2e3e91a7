"""Checks what must hold before the first DPO step: the pairs, TRL's tokens of them, and the first batch.

Every message names the row. `CheckError` is a fault of the table or the toolkit; `UserError` names an option to change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from drift_data.workspace import UserError
from drift_train.methods.examples import TRAIN_SPLIT
from drift_train.models.load import is_sharded, read_context_length
from drift_train.models.log_probs import RATIO_TOLERANCE, CheckError
from drift_train.models.render import Renderer, RenderError
from drift_train.options import TrainOptions

# Number of pairs, the first ones, whose every token is compared with our own rendering; of later pairs the lengths are.
_FULLY_CHECKED_PAIRS = 64
_FIRST_BATCH_PAIRS = 8  # pairs that are run through policy and reference before training
# Shorter replies get the tolerance of a reply this long: rounding does not average out over a few tokens.
_SHORT_REPLY_TOKENS = 8
_SIDES = ("chosen", "rejected")

Pairs = Sequence[Mapping[str, Any]]


def check_rows(pairs: Pairs, policy: Path, options: TrainOptions) -> None:
    """Check what can be seen without a tokenizer: splits, equal replies, and a `max_length` within the model's context."""
    for row in pairs:
        if row["split"] != TRAIN_SPLIT:
            raise UserError(
                f"Pair {row['conversation_id']}, turn {row['turn']} is of split {row['split']!r}: "
                "training reads train only. Filter the table, or mine it again."
            )
        if row["chosen"] == row["rejected"]:
            raise CheckError(
                f"In {_describe_pair(row)} the chosen reply equals the rejected one. Make the pairs again."
            )
    context = read_context_length(policy)
    if options.max_length > context:
        raise UserError(
            f"max_length {options.max_length} is beyond the {context} positions of {policy}. Set it to at "
            f"most {context}."
        )


def check_tokens(dataset: Any, pairs: Pairs, renderer: Renderer, max_length: int) -> None:
    """Compare TRL's tokens with our rendering: no row is lost or cut, and every reply has one end and the same tokens."""
    if len(dataset) != len(pairs):
        raise CheckError(
            f"TRL kept {len(dataset)} of {len(pairs)} pairs; {_find_lost_pair(dataset, pairs)} is missing. Make the pairs again "
            "with this max_length."
        )
    for number, (row, pair) in enumerate(zip(dataset, pairs, strict=True)):
        where = _describe_pair(pair)
        if row["chosen_ids"] == row["rejected_ids"]:
            raise CheckError(
                f"The chosen reply of {where} has the tokens of the rejected one. Make the pairs again."
            )
        for side in _SIDES:
            reply = row[f"{side}_ids"]
            if len(reply) != pair[f"{side}_tokens"]:
                raise CheckError(
                    f"TRL renders the {side} reply of {where} to {len(reply)} tokens, the pairs "
                    f"table has {pair[f'{side}_tokens']}. Another tokenizer or template made the table: make "
                    "the pairs again."
                )
            length = len(row["prompt_ids"]) + len(reply)
            if length > max_length:
                raise CheckError(
                    f"The {side} reply of {where} would be cut: {length} tokens do not fit into max_length "
                    f"{max_length}. Make the pairs again with this max_length."
                )
            try:
                renderer.check_end(reply)
                ours = (
                    renderer.render_pair(pair["prompt"], pair[side][0]["content"])
                    if number < _FULLY_CHECKED_PAIRS
                    else None
                )
            except RenderError as error:
                raise CheckError(f"The {side} reply of {where} must not be learned: {error}") from error
            if ours is not None and (row["prompt_ids"], reply) != ours:
                raise CheckError(f"TRL renders {where} ({side}) to other tokens than the rollout did.")


def check_reference(dataset: Any, pairs: Pairs) -> None:
    """Check that every pair has finite log-probabilities of the reference."""
    for side in _SIDES:
        column = f"ref_{side}_logps"
        values = dataset[column] if column in dataset.column_names else [None] * len(pairs)
        for value, pair in zip(values, pairs, strict=True):
            if value is None or not math.isfinite(value):
                raise CheckError(
                    f"The reference has no log-probability of the {side} reply of {_describe_pair(pair)} (it is {value}). The "
                    "reference model is broken, or its run over the pairs lost a row."
                )


def check_first_batch(trainer: Any, pairs: Pairs, *, same_weights: bool) -> None:
    """Check which tokens the loss covers, then run the first pairs through policy and reference.

    With the same weights every log-ratio is 0, so the margin is 0 and the sigmoid loss is ln 2. Anything else means that
    one of the two was loaded wrongly or computes differently. A model that is split over several devices is not run here:
    the metrics check its first step instead.
    """
    rows = [trainer.train_dataset[i] for i in range(min(len(trainer.train_dataset), _FIRST_BATCH_PAIRS))]
    batch = trainer.data_collator(rows)
    _check_completion_mask(batch, rows, pairs)
    if is_sharded():  # no process holds the whole policy before training starts
        return
    batch = {name: value.to(trainer.model.device) for name, value in batch.items()}
    trainer.model.eval()
    policy = compute_policy_log_probs(trainer, batch)
    if trainer.precompute_ref_logps:
        reference = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
    else:
        reference = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
    tolerance = RATIO_TOLERANCE[torch.bfloat16 if trainer.args.bf16 else torch.float32]
    for side, ours, theirs in zip(_SIDES, policy, reference, strict=True):
        for row, pair, ratio in zip(rows, pairs, (ours - theirs).tolist(), strict=False):
            if not math.isfinite(ratio):
                raise CheckError(
                    f"Log-probabilities of {_describe_pair(pair)} are not finite: the policy or the reference is broken."
                )
            allowed = tolerance * max(len(row[f"{side}_ids"]), _SHORT_REPLY_TOKENS)
            if same_weights and abs(ratio) > allowed:
                raise CheckError(
                    f"Before the first step policy and reference are the same weights, yet the log-probabilities of the "
                    f"{side} reply of {_describe_pair(pair)} differ by {abs(ratio):.3g} (at most {allowed:.3g}), and its margin "
                    "is not 0. One of the two was not loaded from the folder it claims."
                )


def compute_policy_log_probs(
    trainer: Any, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the policy's log-probabilities of the chosen and the rejected replies, each (pairs,), as TRL's loss sees them.

    TRL's `compute_ref_log_probs` is called with the policy as reference model, because it switches the adapters off where
    there is no reference model.
    """
    reference = trainer.ref_model
    trainer.ref_model = trainer.model
    try:
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
    finally:
        trainer.ref_model = reference
    return chosen, rejected


def _check_completion_mask(
    batch: Mapping[str, torch.Tensor], rows: Sequence[Mapping[str, Any]], pairs: Pairs
) -> None:
    """Check that the loss covers every token of each reply and no token of the prompt."""
    sequences = [(i, side) for side in _SIDES for i in range(len(rows))]
    for mask, (i, side) in zip(batch["completion_mask"], sequences, strict=True):
        start, length = len(rows[i]["prompt_ids"]), len(rows[i][f"{side}_ids"])
        expected = torch.zeros_like(mask)
        expected[start : start + length] = 1
        if not torch.equal(mask, expected):
            raise CheckError(
                f"The loss would cover {int(mask.sum())} tokens of {_describe_pair(pairs[i])} ({side}), not the {length} of its "
                "reply alone."
            )


def _describe_pair(pair: Mapping[str, Any]) -> str:
    return f"pair {pair['conversation_id']}, turn {pair['turn']}"


def _find_lost_pair(dataset: Any, pairs: Pairs) -> str:
    """Return the name of the first pair that TRL's data set does not hold."""
    there = list(zip(dataset["prompt"], dataset["chosen"], dataset["rejected"], strict=True))
    for pair in pairs:
        if (pair["prompt"], pair["chosen"], pair["rejected"]) not in there:
            return _describe_pair(pair)
    return "one of several equal pairs"
