"""Measures on held-out seed pairs whether a policy moved toward the preferred replies. Real logs have no gold reward.

The measure is DPO's own implicit reward against the base model. It says that training generalises, not that people like
the replies better. Nothing is sampled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from drift_data.schema import DROPPED, EVALUATION
from drift_data.workspace import Output, UserError, Workspace
from drift_train.evaluate.gold import summarize
from drift_train.methods.examples import TRAIN_SPLIT
from drift_train.models.load import free_memory, load_model, load_renderer
from drift_train.models.log_probs import compute_log_probs
from drift_train.models.render import RenderError

TokenizedPair = tuple[list[int], list[int], list[int]]  # tokens of prompt, chosen reply, rejected reply


def write_margins(
    output: Output,
    workspace: Workspace,
    policy: Path,
    base: Path,
    beta: float,
    max_length: int,
    title: str,
) -> None:
    """Write a policy's margins against the base model on the held-out rows of `seed`, and their figures.

    margin = β · [log π(chosen)/π_base(chosen) − log π(rejected)/π_base(rejected)].

    Args:
        output: the folder `heldout`.
        workspace: holds `seed`.
        policy: folder of the model that is measured.
        base: folder of the model that margins are measured against.
        beta: weight of the log-ratios, as in training.
        max_length: tokens of prompt and reply; longer pairs are dropped.
        title: name of the progress bars.

    Raises:
        UserError: all rows of `seed` have the split "train".
    """
    rows = [row for row in workspace.read("seed").to_pylist() if row["split"] != TRAIN_SPLIT]
    if not rows:
        raise UserError(
            f"{workspace.path('seed')} has no held-out row. Raise mine.test_fraction and run `make seed` "
            "again."
        )
    renderer = load_renderer(policy)
    tokens: list[TokenizedPair] = []
    kept = []
    for row in rows:
        key = {"conversation_id": row["conversation_id"], "turn": row["turn"]}
        try:
            prompt, chosen = renderer.render_pair(row["prompt"], row["chosen"][0]["content"])
            _, rejected = renderer.render_pair(row["prompt"], row["rejected"][0]["content"])
        except RenderError as error:
            output.drop([{**key, "reason": error.reason, "detail": error.detail}], DROPPED)
            continue
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            output.drop([{**key, "reason": "completion_cut", "detail": f"beyond {max_length}"}], DROPPED)
            continue
        tokens.append((prompt, chosen, rejected))
        kept.append(row)
    ours, theirs = _score_pairs(policy, tokens, title), _score_pairs(base, tokens, f"{title}: base")
    margins = [beta * (a - b) for a, b in zip(ours, theirs, strict=True)]
    output.table(EVALUATION).write_rows(
        [
            {
                "conversation_id": row["conversation_id"],
                "sample": 0,
                "measure": "margin",
                "score": margin,
                "prompt": row["prompt"],
                "completion": row["chosen"][0]["content"],
                "tokens": len(chosen),
            }
            for row, (_, chosen, _), margin in zip(kept, tokens, margins, strict=True)
        ]
    )
    output.rows_in = len(rows)
    if margins:
        output.results = {
            "margin": summarize(margins),
            "accuracy": summarize([float(m > 0) for m in margins]),
        }


def _score_pairs(folder: Path, rows: list[TokenizedPair], title: str) -> list[float]:
    """Return log π(chosen) − log π(rejected) of each row in nats, summed in float64.

    The model is float32 on a GPU as well, since bfloat16 weights round away most of what an iteration changes.
    """
    model = load_model(folder, torch.float32)
    scores = []
    for prompt, chosen, rejected in tqdm(rows, desc=title, unit="pair", mininterval=0.5):
        better, worse = (
            compute_log_probs(model, prompt, reply).double().sum() for reply in (chosen, rejected)
        )
        scores.append(float(better - worse))
    del model
    free_memory()
    return scores
