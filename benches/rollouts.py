"""Rollouts by vLLM beside plain Hugging Face `generate`: `python benches/rollouts.py`.

One model of about a million parameters with random weights, one set of prompts in WildFeedback's length profile
scaled to a quarter (prompts 232 tokens on average, replies 110), float32, temperature 0.7, top-p 0.9. The baseline
is the release's way: batches of 8 in the order of the table, padded on the left, `do_sample`. Random weights say
no end, so all replies are of one length, which is kind to the baseline: it never waits for the longest of a batch.
Each engine runs in a fresh process on one thread; its start is timed apart, and a few replies are sampled before the clock
starts. Exit code 1 when vLLM is less than 5 times as fast as the baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MIN_RATIO = 5.0
REPLIES = {
    "generate": 128,
    "transformers": 128,
    "vllm": 512,
}  # the slower ones would take minutes; rates are compared
WARM_UP, BATCH = 16, 8
PROMPT, SPREAD, LONGEST, REPLY = 232, 0.7, 900, 110  # tokens: mean, log-normal sigma, most; of every reply
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
]
NAMES = {"generate": "Hugging Face generate", "transformers": "engine: transformers", "vllm": "engine: vllm"}


def prepare(folder: Path) -> None:
    """Write the model, hardly trained, and the prompts."""
    from drift_train.models.tiny import make_tiny
    from drift_train.options import TinyOptions

    rng = random.Random(0)
    chats = [
        (
            "noisy",
            [
                {"role": "user", "content": " ".join(rng.choices(WORDS, k=20))},
                {"role": "assistant", "content": " ".join(rng.choices(WORDS, k=20))},
            ],
        )
        for _ in range(16)
    ]
    shape = TinyOptions(
        vocabulary=400, hidden=160, inner=480, layers=3, heads=5, context=1_024, learning_rate=1e-9
    )
    make_tiny(chats, folder / "model", shape)
    prompts = []
    for _ in range(max(REPLIES.values()) + WARM_UP):
        length = rng.lognormvariate(0.0, SPREAD) * PROMPT * 2.718281828 ** (-(SPREAD**2) / 2)
        words = rng.choices(WORDS, k=max(8, min(LONGEST, round(length)) - 4))
        prompts.append([{"role": "user", "content": " ".join(words)}])
    (folder / "prompts.json").write_text(json.dumps(prompts))


def measure(task: str, folder: Path) -> dict[str, float]:
    """Sample all replies in this process; return seconds, seconds of the start, replies and their tokens."""
    from drift_train.models.load import load_renderer
    from drift_train.rollout.engine import SampleRequest, make_request_seed

    policy = folder / "model"
    renderer = load_renderer(policy)
    requests = [
        SampleRequest(number, messages, renderer.render_prompt(messages), make_request_seed(0, number))
        for number, messages in enumerate(json.loads((folder / "prompts.json").read_text()))
    ][: REPLIES[task] + WARM_UP]
    run = generate if task == "generate" else sample
    started, seconds, lengths = run(task, policy, renderer.ends, requests, folder)
    prompts = [len(request.prompt_ids) for request in requests[WARM_UP:]]
    return {
        "start": started,
        "seconds": seconds,
        "replies": len(lengths),
        "tokens": sum(lengths),
        "prompt": sum(prompts) / len(prompts),
    }


def sample(
    task: str, policy: Path, ends: list[int], requests: list[Any], folder: Path
) -> tuple[float, float, list[int]]:
    """Sample with one of our engines."""
    from drift_train.options import PolicySamplingOptions
    from drift_train.rollout.engines.transformers import TransformersEngine
    from drift_train.rollout.engines.vllm import VllmEngine

    options = PolicySamplingOptions(
        engine=task, max_new_tokens=REPLY, max_prompt_tokens=LONGEST + 14, batch_size=32
    )

    def progress(_: int) -> None:
        """Show nothing."""

    engine: Any
    if task == "vllm":
        engine = VllmEngine(policy, ends, options, folder / "logs", "bench", progress)
    else:
        engine = TransformersEngine(policy, ends, options, progress)
    before = time.perf_counter()
    try:
        engine.start()
        started = time.perf_counter() - before
        engine.submit(requests[:WARM_UP])
        engine.collect()
        before = time.perf_counter()
        engine.submit(requests[WARM_UP:])
        replies = engine.collect()
        return started, time.perf_counter() - before, [len(reply.token_ids) for reply in replies]
    finally:
        engine.stop()


def generate(
    task: str, policy: Path, ends: list[int], requests: list[Any], folder: Path
) -> tuple[float, float, list[int]]:
    """Sample as the release does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()
    started = time.perf_counter() - before

    def batch(part: list[Any]) -> list[int]:
        inputs = tokenizer.apply_chat_template(
            [request.messages for request in part],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            output = model.generate(
                **inputs, do_sample=True, temperature=0.7, top_p=0.9, max_new_tokens=REPLY, eos_token_id=ends
            )
        replies = output[:, inputs["input_ids"].shape[1] :]
        return (replies != tokenizer.pad_token_id).sum(1).tolist()

    def all_of(asked: list[Any]) -> list[int]:
        return [n for i in range(0, len(asked), BATCH) for n in batch(asked[i : i + BATCH])]

    all_of(requests[:WARM_UP])
    before = time.perf_counter()
    lengths = all_of(requests[WARM_UP:])
    return started, time.perf_counter() - before, lengths


def child(task: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--task", task, "--folder", str(folder)]
    root = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(max(os.sched_getaffinity(0))),
    }
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout.splitlines()[-1]) if task != "prepare" else {}


def rate(run: dict[str, float]) -> float:
    """Return tokens a second."""
    return run["tokens"] / run["seconds"]


def main() -> int:
    import importlib.util

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=["prepare", *NAMES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task == "prepare":
        prepare(options.folder)
        return 0
    if options.task:
        print(json.dumps(measure(options.task, options.folder)))
        return 0
    if importlib.util.find_spec("vllm") is None:
        print("rollouts: vllm is not installed here, so there is nothing to compare")
        return 0
    print(
        f"{'':<22} {'start s':>8} {'replies':>8} {'seconds':>8} {'replies/s':>10} {'tokens/s':>9} {'ratio':>6}"
    )
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as folder:
        child("prepare", Path(folder))
        for task, name in NAMES.items():
            run = found[task] = child(task, Path(folder))
            ratio = rate(run) / rate(found["generate"])
            print(
                f"{name:<22} {run['start']:>8.1f} {run['replies']:>8.0f} {run['seconds']:>8.1f} "
                f"{run['replies'] / run['seconds']:>10.1f} {rate(run):>9,.0f} {ratio:>6.1f}",
                flush=True,
            )
    ratio = rate(found["vllm"]) / rate(found["generate"])
    fine = ratio >= MIN_RATIO
    print(
        f"tokens/s of vllm at least {MIN_RATIO:g} times generate's, starts left out: {ratio:.1f}; prompts "
        f"{found['vllm']['prompt']:.0f} tokens → {'within limits' if fine else 'LIMIT BROKEN'}"
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
