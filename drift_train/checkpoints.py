"""Where a training that was killed goes on: its newest whole checkpoint, with the metrics up to it.

Knows the files; what is in a checkpoint is transformers' business.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

# File in a checkpoint's folder, written last: without it the checkpoint may be half there. It says whether the weights
# lie there in parts, as FSDP and DeepSpeed write them, or whole: the one way cannot read the other.
COMPLETE = "complete"
_IN_PARTS, _WHOLE = "in parts", "whole"


def mark_complete(checkpoint: Path, *, in_parts: bool) -> None:
    """Say that a checkpoint is all there."""
    (checkpoint / COMPLETE).write_text(_IN_PARTS if in_parts else _WHOLE)


def step_of(checkpoint: Path) -> int:
    """Return the step that a folder like `checkpoint-200` was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def partial_of(metrics: Path) -> Path:
    """Return where the metrics are until the model is saved, and beside checkpoints until both are removed."""
    return metrics.with_suffix(".partial.jsonl")


def resume_point(folder: Path, metrics: Path, *, in_parts: bool) -> tuple[Path | None, list[dict[str, Any]]]:
    """Find the newest checkpoint that is whole and whose steps are all in the metrics.

    Args:
        folder: with `checkpoint-<step>` folders; need not exist.
        metrics: JSONL of the run that was cut; need not exist.
        in_parts: this run's weights are split over devices; it takes such checkpoints only.

    Returns:
        The checkpoint and the metrics' rows up to it; (None, []) when training has to start from the beginning.
    """
    rows = _rows(metrics)
    complete = sorted((path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")), key=step_of)
    for checkpoint in reversed(complete):
        if ((checkpoint / COMPLETE).read_text() == _IN_PARTS) != in_parts:
            print(
                f"{checkpoint.name} cannot be gone on from: it was written {'without' if in_parts else 'with'} FSDP or "
                f"DeepSpeed and this run is {'with' if in_parts else 'without'} them (train.launch).",
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
