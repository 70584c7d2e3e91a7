"""Runs a training in processes of its own under `accelerate launch`: several devices, or several machines.

The loop stays one process. A job folder goes to the children (`dpo.worker`), a result or an error comes back in it;
what they print goes to a log beside it. Knows the files, and accelerate's command line; nothing of DPO.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drift_data.machine import end_process
from drift_data.workspace import UserError
from drift_train.models.log_probs import CheckError

SHIPPED = Path(__file__).with_name("accelerate")  # configurations, by name
JOB, PAIRS, RESULT = "job.json", "pairs.jsonl", "result.json"
_ROOT = str(Path(__file__).resolve().parents[2])  # where the children find `drift_train`
ERRORS: dict[str, type[Exception]] = {"UserError": UserError, "CheckError": CheckError}
FOLDERS = ("policy", "reference", "target", "metrics", "unfinished")


class LaunchError(Exception):
    """The processes of a training ended without a result and without a word of what was wrong."""


def launch(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run `dpo.train_here` with these arguments in the processes that `options.launch` describes.

    Args:
        arguments: of `train_here`; `options.launch` is a shipped configuration's name or a file, and further
            arguments of `accelerate launch` after it.

    Returns:
        What `train_here` returned in the first process.

    Raises:
        UserError: there is no such configuration, or a child raised one.
        CheckError: a child raised one.
        LaunchError: the children died of something else; the message names their log.
    """
    config, further = configuration(arguments["options"].launch)
    title, target = arguments["title"], arguments["target"]
    log = arguments["metrics"].with_suffix(".launch.log")
    shared = tempfile.TemporaryDirectory(
        prefix=".launch-", dir=target.parent
    )  # the children need one in any case
    unfinished = arguments["unfinished"] or Path(shared.name)
    folder = unfinished.resolve() / "launch"  # other machines read it, too
    try:
        job = write_job(folder, {**arguments, "unfinished": unfinished})
        command = [*_accelerate(config, further), "-m", "drift_train.dpo.worker", str(job)]
        if _machines(config, further) > 1:
            print(
                f"{title}: on every other machine run, with its --machine_rank:\n"
                f"  PYTHONPATH={shlex.quote(_ROOT)} {shlex.join(command)}",
                file=sys.stderr,
            )
        code = _run(command, log)
        return _result(folder, code, log, title)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shared.cleanup()


def configuration(text: str) -> tuple[Path, list[str]]:
    """Return the accelerate configuration that a `launch` option names, and the arguments after it.

    Raises:
        UserError: there is no such configuration.
    """
    name, *further = shlex.split(text) or [""]
    for path in (SHIPPED / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path.resolve(), further
    names = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
    raise UserError(
        f"launch: {name!r} is neither a file nor one of {names}. `accelerate config` writes such a file."
    )


def write_job(folder: Path, arguments: Mapping[str, Any]) -> Path:
    """Write what the children need into an empty folder, and return the job's file."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    with (folder / PAIRS).open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in arguments["pairs"])
    plain = {name: value for name, value in arguments.items() if name not in ("pairs", "options", *FOLDERS)}
    folders = {name: arguments[name] and str(arguments[name].resolve()) for name in FOLDERS}
    options = arguments["options"].model_dump(mode="json", exclude={"launch"})
    job = {**plain, **folders, "options": options}
    parent = {"pid": os.getpid(), "host": os.uname().nodename}
    (folder / JOB).write_text(json.dumps({"arguments": job, "parent": parent}))
    return folder / JOB


def _accelerate(config: Path, further: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *further]


def _machines(config: Path, further: Sequence[str]) -> int:
    import yaml

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--num_machines", "--num-machines", type=int)  # or with "=", as accelerate takes it
    asked, _ = parser.parse_known_args(further)
    if asked.num_machines is not None:
        return int(asked.num_machines)
    return int(yaml.safe_load(config.read_text()).get("num_machines", 1))


def _run(command: Sequence[str], log: Path) -> int:
    """Run to the end, whatever happens to us, and return the exit code."""
    environment = {**os.environ, "DRIFT_PROGRESS": f"/proc/{os.getpid()}/fd/2"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                end_process(child.pid)
                child.wait()


def _result(folder: Path, code: int, log: Path, title: str) -> dict[str, Any]:
    for path in sorted(folder.glob("error-*.json")):
        error = json.loads(path.read_text())
        raise ERRORS[error["kind"]](error["message"])
    if code == 0 and (folder / RESULT).is_file():
        log.unlink()
        return dict(json.loads((folder / RESULT).read_text()))
    raise LaunchError(
        f"{title}: the training processes ended with exit code {code} and without a result. Their log is {log}. Run "
        "again to go on from the last checkpoint."
    )
