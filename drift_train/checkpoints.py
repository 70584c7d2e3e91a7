"""Where a training that was killed goes on: its newest whole checkpoint, with the metrics up to it.

Knows the files; what is in a checkpoint is transformers' business.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

COMPLETE = (
    "complete"  # file in a checkpoint's folder, written last: without it the checkpoint may be half there
)


def step_of(checkpoint: Path) -> int:
    """Return the step that a folder like `checkpoint-200` was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def partial_of(metrics: Path) -> Path:
    """Return where the metrics are until the model is saved, and beside checkpoints until both are removed."""
    return metrics.with_suffix(".partial.jsonl")


def resume_point(folder: Path, metrics: Path) -> tuple[Path | None, list[dict[str, Any]]]:
    """Find the newest checkpoint that is whole and whose steps are all in the metrics.

    Args:
        folder: with `checkpoint-<step>` folders; need not exist.
        metrics: JSONL of the run that was cut; need not exist.

    Returns:
        The checkpoint and the metrics' rows up to it; (None, []) when training has to start from the beginning.
    """
    rows = _rows(metrics)
    whole = sorted((path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")), key=step_of)
    for checkpoint in reversed(whole):
        step = step_of(checkpoint)
        if [row.get("step") for row in rows[:step]] == list(range(1, step + 1)):
            return checkpoint, rows[:step]
    return None, []


def remove_broken(folder: Path, kept: Path | None) -> None:
    """Remove every checkpoint but the one to go on from: half-written ones, and those after it."""
    for path in folder.glob("checkpoint-*"):
        if path != kept:
            shutil.rmtree(path)


def _rows(metrics: Path) -> list[dict[str, Any]]:
    """Read rows up to the first that is not whole: the last line may be cut."""
    rows: list[dict[str, Any]] = []
    if metrics.is_file():
        for line in metrics.read_text(errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
