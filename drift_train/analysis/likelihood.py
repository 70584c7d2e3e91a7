"""Scores replies by plain forwards of a model: how likely they are to it, and where they lie in its last layer.

Knows tokens, nothing about where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from drift_train.models.load import free_memory, load_model
from drift_train.models.log_probs import CheckError

Tokens = tuple[list[int], list[int]]  # of a prompt and of the reply to it

_BATCH_TOKENS = 4_096  # of a forward, padding included: bounds the logits, 2.5 GB in float32 for 150k words


def score(
    folder: Path, rows: Sequence[Tokens], title: str, *, embed: bool = False
) -> tuple[list[float], torch.Tensor]:
    """Return log π(reply | prompt) of each row by plain float32 forwards, rows of similar length together.

    In float32 on a GPU, too: bfloat16 weights round most of what an iteration changed away.

    Args:
        folder: the model.
        rows: prompt and reply tokens.
        title: of the progress bar.
        embed: also return each reply's mean last hidden state, else an empty tensor.

    Returns:
        Sums in float64, in the order of the rows, and embeddings, shape (rows, hidden).

    Raises:
        CheckError: a sum is not a finite number.
        MemoryError: the device has too little memory.
    """
    try:
        sums, embeddings = _forwards(load_model(folder, torch.float32), rows, title, embed)
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{folder} in float32, with a batch of {_BATCH_TOKENS} tokens or one reply, is more than the device's memory "
            "holds."
        ) from error
    free_memory()
    if not all(map(math.isfinite, sums)):
        raise CheckError(f"Log-probabilities that {folder} gives to rollouts are not finite: it is broken.")
    return sums, embeddings


def _forwards(
    model: Any, rows: Sequence[Tokens], title: str, embed: bool
) -> tuple[list[float], torch.Tensor]:
    sums = [0.0] * len(rows)
    embeddings: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    with tqdm(total=len(rows), desc=title, unit="reply", mininterval=0.5) as bar:
        for batch in _batches([len(prompt) + len(reply) for prompt, reply in rows]):
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


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices, the longest first, so many that the padded batch has at most `_BATCH_TOKENS` tokens, or one."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def token_mean(sums: Sequence[float], lengths: Sequence[int]) -> dict[str, float]:
    """Return the mean over all tokens of values given as sums a reply, and its standard error.

    The error is that of a ratio of two sums over replies, so that a reply counts as one observation.
    """
    n, tokens = len(sums), sum(lengths)
    mean = math.fsum(sums) / tokens
    residual = math.fsum((s - mean * length) ** 2 for s, length in zip(sums, lengths, strict=True))
    error = math.sqrt(residual * n / (n - 1)) / tokens if n > 1 else 0.0
    return {"mean": round(mean, 9), "stderr": round(error, 9), "n": n}
