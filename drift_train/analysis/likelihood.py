"""Scores replies by plain forwards of a model: how likely they are, and their mean last hidden states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from drift_train.models.load import free_memory, load_model
from drift_train.models.log_probs import CheckError

Tokens = tuple[list[int], list[int]]  # tokens of a prompt, tokens of the reply to it

# Tokens of one forward, padding included. The limit bounds the logits: 2.5 GB in float32 for a vocabulary of 150k.
_MAX_BATCH_TOKENS = 4_096


def score_replies(
    folder: Path, rows: Sequence[Tokens], title: str, *, embed: bool = False
) -> tuple[list[float], torch.Tensor]:
    """Return log π(reply | prompt) of each row by plain forwards, in batches of rows of similar length.

    The model is float32 on a GPU as well, since bfloat16 weights round away most of what an iteration changes.

    Args:
        folder: the model.
        rows: tokens of the prompts and replies.
        title: name of the progress bar.
        embed: whether to return each reply's mean last hidden state as well; otherwise an empty tensor is returned.

    Returns:
        Log-probabilities in nats, summed over a reply in float64, in the order of the rows; and the mean hidden
        states, shape (rows, hidden).

    Raises:
        CheckError: a sum is not a finite number.
        MemoryError: the device has too little memory.
    """
    try:
        sums, embeddings = _run_forwards(load_model(folder, torch.float32), rows, title, embed)
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{folder} in float32, with a batch of {_MAX_BATCH_TOKENS} tokens or one reply, needs more memory than "
            "the device has."
        ) from error
    free_memory()
    if not all(map(math.isfinite, sums)):
        raise CheckError(
            f"Log-probabilities that {folder} gives to rollouts are not finite: the model is broken."
        )
    return sums, embeddings


def _run_forwards(
    model: Any, rows: Sequence[Tokens], title: str, embed: bool
) -> tuple[list[float], torch.Tensor]:
    sums = [0.0] * len(rows)
    embeddings: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    with tqdm(total=len(rows), desc=title, unit="reply", mininterval=0.5) as bar:
        for batch in _group_for_forwards([len(prompt) + len(reply) for prompt, reply in rows]):
            longest = max(len(rows[i][0]) + len(rows[i][1]) for i in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)  # (batch, seq), padded on the right
            mask = torch.zeros_like(ids)
            for place, i in enumerate(batch):
                sequence = [*rows[i][0], *rows[i][1]]
                ids[place, : len(sequence)] = torch.tensor(sequence)
                mask[place, : len(sequence)] = 1
            with torch.no_grad():
                output = model(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    use_cache=False,
                    output_hidden_states=embed,
                )
            for place, i in enumerate(batch):
                start, end = len(rows[i][0]), len(rows[i][0]) + len(rows[i][1])
                logits = output.logits[place, start - 1 : end - 1].float()  # (reply, vocabulary)
                targets = ids[place, start:end, None].to(logits.device)
                sums[i] = float(torch.log_softmax(logits, dim=-1).gather(1, targets).double().sum())
                if embed:
                    embeddings[i] = output.hidden_states[-1][place, start:end].float().mean(dim=0).cpu()
            bar.update(len(batch))
    return sums, torch.stack(embeddings) if embed else torch.empty(0)


def _group_for_forwards(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices of rows, the longest first. A batch has at most `_MAX_BATCH_TOKENS` tokens with padding, or one row."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > _MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def mean_per_token(sums: Sequence[float], lengths: Sequence[int]) -> dict[str, float]:
    """Return the mean over all tokens of values that are given as one sum for each reply, and its standard error.

    The standard error is that of a ratio of two sums over replies: a reply is one observation.
    """
    n, tokens = len(sums), sum(lengths)
    mean = math.fsum(sums) / tokens
    residual = math.fsum((s - mean * length) ** 2 for s, length in zip(sums, lengths, strict=True))
    error = math.sqrt(residual * n / (n - 1)) / tokens if n > 1 else 0.0
    return {"mean": round(mean, 9), "stderr": round(error, 9), "n": n}
