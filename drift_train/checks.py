"""Checks that stop a run before a broken engine, checkpoint or batch trains anything (DESIGN, section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from drift_train.policy import free_memory, load_model

# Largest difference of one token's log-probability between an engine and a plain forward.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
# bfloat16 rounds logits to 3 decimal digits, so single tokens differ: their mean must be small as well.
MEAN_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
MARGIN_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


class CheckError(Exception):
    """Something that must hold does not: a fault of an engine, a checkpoint or the tool."""


def log_probs(model: Any, prompt: Sequence[int], reply: Sequence[int]) -> torch.Tensor:
    """Return the log-probability of each reply token, shape (len(reply),), by one plain forward."""
    ids = torch.tensor([[*prompt, *reply]], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]  # (reply, vocabulary)
    return torch.log_softmax(logits.float(), dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()


def recheck_log_probs(
    folder: Path,
    rows: Sequence[tuple[Sequence[int], Sequence[int], Sequence[float]]],
    dtype: torch.dtype,
    engine: str,
) -> float:
    """Score sampled tokens again with plain transformers and compare with what the engine reported.

    Args:
        folder: the policy that the engine claims to have sampled from.
        rows: (prompt tokens, sampled tokens, their log-probabilities at temperature 1, without top-p).
        dtype: precision the engine computed in.
        engine: its name, for the message.

    Returns:
        The largest difference found.

    Raises:
        CheckError: a difference is beyond `TOLERANCE`.
    """
    model = load_model(folder, dtype)
    worst = 0.0
    for prompt, reply, reported in rows:
        difference = (log_probs(model, prompt, reply) - torch.tensor(reported)).abs()
        worst = max(worst, float(difference.max()))
        if not (difference.max() <= TOLERANCE[dtype] and difference.mean() <= MEAN_TOLERANCE[dtype]):
            raise CheckError(
                f"The {engine} engine reports log-probabilities that differ by {float(difference.max()):.4g} "
                f"(mean {float(difference.mean()):.4g}) from a plain forward of {folder} on the same tokens; "
                f"at most {TOLERANCE[dtype]} is rounding. It did not sample from this checkpoint. Nothing "
                "was trained on it."
            )
    del model
    free_memory()
    return worst


def check_prompt_tokens(engine: str, expected: Sequence[int], got: Sequence[int]) -> None:
    """Raise CheckError when an engine rendered a conversation to other tokens than training will."""
    if list(expected) != list(got):
        raise CheckError(
            f"The {engine} engine rendered a prompt to {len(got)} tokens, our own rendering has "
            f"{len(expected)}: it uses another chat template or tokenizer than training would. Nothing was "
            "sampled from it."
        )
