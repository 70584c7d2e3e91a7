"""Says on held-out pairs whether a policy moved toward the preferred replies: for real logs, which have no
gold reward.

The measure is DPO's own implicit reward against the base model, so it says that training generalises, not
that people like the replies better. No sampling; log-probabilities only.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from drift_data.schema import DROPPED, EVALUATION
from drift_data.workspace import Output, UserError, Workspace
from drift_train.evaluate.gold import summary
from drift_train.methods.examples import TRAIN_SPLIT
from drift_train.models.load import free_memory, load_model, load_renderer
from drift_train.models.log_probs import log_probs
from drift_train.models.render import RenderError

TokenizedPair = tuple[list[int], list[int], list[int]]  # tokens of prompt, chosen, rejected


def write_margins(
    output: Output,
    workspace: Workspace,
    policy: Path,
    base: Path,
    beta: float,
    max_length: int,
    title: str,
) -> None:
    """Write the margins of a policy against the base on the held-out rows of `seed`, and their figures.

    Args:
        output: of the stage that makes `heldout`.
        workspace: holds `seed`.
        policy: model folder that is measured.
        base: model folder that the margins are measured against.
        beta: DPO's.
        max_length: longer pairs are dropped, in tokens.
        title: of the progress bars.

    Raises:
        UserError: `seed` has no row of another split than train.
    """
    rows = [row for row in workspace.read("seed").to_pylist() if row["split"] != TRAIN_SPLIT]
    if not rows:
        raise UserError(
            f"{workspace.path('seed')} has no held-out row. Raise the mining option test_fraction and "
            "mine again."
        )
    renderer = load_renderer(policy)
    tokens: list[TokenizedPair] = []
    kept = []
    for row in rows:
        key = {"conversation_id": row["conversation_id"], "turn": row["turn"]}
        try:
            prompt, chosen = renderer.pair(row["prompt"], row["chosen"][0]["content"])
            _, rejected = renderer.pair(row["prompt"], row["rejected"][0]["content"])
        except RenderError as error:
            output.drop([{**key, "reason": error.reason, "detail": error.detail}], DROPPED)
            continue
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            output.drop([{**key, "reason": "completion_cut", "detail": f"beyond {max_length}"}], DROPPED)
            continue
        tokens.append((prompt, chosen, rejected))
        kept.append(row)
    ours, theirs = _scores(policy, tokens, title), _scores(base, tokens, f"{title}: base")
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
            "margin": summary(margins),
            "accuracy": summary([float(m > 0) for m in margins]),
        }


def _scores(folder: Path, rows: list[TokenizedPair], title: str) -> list[float]:
    """Return log π(chosen) − log π(rejected) for each row, summed in float64.

    In float32 on a GPU, too: bfloat16 weights round most of what an iteration changed away.
    """
    model = load_model(folder, torch.float32)
    scores = []
    for prompt, chosen, rejected in tqdm(rows, desc=title, unit="pair", mininterval=0.5):
        better, worse = (log_probs(model, prompt, reply).double().sum() for reply in (chosen, rejected))
        scores.append(float(better - worse))
    del model
    free_memory()
    return scores
