"""The vLLM process: reads a job from a folder and the numbers of shards from its input, samples them, writes the
replies to the folder, and leaves when the input ends. Run by `engines.vllm`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from tqdm import tqdm

from drift_data.machine import end_process, leave_with_parent, vllm_cpu_settings
from drift_train.rollout.engines.vllm import DONE, REPLIES, UP


def start(job: dict[str, Any]) -> Any:
    """Bring `vllm.LLM` up for the job's model."""
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
        settings |= vllm_cpu_settings(max(2048, job["max_model_len"]))
    from vllm import LLM

    return LLM(**{**settings, **job["llm"]})


class _Bar(tqdm):  # type: ignore[type-arg]
    """What vLLM takes for its progress bar: tells the parent how many replies have come, and shows nothing."""

    pipe: TextIO
    nowhere: TextIO

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{**settings, "file": self.nowhere})

    def update(self, n: float | None = 1) -> bool | None:
        """Count replies; the rendering of prompts, over which it iterates, is not counted."""
        if self.iterable is None:
            _say(self.pipe, REPLIES, int(n or 0))
        return super().update(n)


def _say(pipe: TextIO, *words: object) -> None:
    print(*words, file=pipe, flush=True)


def _leave_with_parent(parent: int) -> Thread:
    """Have this process and all that vLLM has started end when the process `parent` is gone."""
    return leave_with_parent(lambda: os.getppid() == parent, lambda: end_process(os.getpid()))


def main(folder: Path, pipe: TextIO) -> None:
    """Answer all shards of a job."""
    job = json.loads((folder / "job.json").read_text())
    _leave_with_parent(job["parent"])
    llm = start(job)
    _say(pipe, UP, str(llm.model_config.dtype).removeprefix("torch."))
    for line in sys.stdin:
        number = int(line)
        _sample(llm, job, folder / f"requests-{number}.jsonl", folder / f"replies-{number}.jsonl")
        _say(pipe, DONE, number)


def _sample(llm: Any, job: dict[str, Any], asked: Path, answered: Path) -> None:
    """Answer one shard."""
    from vllm import SamplingParams

    with asked.open() as file:
        requests = [json.loads(line) for line in file]
    asked.unlink()
    outputs = llm.chat(
        [request["messages"] for request in requests],
        [
            SamplingParams(
                seed=request["seed"],
                logprobs=0,  # of the sampled token alone
                stop_token_ids=job["stop_token_ids"],
                **job["sampling"],
            )
            for request in requests
        ],
        use_tqdm=_Bar,
    )
    with answered.open("w") as file:
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
    with os.fdopen(int(sys.argv[2]), "w") as said, Path(os.devnull).open("w") as nowhere:
        _Bar.pipe, _Bar.nowhere = said, nowhere
        main(Path(sys.argv[1]), said)
