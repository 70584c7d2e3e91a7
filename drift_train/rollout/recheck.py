"""Checks that an engine sampled from the policy it was asked for, before anything is trained on its replies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from drift_train.models.load import free_memory, load_model
from drift_train.models.log_probs import CheckError, compute_log_probs

# Largest and mean difference allowed between the log-probabilities, in nats, that an engine and a plain forward give to
# a token. In float32 rounding is near 1e-6. In bfloat16 it was measured with 12 random layers of width 512 and 814
# tokens: largest 0.08, mean 0.015; with other weights the mean is 0.5 and more. The policies
# of two consecutive iterations are closer than bfloat16 can tell, so there the check does not notice when one is taken
# for the other.
LOG_PROB_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.0}
MEAN_LOG_PROB_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}


class LogProbError(CheckError):
    """Replies were not sampled from the checkpoint they should come from; `rows` holds the numbers of those replies."""

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = rows


def recheck_log_probs(
    folder: Path,
    rows: Sequence[tuple[Sequence[int], Sequence[int], Sequence[float]]],
    precision: str,
    engine: str,
) -> float:
    """Score sampled tokens again with plain transformers and compare with what the engine reported.

    Args:
        folder: the policy that the engine claims to have sampled from.
        rows: (prompt tokens, sampled tokens, log-probabilities of the sampled tokens at temperature 1, without top-p);
            the log-probabilities of the last tokens may be missing.
        precision: "float32" or "bfloat16", which the engine computed in.
        engine: name of the engine, for the message.

    Returns:
        The largest difference found.

    Raises:
        LogProbError: a difference is beyond `LOG_PROB_TOLERANCE`, or the mean beyond `MEAN_LOG_PROB_TOLERANCE`.
    """
    dtype = getattr(torch, precision)
    model = load_model(folder, dtype)
    differences = [
        (compute_log_probs(model, prompt, reply)[: len(reported)] - torch.tensor(reported)).abs()
        for prompt, reply, reported in rows
    ]
    del model
    free_memory()
    together = torch.cat(differences)
    worst, mean = float(together.max()), float(together.mean())
    # The comparisons are with `<=`, so that NaN fails both of them.
    if worst <= LOG_PROB_TOLERANCE[dtype] and mean <= MEAN_LOG_PROB_TOLERANCE[dtype]:
        return worst
    wrong = [
        number
        for number, row in enumerate(differences)
        if not (
            float(row.max()) <= LOG_PROB_TOLERANCE[dtype]
            and float(row.mean()) <= MEAN_LOG_PROB_TOLERANCE[dtype]
        )
    ]
    raise LogProbError(
        f"The {engine} engine reports log-probabilities that differ by up to {worst:.4g} (mean {mean:.4g}) from a "
        f"plain forward of {folder} on the same tokens; at most {LOG_PROB_TOLERANCE[dtype]} (mean {MEAN_LOG_PROB_TOLERANCE[dtype]}) "
        "is rounding. The engine did not sample from this checkpoint. Nothing was trained on its replies.",
        wrong or range(len(rows)),
    )


def check_prompt_tokens(engine: str, expected: Sequence[int], got: Sequence[int]) -> None:
    """Compare the tokens that an engine made of a prompt with those that training will see.

    Raises:
        CheckError: they differ.
    """
    if list(expected) != list(got):
        raise CheckError(
            f"The {engine} engine rendered a prompt to {len(got)} tokens, our own rendering has "
            f"{len(expected)}: it uses another chat template or tokenizer than training would. None of "
            "its replies is used."
        )
