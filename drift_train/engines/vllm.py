"""Runs vLLM in a fresh process for one batch of requests, and ends it: weights are never reloaded in place.

The child (`vllm_worker`) writes its chatter to a log file and its replies to a job folder beside it. Knows the
files that the two exchange; the sampling itself is vLLM's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from drift_train.checks import CheckError, check_prompt_tokens
from drift_train.options import SamplingOptions
from drift_train.rollout import EngineStartError, Reply, Request

QUIET = {  # of the child: no usage statistics, no look at the Hub, no log lines between the progress bars
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
ENGINE = "engine.json"  # written by the child once the engine is up


class VllmEngine:
    """`LLM.chat` in a child process that lives for one call of `sample`."""

    name = "vllm"

    def __init__(self, policy: Path, stop: Sequence[int], log_folder: Path, title: str) -> None:
        self.policy, self.stop, self.title = policy, list(stop), title
        self.log = log_folder / f"{title.replace(' ', '-')}-vllm.log"
        self.job = self.log.with_suffix(".job")  # beside the log: conversations do not belong into /tmp
        self.dtype: torch.dtype = torch.float32  # until the child says what it took

    def sample(self, requests: Sequence[Request], options: SamplingOptions) -> list[Reply]:
        """Start the engine, sample, compare the prompts' tokens with ours, end the engine."""
        folder = self.job
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(parents=True)
        try:
            self._write_job(folder, requests, options)
            code = self._run(folder)
            if not (folder / ENGINE).is_file():
                raise EngineStartError(
                    f"vllm did not start (exit code {code}): {_last_line(self.log)}; its log is {self.log}"
                )
            if code != 0:
                raise CheckError(
                    f"The vllm engine died with exit code {code} while sampling ({_last_line(self.log)}). "
                    f"Its log is {self.log}. Run again, or sample with engine: transformers."
                )
            self.dtype = getattr(torch, json.loads((folder / ENGINE).read_text())["dtype"])
            return self._replies(folder, requests)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_job(self, folder: Path, requests: Sequence[Request], options: SamplingOptions) -> None:
        job = {
            "model": str(self.policy.resolve()),
            "title": self.title,
            "parent": os.getpid(),
            "stop_token_ids": self.stop,
            "max_model_len": options.max_prompt_tokens + options.max_new_tokens,
            "llm": options.vllm,
            "sampling": {
                "temperature": options.temperature,
                "top_p": options.top_p,
                "max_tokens": options.max_new_tokens,
            },
        }
        (folder / "job.json").write_text(json.dumps(job))
        with (folder / "requests.jsonl").open("w") as file:
            for r in requests:
                messages = [{"role": m["role"], "content": m["content"]} for m in r.messages]
                file.write(json.dumps({"key": r.key, "messages": messages, "seed": r.seed}) + "\n")

    def _run(self, folder: Path) -> int:
        """Run the child to its end, whatever happens to us, and return its exit code."""
        root = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, **QUIET}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        progress = os.dup(2)
        try:
            with self.log.open("w") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", "drift_train.engines.vllm_worker", str(folder), str(progress)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(progress,),
                )
                try:
                    return child.wait()
                finally:
                    if child.poll() is None:
                        end_process(child.pid)
                        child.wait()
        finally:
            os.close(progress)

    def _replies(self, folder: Path, requests: Sequence[Request]) -> list[Reply]:
        ours = {request.key: request.prompt_ids for request in requests}
        replies = []
        with (folder / "replies.jsonl").open() as file:
            for row in map(json.loads, file):
                check_prompt_tokens(self.name, ours[row["key"]], row["prompt_ids"])
                replies.append(Reply(row["key"], row["token_ids"], row["finish_reason"], row["log_probs"]))
        return replies


def end_process(pid: int) -> None:
    """Kill a process and all that it started: on a GPU vllm computes in processes of its own."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def _last_line(log: Path) -> str:
    """Return the last line of a log that says something, at most 300 characters of it."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word in its log"
