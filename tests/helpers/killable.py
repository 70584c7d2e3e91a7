"""The `drift` command in processes of its own, killed with SIGKILL at a step that the process itself reaches.

What a killed process leaves are its files, and files change by few steps: a folder is made, a file is opened for
writing, a table is about to be closed (its rows are written, its footer is not), something is renamed. A process
counts these steps in its workspace as it takes them, so a kill hits the same moment on a quiet machine and on a busy
one: between two steps there is nothing more to hit.

The processes are forked from one that has imported the libraries, so that none of them does this again.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")  # its children have used no thread yet
SERVER.set_forkserver_preload(
    [
        *("pipelines.__main__", "drift_train.loop", "drift_train.dpo.train", "transformers.models.qwen2"),
        *("drift_train.rollout.sampler", "drift_train.evaluate.heldout", "polars", "duckdb", "sklearn"),
        *("matplotlib.backends.backend_svg", "tests.helpers.killable", "tests.helpers.dpo_kills"),
    ]
)

_WRITING = os.O_WRONLY | os.O_RDWR
_RANDOM = re.compile(r"/(\.trl-|\.rehearsal-|tmp)[^/]*")  # names that tempfile makes


@dataclass(frozen=True)
class Step:
    """Something that a process does in its workspace.

    Attributes:
        action: "open", "os.mkdir", "os.rename" (to `path`) or "close" (of the table in `path`).
        path: relative to the workspace.
        done: the process dies when the step is done, not before it.
    """

    action: str
    path: str
    done: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.done else 'before'} {self.action} {self.path}"


def start(
    work: Path,
    target: Callable[..., Any],
    arguments: Sequence[Any],
    kill: Step | None = None,
    steps: Path | None = None,
) -> int | None:
    """Call a function in a forked process with a group of its own, and wait for its end.

    Args:
        work: the workspace whose steps count.
        target: ends the process by `sys.exit` where an exit code matters.
        arguments: of the function.
        kill: SIGKILLs its process group at this step.
        steps: file to append the process's steps to.

    Returns:
        The exit code; -SIGKILL when the step was reached.
    """
    process = begin(work, target, arguments, kill, steps)
    process.join()
    return process.exitcode


def begin(
    work: Path,
    target: Callable[..., Any],
    arguments: Sequence[Any],
    kill: Step | None = None,
    steps: Path | None = None,
) -> multiprocessing.process.BaseProcess:
    """Do as `start`, and wait for nothing."""
    process = SERVER.Process(target=_run, args=(work.resolve(), target, arguments, kill, steps))
    process.start()
    return process


def begin_drift(work: Path, *arguments: str, **moments: Any) -> multiprocessing.process.BaseProcess:
    """Start the `drift` command; its output goes to a log beside the workspace."""
    return begin(work, _command, ([*arguments, "--work", str(work)], _log_of(work)), **moments)


def drift(work: Path, *arguments: str, kill: Step | None = None, steps: Path | None = None) -> None:
    """Run the `drift` command, which must succeed, or die at the step `kill` when there is one."""
    process = begin_drift(work, *arguments, kill=kill, steps=steps)
    process.join()
    said = (
        f"drift {' '.join(arguments)}: exit code {process.exitcode}, kill {kill}\n{_log_of(work).read_text()}"
    )
    assert process.exitcode == (0 if kill is None else -signal.SIGKILL), said


def read_steps(path: Path) -> list[Step]:
    """Return the steps that were taken once: the others are no moment in time."""
    steps = [Step(*line.split("\t")) for line in path.read_text().splitlines()]
    times = Counter(steps)
    return [step for step in steps if times[step] == 1]


def spread(steps: Sequence[Step], number: int) -> list[Step]:
    """Return so many moments in their order, or all: before the first step, between, and after the last."""
    moments = [*steps, replace(steps[-1], done=True)]
    number = min(number, len(moments))
    return [moments[round(k * (len(moments) - 1) / (number - 1))] for k in range(number)]


def _log_of(work: Path) -> Path:
    return work.parent / f"{work.name}.log"


def _command(arguments: list[str], log: Path) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pipelines.__main__ import main

    sys.argv = ["drift", *arguments]
    sys.exit(main())


def _run(
    work: Path, target: Callable[..., Any], arguments: Sequence[Any], kill: Step | None, steps: Path | None
) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    os.setpgrp()
    gc.freeze()  # what was imported is no garbage: a collection need not look through it each time
    # One thread: with several, on busy cores, replies of equal weights and seeds were seen to differ.
    torch.set_num_threads(1)
    threadpool_limits(1)
    watch = _Watch(work, kill, steps)
    try:
        target(*arguments)
    finally:
        watch.die_when_due()


class _Watch:
    """Writes down each step in the workspace before it is taken, and dies at `kill`; for the life of the process."""

    def __init__(self, work: Path, kill: Step | None, steps: Path | None) -> None:
        from drift_data.workspace.table import TableWriter

        self._work, self._kill, self._due = work, kill, False
        self._trace = os.open(steps, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if steps else None
        close = TableWriter.close

        def close_noted(writer: TableWriter) -> None:
            self._step("close", str(writer.folder))
            close(writer)

        setattr(TableWriter, "close", close_noted)  # noqa: B010
        sys.addaudithook(self._hook)

    def die_when_due(self) -> None:
        """Die when the step after which the process is to die was taken."""
        if self._due:
            os.killpg(0, signal.SIGKILL)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            self.die_when_due()
            if isinstance(arguments[0], str) and arguments[2] & _WRITING:
                self._step(event, arguments[0])
        elif event in ("os.mkdir", "os.rename"):
            self.die_when_due()
            self._step(event, os.fsdecode(arguments[event == "os.rename"]))

    def _step(self, action: str, path: str) -> None:
        place = Path(os.path.normpath(Path.cwd() / path))
        if not place.is_relative_to(self._work):
            return
        name = str(place.relative_to(self._work))
        if self._trace is not None and not _RANDOM.search(f"/{name}"):
            os.write(self._trace, f"{action}\t{name}\n".encode())
        if self._kill is not None and (action, name) == (self._kill.action, self._kill.path):
            self._due = True
            if not self._kill.done:
                self.die_when_due()
