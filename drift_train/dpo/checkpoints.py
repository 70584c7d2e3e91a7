"""Finds where a killed training goes on: at its newest whole checkpoint, with the metrics up to it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

# File in a checkpoint's folder, written last: without it the checkpoint may be incomplete. Its text records the weight
# layout (whole or sharded) and the training precision. A run resumes only from a checkpoint with the same two.
COMPLETE_MARK = "complete"


def mark_complete(checkpoint: Path, how: str) -> None:
    """Mark a checkpoint as complete; `how` is its weight layout and precision."""
    (checkpoint / COMPLETE_MARK).write_text(how)


def parse_step(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written: 200 for a folder `checkpoint-200`."""
    return int(checkpoint.name.rpartition("-")[2])


def partial_metrics_path(metrics: Path) -> Path:
    """Return the file that holds the metrics until the model is saved, and beside checkpoints until these are removed."""
    return metrics.with_suffix(".partial.jsonl")


def find_resume_point(folder: Path, metrics: Path, how: str) -> tuple[Path | None, list[dict[str, Any]]]:
    """Return the newest complete checkpoint whose steps are all in the metrics, and the metrics up to it.

    Args:
        folder: holds `checkpoint-<step>` folders; it may be missing.
        metrics: JSON Lines file of the killed run; it may be missing.
        how: weight layout and precision of this run; checkpoints of another kind are passed over, and a
            line on stderr says so.

    Returns:
        The checkpoint and its rows of metrics; (None, []) when training has to start from the beginning.
    """
    rows = _read_whole_rows(metrics)
    complete = sorted((path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE_MARK}")), key=parse_step)
    for checkpoint in reversed(complete):
        written = (checkpoint / COMPLETE_MARK).read_text()
        if written != how:
            print(
                f"Training cannot resume from {checkpoint.name}: it has {written}, this run {how} "
                "(options train.launch and train.precision).",
                file=sys.stderr,
            )
            continue
        step = parse_step(checkpoint)
        if [row.get("step") for row in rows[:step]] == list(range(1, step + 1)):
            return checkpoint, rows[:step]
    return None, []


def remove_broken(folder: Path, kept: Path | None) -> None:
    """Remove every checkpoint but the one to resume from: incomplete ones, and later ones."""
    for path in folder.glob("checkpoint-*"):
        if path != kept:
            shutil.rmtree(path)


def _read_whole_rows(metrics: Path) -> list[dict[str, Any]]:
    """Return the rows up to the first one that is not whole JSON: the last line may be cut."""
    rows: list[dict[str, Any]] = []
    if metrics.is_file():
        for line in metrics.read_text(errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
