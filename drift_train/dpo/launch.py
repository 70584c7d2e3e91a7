"""Runs a training in processes of its own under `accelerate launch`: on several devices, or on several machines.

The loop stays one process. It writes a job folder for the children (`dpo.worker`), and they leave a result or an error
there. What the children print goes to a log beside the metrics.
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

SHIPPED_CONFIGS = Path(__file__).with_name("accelerate")  # accelerate configurations, a file each
JOB_FILE, PAIRS_FILE, RESULT_FILE = "job.json", "pairs.jsonl", "result.json"
_ROOT = str(Path(__file__).resolve().parents[2])  # the children import `drift_train` from here
# Name of an error → the exception that a child hands over and `launch_training` raises again.
ERROR_KINDS: dict[str, type[Exception]] = {"UserError": UserError, "CheckError": CheckError}
# Arguments of `train_here` that are paths.
PATH_ARGUMENTS = ("policy", "reference", "target", "metrics", "unfinished")


class LaunchError(Exception):
    """The processes of a training ended without leaving a result or an error."""


def launch_training(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run `dpo.train.train_here` with these arguments in the processes that `options.launch` describes.

    Args:
        arguments: those of `train_here`. `options.launch` is the name of a shipped configuration or a file, and
            after it further arguments of `accelerate launch`.

    Returns:
        What `train_here` returned in the first process.

    Raises:
        UserError: there is no such configuration, or a child raised a UserError.
        CheckError: a child raised a CheckError.
        LaunchError: the children ended for another reason; the message names their log.
    """
    config, further = find_configuration(arguments["options"].launch)
    title, target = arguments["title"], arguments["target"]
    log = arguments["metrics"].with_suffix(".launch.log")
    # The children need a folder `unfinished` even where the caller keeps none.
    shared = tempfile.TemporaryDirectory(prefix=".launch-", dir=target.parent)
    unfinished = arguments["unfinished"] or Path(shared.name)
    folder = unfinished.resolve() / "launch"  # an absolute path, since other machines read it as well
    try:
        job = write_job(folder, {**arguments, "unfinished": unfinished})
        command = [*_build_command(config, further), "-m", "drift_train.dpo.worker", str(job)]
        if _count_machines(config, further) > 1:
            print(
                f"{title}: on every other machine run, with its --machine_rank:\n"
                f"  PYTHONPATH={shlex.quote(_ROOT)} {shlex.join(command)}",
                file=sys.stderr,
            )
        code = _run_to_end(command, log)
        return _read_result(folder, code, log, title)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shared.cleanup()


def find_configuration(text: str) -> tuple[Path, list[str]]:
    """Return the accelerate configuration that the option `launch` names, and the arguments after it.

    Raises:
        UserError: there is no such configuration.
    """
    name, *further = shlex.split(text) or [""]
    for path in (SHIPPED_CONFIGS / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path.resolve(), further
    names = ", ".join(sorted(path.stem for path in SHIPPED_CONFIGS.glob("*.yaml")))
    raise UserError(
        f"launch: {name!r} is neither a file nor one of {names}. `accelerate config` writes such a file."
    )


def write_job(folder: Path, arguments: Mapping[str, Any]) -> Path:
    """Write what the children need into a folder, emptied before, and return the job's file."""
    shutil.rmtree(folder, ignore_errors=True)  # a killed run may have left it
    folder.mkdir(parents=True)
    with (folder / PAIRS_FILE).open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in arguments["pairs"])
    plain = {
        name: value for name, value in arguments.items() if name not in ("pairs", "options", *PATH_ARGUMENTS)
    }
    folders = {name: arguments[name] and str(arguments[name].resolve()) for name in PATH_ARGUMENTS}
    options = arguments["options"].model_dump(mode="json", exclude={"launch"})
    job = {**plain, **folders, "options": options}
    parent = {"pid": os.getpid(), "host": os.uname().nodename}
    (folder / JOB_FILE).write_text(json.dumps({"arguments": job, "parent": parent}))
    return folder / JOB_FILE


def _build_command(config: Path, further: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *further]


def _count_machines(config: Path, further: Sequence[str]) -> int:
    import yaml

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--num_machines", "--num-machines", type=int)  # or with "=", as accelerate takes it
    asked, _ = parser.parse_known_args(further)
    if asked.num_machines is not None:
        return int(asked.num_machines)
    return int(yaml.safe_load(config.read_text()).get("num_machines", 1))


def _run_to_end(command: Sequence[str], log: Path) -> int:
    """Run a command and return its exit code; end it, with all it started, when this process is interrupted."""
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


def _read_result(folder: Path, code: int, log: Path, title: str) -> dict[str, Any]:
    for path in sorted(folder.glob("error-*.json")):
        error = json.loads(path.read_text())
        raise ERROR_KINDS[error["kind"]](error["message"])
    if code == 0 and (folder / RESULT_FILE).is_file():
        log.unlink()
        return dict(json.loads((folder / RESULT_FILE).read_text()))
    raise LaunchError(
        f"{title}: the training processes ended with exit code {code} and without a result. Their log is {log}. Run "
        "again to go on from the last checkpoint."
    )
