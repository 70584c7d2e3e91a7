"""Trainings of a tiny policy on a few pairs, and what came out of them."""

import json
from pathlib import Path
from typing import Any

from drift_train.dpo import train as dpo
from drift_train.models.load import load_renderer
from drift_train.options import TrainOptions
from tests.helpers.training_rows import assistant, user

OPTIONS = TrainOptions(
    learning_rate=1e-4, global_batch=4, per_device_batch=2, max_length=128, gradient_checkpointing=False
)


def make_pairs(policy: Path, count: int = 12) -> list[dict[str, Any]]:
    renderer = load_renderer(policy)
    rows = []
    for i in range(count):
        prompt, chosen, rejected = (
            user(f"please list {i}"),
            "apple pear " * (1 + i % 3),
            "blue fish " * (1 + i % 2),
        )
        rows.append(
            {
                "prompt": prompt,
                "chosen": assistant(chosen),
                "rejected": assistant(rejected),
                "conversation_id": f"c{i}",
                "turn": 2,
                "split": "train",
                "chosen_tokens": len(renderer.render_pair(prompt, chosen)[1]),
                "rejected_tokens": len(renderer.render_pair(prompt, rejected)[1]),
            }
        )
    return rows


def train(
    policy: Path, target: Path, pairs: list[dict[str, Any]], options: TrainOptions = OPTIONS, **changes: Any
) -> list[dict[str, Any]]:
    """Train and return the metrics, a row a step."""
    metrics = target.parent / f"{target.name}.jsonl"
    arguments: dict[str, Any] = {
        "reference": policy,
        "iteration": 1,
        "method": "drift",
        "title": "t",
        **changes,
    }
    dpo.train(policy, pairs=pairs, target=target, metrics=metrics, options=options, **arguments)
    return [json.loads(line) for line in metrics.read_text().splitlines()]
