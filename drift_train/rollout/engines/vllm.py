"""Runs vLLM in a fresh process for the shards of one policy, and ends it: weights are never reloaded in place.

The child (`vllm_worker`) writes its output to a log file and the replies to a job folder beside it, and tells on a pipe
what it has done.
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

# Environment of the child: no usage statistics, no look at the Hub, no log lines between the progress bars.
CHILD_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
# First words of the lines that the child writes on the pipe. "up" is followed by the engine's precision; "replies" by the
# number of replies that came since the last such line; "done" by the number of the shard whose replies are written.
ENGINE_UP, REPLIES_CAME, SHARD_DONE = "up", "replies", "done"
_LEAVE_SECONDS = 60.0  # how long the child may take to leave
_FEWER_SAMPLES = "samples that run at once: rollout.vllm.max_num_seqs"
_MORE_GPUS = "spread it over more GPUs by rollout.vllm.tensor_parallel_size"
# Words of vllm when memory is short → which of our options helps.
_MEMORY_ADVICE = {
    "less than desired GPU memory utilization": "Something else holds memory of this GPU: end it, or lower "
    "rollout.vllm.gpu_memory_utilization (0.9 unless set).",
    "No available memory for the cache blocks": "The weights leave no room: raise rollout.vllm.gpu_memory_utilization, "
    f"or {_MORE_GPUS}.",
    "larger than the available KV cache": "Lower rollout.max_prompt_tokens or rollout.max_new_tokens, whose sum vllm "
    f"must hold, raise rollout.vllm.gpu_memory_utilization, or {_MORE_GPUS}; on a CPU raise $VLLM_CPU_KVCACHE_SPACE (GB).",
    "out of memory": f"Lower rollout.vllm.gpu_memory_utilization, or the number of {_FEWER_SAMPLES}; or {_MORE_GPUS}.",
}
_LOG_LINE_CHARACTERS = 400  # of a log line in an error message


class VllmEngine:
    """`LLM.chat` in a child process that lives for one policy.

    Args:
        policy: folder of the model.
        stop: ids of the tokens that end a reply.
        options: sampling, and further arguments of `vllm.LLM`.
        log_folder: folder of the child's log.
        title: names the log.
        progress: called with the number of replies that came.
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
        self._job = self._log.with_suffix(".job")  # not in /tmp, where conversations do not belong
        self._waiting: deque[tuple[int, Sequence[SampleRequest]]] = deque()
        self._submitted, self._is_up = 0, False
        self._child: subprocess.Popen[str] | None = None
        self._pipe: TextIO | None = None
        self.precision = "float32"  # until the child reports the one that it computes in
        self.remarks: dict[str, Any] = {}

    def start(self) -> None:
        """Start the child and wait until its engine is up.

        Raises:
            EngineStartError: the child died before its engine was up.
        """
        shutil.rmtree(self._job, ignore_errors=True)  # a killed run may have left one
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
        word, *precision = self._read_words()
        if word != ENGINE_UP:
            raise EngineStartError(f"vllm did not start ({self._explain_death()}); its log is {self._log}")
        (self.precision,) = precision
        self._is_up = True

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Hand a shard to the child, which samples one shard after the other."""
        assert self._child is not None and self._child.stdin is not None
        number, self._submitted = self._submitted, self._submitted + 1
        with (self._job / f"requests-{number}.jsonl").open("w") as file:
            for r in requests:
                messages = [{"role": m["role"], "content": m["content"]} for m in r.messages]
                file.write(json.dumps({"key": r.key, "messages": messages, "seed": r.seed}) + "\n")
        self._waiting.append((number, requests))
        with suppress(BrokenPipeError):  # the child is dead: `collect` says why
            self._child.stdin.write(f"{number}\n")
            self._child.stdin.flush()

    def collect(self) -> list[EngineReply]:
        """Wait for the oldest shard's replies, and compare the tokens of its prompts with ours.

        Raises:
            EngineError: the child died.
            CheckError: a reply was not asked for, or a prompt has other tokens.
        """
        number, requests = self._waiting[0]
        while (word := self._read_words()) != [SHARD_DONE, str(number)]:
            if word[0] != REPLIES_CAME:
                raise EngineError(
                    f"The vllm engine died while sampling ({self._explain_death()}). Its log is {self._log}. The shards "
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
        """End the child with all its processes, and remove the job folder."""
        child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            if self._waiting or not self._is_up:  # its work is not wanted any more
                end_process(child.pid)
            with suppress(BrokenPipeError):
                child.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LEAVE_SECONDS)
            end_process(child.pid)
            child.wait()
        if self._pipe is not None:
            self._pipe.close()
        shutil.rmtree(self._job, ignore_errors=True)

    def _spawn(self) -> None:
        root = str(Path(__file__).resolve().parents[3])
        environment = {**os.environ, **CHILD_ENVIRONMENT}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        ours, theirs = os.pipe()
        self._pipe = os.fdopen(ours)
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

    def _read_words(self) -> list[str]:
        """Return the words of the child's next line on the pipe; [""] when the child is dead."""
        assert self._pipe is not None
        return self._pipe.readline().split() or [""]

    def _explain_death(self) -> str:
        """End what may be left of the child; return its exit code, the line of its log that says why, and what helps."""
        assert self._child is not None
        try:
            code = self._child.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            end_process(self._child.pid)
            code = self._child.wait()
        return f"exit code {code}: {_find_cause(self._log)}"


def _find_cause(log: Path) -> str:
    """Return the log line that says that memory is short, with the option that helps, or else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    for said, knob in _MEMORY_ADVICE.items():
        for line in lines:
            if said in line:
                return f"{line[-_LOG_LINE_CHARACTERS:]} {knob}"
    return lines[-1][:_LOG_LINE_CHARACTERS] if lines else "its log is empty"
