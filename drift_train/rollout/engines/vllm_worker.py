"""Samples the shards of one job with vLLM, in the process that `engines.vllm` starts.

The process reads the job from a folder and the numbers of shards from its standard input, writes the replies into the
folder, and leaves when the input ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from tqdm import tqdm

from drift_data.machine import end_process, leave_with_parent, prepare_vllm_for_cpu
from drift_train.rollout.engines.vllm import ENGINE_UP, REPLIES_CAME, SHARD_DONE


def start_engine(job: dict[str, Any]) -> Any:
    """Load the job's model into `vllm.LLM`."""
    from vllm.platforms import current_platform

    settings: dict[str, Any] = {
        "model": job["model"],
        "seed": 0,
        "generation_config": "vllm",  # not the model's own sampling defaults
        "logprobs_mode": "raw_logprobs",
        "enable_prefix_caching": True,
        "max_model_len": job["max_model_len"],
        "dtype": "bfloat16",
        "disable_log_stats": True,
    }
    if current_platform.is_cpu():
        settings |= prepare_vllm_for_cpu(max(2048, job["max_model_len"]))
    from vllm import LLM

    return LLM(**{**settings, **job["llm"]})


class _ReplyCounter(tqdm):  # type: ignore[type-arg]
    """Stands in for vLLM's progress bar: tells the parent how many replies came, and shows nothing."""

    pipe: TextIO
    nowhere: TextIO

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{**settings, "file": self.nowhere})

    def update(self, n: float | None = 1) -> bool | None:
        """Count replies. A bar with an iterable is vLLM's bar over the prompts that it renders: it is not counted."""
        if self.iterable is None:
            _tell_parent(self.pipe, REPLIES_CAME, int(n or 0))
        return super().update(n)


def _tell_parent(pipe: TextIO, *words: object) -> None:
    print(*words, file=pipe, flush=True)


def _leave_with_parent(parent: int) -> Thread:
    """Have this process and all that vLLM has started end when the process `parent` is gone."""
    return leave_with_parent(lambda: os.getppid() == parent, lambda: end_process(os.getpid()))


def answer_job(folder: Path, pipe: TextIO) -> None:
    """Sample the shards of a job, one after the other, until the input ends."""
    job = json.loads((folder / "job.json").read_text())
    _leave_with_parent(job["parent"])
    llm = start_engine(job)
    _tell_parent(pipe, ENGINE_UP, str(llm.model_config.dtype).removeprefix("torch."))
    for line in sys.stdin:
        number = int(line)
        _sample_shard(llm, job, folder / f"requests-{number}.jsonl", folder / f"replies-{number}.jsonl")
        _tell_parent(pipe, SHARD_DONE, number)


def _sample_shard(llm: Any, job: dict[str, Any], requests_file: Path, replies_file: Path) -> None:
    """Sample the replies to one shard of requests. The file of requests is removed once it is read."""
    from vllm import SamplingParams

    with requests_file.open() as file:
        requests = [json.loads(line) for line in file]
    requests_file.unlink()
    outputs = llm.chat(
        [request["messages"] for request in requests],
        [
            SamplingParams(
                seed=request["seed"],
                logprobs=0,  # the log-probability of the sampled token alone
                stop_token_ids=job["stop_token_ids"],
                **job["sampling"],
            )
            for request in requests
        ],
        use_tqdm=_ReplyCounter,
    )
    with replies_file.open("w") as file:
        for request, output in zip(requests, outputs, strict=True):
            reply = output.outputs[0]
            row = {
                "key": request["key"],
                "prompt_ids": list(output.prompt_token_ids),
                "token_ids": list(reply.token_ids),
                "finish_reason": reply.finish_reason,
                "log_probs": [
                    step[token].logprob for token, step in zip(reply.token_ids, reply.logprobs, strict=True)
                ],
            }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as pipe, Path(os.devnull).open("w") as nowhere:
        _ReplyCounter.pipe, _ReplyCounter.nowhere = pipe, nowhere
        answer_job(Path(sys.argv[1]), pipe)
