"""Runs one process of a training under `accelerate launch`: reads a job, trains, and leaves a result or an error.

`dpo.launch` starts a process for each device, and finds result and error beside the job.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil

from drift_data.machine import leave_with_parent
from drift_data.workspace import replace_file
from drift_train.dpo.launch import ERROR_KINDS, PAIRS_FILE, PATH_ARGUMENTS, RESULT_FILE
from drift_train.options import TrainOptions


def main(job: Path) -> int:
    """Train as the job says; return the exit code."""
    described = json.loads(job.read_text())
    _end_with_parent(described["parent"])
    rank = int(os.environ.get("RANK", "0"))
    try:
        from drift_train.dpo.train import train_here

        result = train_here(**_read_arguments(job.parent, described["arguments"]))
    except tuple(ERROR_KINDS.values()) as error:
        _write_json(job.parent / f"error-{rank}.json", {"kind": type(error).__name__, "message": str(error)})
        return 1
    if rank == 0:
        _write_json(job.parent / RESULT_FILE, result)
    return 0


def _read_arguments(folder: Path, described: dict[str, Any]) -> dict[str, Any]:
    with (folder / PAIRS_FILE).open() as file:
        pairs = [json.loads(line) for line in file]
    paths = {name: described[name] and Path(described[name]) for name in PATH_ARGUMENTS}
    return {
        **described,
        **paths,
        "pairs": pairs,
        "options": TrainOptions.model_validate(described["options"]),
    }


def _end_with_parent(parent: dict[str, Any]) -> None:
    """End this process when the run that started it is gone, so that it does not go on writing checkpoints.

    A process on another machine than the run (`host`) cannot see the run, and stays.
    """
    if parent["host"] == os.uname().nodename:
        leave_with_parent(lambda: psutil.pid_exists(parent["pid"]), lambda: os._exit(1))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all: another process reads it, perhaps after this one has been killed."""
    with replace_file(path) as part:
        part.write_text(json.dumps(content))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
