"""Runs vLLM in a fresh process for the shards of one policy, and ends it: weights are never reloaded in place.

The child (`vllm_worker`) writes its chatter to a log file and the replies to a job folder beside it, and says on a
pipe what it has done. Knows what the two exchange; the sampling itself is vLLM's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from drift_data.machine import end_process
from drift_train.models.log_probs import CheckError
from drift_train.options import PolicySamplingOptions
from drift_train.rollout.engine import EngineError, EngineReply, EngineStartError, SampleRequest
from drift_train.rollout.recheck import check_prompt_tokens

QUIET = {  # of the child: no usage statistics, no look at the Hub, no log lines between the progress bars
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
# What the child says on the pipe: the precision once the engine is up, then of each shard how many replies have come,
# and its number when they are written.
UP, REPLIES, DONE = "up", "replies", "done"
_PATIENCE = 60.0  # seconds that the child may take to leave
_LESS = "samples that run at once: rollout.vllm.max_num_seqs"
_SPLIT = "spread it over more GPUs by rollout.vllm.tensor_parallel_size"
# What vllm says when memory is short, and which of our options helps.
_KNOBS = {
    "less than desired GPU memory utilization": "Something else holds memory of this GPU: end it, or lower "
    "rollout.vllm.gpu_memory_utilization (0.9 unless set).",
    "No available memory for the cache blocks": "The weights leave no room: raise rollout.vllm.gpu_memory_utilization, "
    f"or {_SPLIT}.",
    "larger than the available KV cache": "Lower rollout.max_prompt_tokens or rollout.max_new_tokens, whose sum vllm "
    f"must hold, raise rollout.vllm.gpu_memory_utilization, or {_SPLIT}; on a CPU raise $VLLM_CPU_KVCACHE_SPACE (GB).",
    "out of memory": f"Lower rollout.vllm.gpu_memory_utilization, or the number of {_LESS}; or {_SPLIT}.",
}
_LINE = 400  # characters shown of a log line


class VllmEngine:
    """`LLM.chat` in a child process that lives for one policy.

    Args:
        policy: folder of the model.
        stop: tokens that end a reply.
        options: sampling, and further arguments of `vllm.LLM`.
        log_folder: where the child's log goes.
        title: names the log.
        progress: is told how many replies came.
    """

    name = "vllm"

    def __init__(
        self,
        policy: Path,
        stop: Sequence[int],
        options: PolicySamplingOptions,
        log_folder: Path,
        title: str,
        progress: Callable[[int], Any],
    ) -> None:
        self._policy, self._stop_ids, self._options, self._progress = policy, list(stop), options, progress
        self._log = log_folder / f"{title.replace(' ', '-')}-vllm.log"
        self._job = self._log.with_suffix(".job")  # beside the log: conversations do not belong into /tmp
        self._waiting: deque[tuple[int, Sequence[SampleRequest]]] = deque()
        self._submitted, self._up = 0, False
        self._child: subprocess.Popen[str] | None = None
        self._said: TextIO | None = None
        self.precision = "float32"  # until the child says what it took
        self.remarks: dict[str, Any] = {}

    def start(self) -> None:
        """Start the child and wait until its engine is up."""
        shutil.rmtree(self._job, ignore_errors=True)  # of a run that was killed
        self._job.mkdir(parents=True)
        job = {
            "model": str(self._policy.resolve()),
            "parent": os.getpid(),
            "stop_token_ids": self._stop_ids,
            "max_model_len": self._options.max_prompt_tokens + self._options.max_new_tokens,
            "llm": self._options.vllm,
            "sampling": {
                "temperature": self._options.temperature,
                "top_p": self._options.top_p,
                "max_tokens": self._options.max_new_tokens,
            },
        }
        (self._job / "job.json").write_text(json.dumps(job))
        self._spawn()
        word, *precision = self._next_word()
        if word != UP:
            raise EngineStartError(f"vllm did not start ({self._why_dead()}); its log is {self._log}")
        (self.precision,) = precision
        self._up = True

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Hand a shard to the child; it samples one after the other."""
        assert self._child is not None and self._child.stdin is not None
        number, self._submitted = self._submitted, self._submitted + 1
        with (self._job / f"requests-{number}.jsonl").open("w") as file:
            for r in requests:
                messages = [{"role": m["role"], "content": m["content"]} for m in r.messages]
                file.write(json.dumps({"key": r.key, "messages": messages, "seed": r.seed}) + "\n")
        self._waiting.append((number, requests))
        with suppress(BrokenPipeError):  # it is dead: `collect` says why
            self._child.stdin.write(f"{number}\n")
            self._child.stdin.flush()

    def collect(self) -> list[EngineReply]:
        """Wait for a shard and compare the prompts' tokens with ours."""
        number, requests = self._waiting[0]
        while (word := self._next_word()) != [DONE, str(number)]:
            if word[0] != REPLIES:
                raise EngineError(
                    f"The vllm engine died while sampling ({self._why_dead()}). Its log is {self._log}. The shards "
                    "that were finished are kept: run again, or go on with rollout.engine=transformers, which "
                    "samples all of them anew."
                )
            self._progress(int(word[1]))
        ours = {request.key: request.prompt_ids for request in requests}
        path, replies = self._job / f"replies-{number}.jsonl", []
        with path.open() as file:
            for row in map(json.loads, file):
                if row["key"] not in ours:
                    raise CheckError(f"The vllm engine answered {row['key']}, which it was not asked.")
                check_prompt_tokens(self.name, ours[row["key"]], row["prompt_ids"])
                replies.append(
                    EngineReply(row["key"], row["token_ids"], row["finish_reason"], row["log_probs"])
                )
        path.unlink()
        self._waiting.popleft()
        return replies

    def stop(self) -> None:
        """End the child with all its processes, and remove what the two exchanged."""
        child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            if self._waiting or not self._up:  # nobody wants what it is doing
                end_process(child.pid)
            with suppress(BrokenPipeError):
                child.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE)
            end_process(child.pid)
            child.wait()
        if self._said is not None:
            self._said.close()
        shutil.rmtree(self._job, ignore_errors=True)

    def _spawn(self) -> None:
        root = str(Path(__file__).resolve().parents[3])
        environment = {**os.environ, **QUIET}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        ours, theirs = os.pipe()
        self._said = os.fdopen(ours)
        try:
            with self._log.open("w") as log:
                self._child = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "drift_train.rollout.engines.vllm_worker",
                        str(self._job),
                        str(theirs),
                    ],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs,),
                    text=True,
                )
        finally:
            os.close(theirs)

    def _next_word(self) -> list[str]:
        """Return what the child says next, in words; [""] when it is dead."""
        assert self._said is not None
        return self._said.readline().split() or [""]

    def _why_dead(self) -> str:
        """End what may be left of the child; return its exit code, what its log says and what helps."""
        assert self._child is not None
        try:
            code = self._child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            end_process(self._child.pid)
            code = self._child.wait()
        return f"exit code {code}: {_cause(self._log)}"


def _cause(log: Path) -> str:
    """Return the line of a log that says memory is short, with the option that helps, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    for said, knob in _KNOBS.items():
        for line in lines:
            if said in line:
                return f"{line[-_LINE:]} {knob}"
    return lines[-1][:_LINE] if lines else "no word in its log"
