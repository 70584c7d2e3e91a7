"""One process of a training under `accelerate launch`: reads a job, trains, and leaves a result or an error beside it.

Run by `launch`, once a device.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from drift_data.workspace import replaced_file
from drift_train.dpo.launch import ERRORS, FOLDERS, PAIRS, RESULT
from drift_train.options import TrainOptions


def main(job: Path) -> int:
    """Train as the job says; return the exit code."""
    described = json.loads(job.read_text())
    _end_with(described["parent"])
    rank = int(os.environ.get("RANK", "0"))
    try:
        from drift_train.dpo.train import train_here

        result = train_here(**_arguments(job.parent, described["arguments"]))
    except tuple(ERRORS.values()) as error:
        _write(job.parent / f"error-{rank}.json", {"kind": type(error).__name__, "message": str(error)})
        return 1
    if rank == 0:
        _write(job.parent / RESULT, result)
    return 0


def _arguments(folder: Path, described: dict[str, Any]) -> dict[str, Any]:
    with (folder / PAIRS).open() as file:
        pairs = [json.loads(line) for line in file]
    paths = {name: described[name] and Path(described[name]) for name in FOLDERS}
    return {
        **described,
        **paths,
        "pairs": pairs,
        "options": TrainOptions.model_validate(described["options"]),
    }


def _end_with(parent: dict[str, Any]) -> None:
    """Leave when the run that started this is gone: a killed run must not keep its GPUs, nor write checkpoints."""
    if parent["host"] != os.uname().nodename:
        return

    def watch() -> None:
        while psutil.pid_exists(parent["pid"]):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all: another process reads it, perhaps after this one was ended."""
    with replaced_file(path) as part:
        part.write_text(json.dumps(content))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
