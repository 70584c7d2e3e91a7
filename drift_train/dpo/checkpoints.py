"""Where a training that was killed goes on: its newest whole checkpoint, with the metrics up to it.

Knows the files; what is in a checkpoint is transformers' business.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

# File in a checkpoint's folder, written last: without it the checkpoint may be half there. It says how the weights lie
# there and were computed with: a run that has them otherwise cannot read them, or would mix precisions.
COMPLETE = "complete"


def mark_complete(checkpoint: Path, how: str) -> None:
    """Say that a checkpoint is all there, and of which kind."""
    (checkpoint / COMPLETE).write_text(how)


def step_of(checkpoint: Path) -> int:
    """Return the step that a folder like `checkpoint-200` was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def partial_of(metrics: Path) -> Path:
    """Return where the metrics are until the model is saved, and beside checkpoints until both are removed."""
    return metrics.with_suffix(".partial.jsonl")


def resume_point(folder: Path, metrics: Path, how: str) -> tuple[Path | None, list[dict[str, Any]]]:
    """Find the newest checkpoint that is whole and whose steps are all in the metrics.

    Args:
        folder: with `checkpoint-<step>` folders; need not exist.
        metrics: JSONL of the run that was cut; need not exist.
        how: this run has its weights; it takes such checkpoints only.

    Returns:
        The checkpoint and the metrics' rows up to it; (None, []) when training has to start from the beginning.
    """
    rows = _rows(metrics)
    complete = sorted((path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")), key=step_of)
    for checkpoint in reversed(complete):
        written = (checkpoint / COMPLETE).read_text()
        if written != how:
            print(
                f"{checkpoint.name} cannot be gone on from: it has {written}, this run {how} (train.launch, "
                "train.precision).",
                file=sys.stderr,
            )
            continue
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
