"""A training in a forked process of its own, which may arrange for its end."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drift_data.workspace import hash_file
from drift_train.dpo import train as dpo
from drift_train.options import TrainOptions
from tests.helpers.dpo_runs import make_pairs

TIMING = {"tokens_per_second", "peak_memory_bytes"}


def run(policy: Path, folder: Path, options: TrainOptions, kill: Callable[[], None] | None) -> None:
    """Train in this process, after arranging for its end."""
    os.setpgrp()
    gc.freeze()  # what was imported is no garbage
    if kill is not None:
        kill()
    dpo.train(
        policy,
        policy,
        make_pairs(policy),
        folder / "model",
        folder / "metrics.jsonl",
        options,
        iteration=1,
        method="drift",
        title="t",
        unfinished=folder / "unfinished",
    )


def outcome(folder: Path) -> tuple[list[dict[str, Any]], str]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows], hash_file(
        folder / "model" / "model.safetensors"
    )
