"""The vLLM process: reads a job from a folder, samples, writes the replies there, and exits. Run by
`engines.vllm`.

Writes `engine.json` when the engine is up, so that the parent can tell a failed start from a later crash.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drift_train.engines.vllm import ENGINE, end_process


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
        # in-process: one process to start and to end. With chunked prefill per-request seeds fail on the CPU:
        # "CPU Generator does not use offset".
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        settings |= {
            "dtype": "float32",
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(2048, job["max_model_len"]),
        }
    from vllm import LLM

    return LLM(**{**settings, **job["llm"]})


def _end_with_parent(parent: int) -> None:
    """Leave when the process that started this one is gone: a killed run must not keep a GPU.

    The job says who that was: asked here, after seconds of imports, it may be gone already.
    """
    while os.getppid() == parent:
        time.sleep(1.0)
    end_process(os.getpid())


def main(folder: Path, progress: int) -> None:
    """Answer all requests of a job."""
    job = json.loads((folder / "job.json").read_text())
    threading.Thread(target=_end_with_parent, args=(job["parent"],), daemon=True).start()
    with os.fdopen(progress, "w") as screen:
        with tqdm(desc=f"{job['title']}: starting vllm", bar_format="{desc} ({elapsed})", file=screen):
            llm = start(job)
        from vllm import SamplingParams

        dtype = str(llm.model_config.dtype).removeprefix("torch.")
        (folder / ENGINE).write_text(json.dumps({"dtype": dtype}))
        requests = [json.loads(line) for line in (folder / "requests.jsonl").open()]
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
            use_tqdm=functools.partial(tqdm, file=screen, desc=job["title"], mininterval=0.5),
        )
    with (folder / "replies.jsonl").open("w") as file:
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
    main(Path(sys.argv[1]), int(sys.argv[2]))
