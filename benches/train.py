"""Speed and memory of DPO against the release's recipe on TRL's defaults: `python benches/train.py`.

Pairs with WildFeedback's lengths (prompt 929 tokens on average, over several turns, reply 440) train a tiny model, each
recipe in a fresh process, in turns. Baseline: micro-batches of 4 pairs in random order, the reference live in every
step, gradient checkpointing. Ours: the trainer of this project, micro-batches of one pair and no checkpointing, as fits
a model that leaves memory free; a third row has the release's micro-batch and checkpointing, for what the rest brings.
On the CPU a second is one of a core's time, so that other work on the machine does not count; memory is the peak above
what the imports took. At learning rate 0 and with a float64 body both give every pair the same
loss, or the speed would mean nothing. Exit code 1 when a limit is broken.

`--shape qwen2.5-7b` does the same with random weights of that shape on a GPU of about 130 GB, and prints tokens/s and
MFU besides. It has not been tried: no such GPU was at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from convert import peak_bytes

MIN_SPEED, MAX_MEMORY, MAX_DIFFERENCE = 1.3, 0.6, 1e-6
PAIRS, COMPARED, ROUNDS = 64, 8, 2
PROMPT, REPLY, SPREAD = 929, 440, 0.7  # mean tokens; standard deviation of their logarithm
MAX_LENGTH = 2048
SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2, "vocab_size": 1_024, "initializer_range": 0.1},
    "qwen2.5-7b": {"hidden_size": 3_584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4, "vocab_size": 152_064},
}  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # a second thread brings nothing at this size
PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200
RECIPES = {
    "baseline": {"per_device_batch": 4, "gradient_checkpointing": True},
    "ours, its batches": {"per_device_batch": 4, "gradient_checkpointing": True},
    "ours": {"per_device_batch": 1, "gradient_checkpointing": False},
}


def make_model(folder: Path, shape: str, seed: int) -> None:
    """Write random weights of a shape with the byte-level tokenizer of the tiny model."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from drift_train.models.tiny import _make_tokenizer
    from drift_train.options import TinyOptions

    chats = [[{"role": "user", "content": "".join(map(chr, range(32, 127)))}]]
    tokenizer = _make_tokenizer(chats, folder, TinyOptions(vocabulary=300))
    torch.manual_seed(seed)
    config = Qwen2Config(
        **SHAPES[shape],
        max_position_embeddings=4_096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).to(torch.float32 if shape == "tiny" else torch.bfloat16).save_pretrained(folder)


def make_pairs(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return pairs with WildFeedback's lengths; those that do not fit are left out, as the pair filter does."""
    from drift_train.models.load import load_renderer

    chance, renderer = random.Random(0), load_renderer(folder)
    pairs: list[dict[str, Any]] = []

    def length(mean: int) -> int:
        return max(4, round(chance.lognormvariate(math.log(mean) - SPREAD**2 / 2, SPREAD)))

    def text(tokens: int) -> str:
        return "".join(chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(tokens))

    while len(pairs) < count:
        turns = chance.choice([1, 3, 3, 5])
        prompt = [
            {"role": ("user", "assistant")[i % 2], "content": text(length(PROMPT) // turns)}
            for i in range(turns)
        ]
        row: dict[str, Any] = {
            "conversation_id": f"c{len(pairs)}",
            "turn": turns,
            "split": "train",
            "prompt": prompt,
        }
        for side in ("chosen", "rejected"):
            content = text(length(REPLY))
            start, reply = renderer.render_pair(prompt, content)
            row |= {side: [{"role": "assistant", "content": content}], f"{side}_tokens": len(reply)}
            row["longest"] = max(row.get("longest", 0), len(start) + len(reply))
        if row["longest"] <= MAX_LENGTH:
            pairs.append(row)
    return pairs


def train(folder: Path, recipe: str, pairs: list[dict[str, Any]], learning_rate: float) -> None:
    """Train one epoch by a recipe."""
    from drift_train.dpo import train as dpo
    from drift_train.options import TrainOptions

    policy, reference = folder / "policy", folder / "reference"
    options = TrainOptions(
        **RECIPES[recipe],
        max_length=MAX_LENGTH,
        learning_rate=learning_rate,
        warmup_ratio=0,
        precision="auto",
    )
    if recipe == "baseline":
        plain_trl(policy, reference, pairs, options)
        return
    dpo.train(
        policy,
        reference,
        pairs,
        folder / "model",
        folder / "m.jsonl",
        options,
        iteration=1,
        method="drift",
        title="ours",
    )


def plain_trl(policy: Path, reference: Path, pairs: list[dict[str, Any]], options: Any) -> None:
    """Train with TRL as the release does."""
    import datasets
    import torch
    from trl import DPOConfig, DPOTrainer

    from drift_train.models.load import load_model, load_tokenizer, save_model

    gpu = torch.cuda.is_available()
    args = DPOConfig(
        output_dir=str(policy.parent / "trl"),
        save_strategy="no",
        report_to="none",
        beta=options.beta,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, options.alpha],
        learning_rate=options.learning_rate,
        optim=options.optimizer,
        per_device_train_batch_size=options.per_device_batch,
        gradient_accumulation_steps=options.global_batch // options.per_device_batch,
        gradient_checkpointing=options.gradient_checkpointing,
        max_length=options.max_length,
        bf16=gpu,
        use_cpu=not gpu,
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=load_model(policy, torch.float32),
        ref_model=load_model(reference, torch.float32),
        args=args,
        train_dataset=datasets.Dataset.from_list(
            [{k: p[k] for k in ("prompt", "chosen", "rejected")} for p in pairs]
        ),
        processing_class=load_tokenizer(policy),
    )
    trainer.train()
    save_model(trainer.model, policy, policy.parent / "model")


def measure(folder: Path, recipe: str, shape: str) -> dict[str, float]:
    """Train in this process; return pairs/s, tokens/s, bytes."""
    import torch

    pairs = make_pairs(folder / "policy", PAIRS)
    gpu = torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    before, started = peak_bytes(), clock()
    train(folder, recipe, pairs, 5e-7)
    seconds = clock() - started
    from drift_train.models.load import load_renderer

    renderer = load_renderer(folder / "policy")
    prompts = sum(len(renderer.render_prompt(pair["prompt"])) for pair in pairs)
    tokens = 2 * prompts + sum(pair["chosen_tokens"] + pair["rejected_tokens"] for pair in pairs)
    return {
        "rate": PAIRS / seconds,
        "tokens": tokens / seconds,
        "mfu": 6 * parameters(shape) * tokens / seconds / PEAK_FLOPS,
        "bytes": torch.cuda.max_memory_allocated() if gpu else peak_bytes() - before,
    }


def parameters(shape: str) -> float:
    """Return the parameters that a token passes through, without the embedding."""
    s = SHAPES[shape]
    heads = s["hidden_size"] // s["num_attention_heads"] * s["num_key_value_heads"]
    layer = 2 * s["hidden_size"] * (s["hidden_size"] + heads) + 3 * s["hidden_size"] * s["intermediate_size"]
    return s["num_hidden_layers"] * layer + s["hidden_size"] * s["vocab_size"]


def losses(folder: Path, recipe: str) -> dict[str, list[float]]:
    """Train at learning rate 0 with a float64 body; return each pair's loss, its tokens summed in float64 and as TRL does.

    TRL's head and sums are float32: over 400 tokens their rounding alone is about 1e-5 of a loss.
    """
    import torch

    from drift_train.dpo import trainer as dpo_trainer
    from drift_train.models import load as policy

    sums: dict[tuple[str, bytes], tuple[float, float]] = {}
    load = policy.load_model

    def watched(path: Path, dtype: Any, where: Any = None) -> Any:
        model = load(path, torch.float64, where)

        def read(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            for ids, labels, values in zip(
                kwargs["input_ids"], kwargs["labels"], output.log_probs, strict=True
            ):
                end = int((labels != -100).nonzero()[-1]) + 1
                found = float(values.double().sum()), float(values.sum())
                sums[path.name, ids[:end].numpy().tobytes()] = found

        model.register_forward_hook(read, with_kwargs=True)
        return model

    policy.load_model = dpo_trainer.load_model = watched
    pairs = make_pairs(folder / "policy", COMPARED)
    train(folder, recipe, pairs, 0.0)
    renderer = policy.load_renderer(folder / "policy")
    found: dict[str, list[float]] = {"exact": [], "summed": []}
    for pair in pairs:
        ratios = []
        for side in ("chosen", "rejected"):
            ids = torch.tensor(
                [t for part in renderer.render_pair(pair["prompt"], pair[side][0]["content"]) for t in part]
            )
            one, other = (sums[name, ids.numpy().tobytes()] for name in ("policy", "reference"))
            ratios.append((one[0] - other[0], one[1] - other[1]))
        for name, (chosen, rejected) in zip(("exact", "summed"), zip(*ratios, strict=True), strict=True):
            found[name].append(math.log1p(math.exp(-0.1 * (chosen - rejected))))
    return found


def child(*arguments: object) -> Any:
    command = [sys.executable, __file__, *map(str, arguments)]
    run = subprocess.run(command, text=True, capture_output=True, env=ENVIRONMENT)
    if run.returncode:
        sys.exit(f"{arguments} failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--task", choices=["measure", "losses"], help=argparse.SUPPRESS)
    parser.add_argument("--recipe", choices=RECIPES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task == "measure":
        print("\n" + json.dumps(measure(options.folder, options.recipe, options.shape)))
        return 0
    if options.task == "losses":
        print("\n" + json.dumps(losses(options.folder, options.recipe)))
        return 0
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as name:
        folder = Path(name)
        for seed, model in enumerate(("policy", "reference")):
            make_model(folder / model, options.shape, seed)
        print(
            f"{'recipe':>18} {'pairs/s':>8} {'tokens/s':>9} {'MB':>7}"
            + (" MFU" if options.shape != "tiny" else "")
        )
        runs: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in RECIPES}
        for _ in range(options.rounds):
            for recipe in RECIPES:
                run = child(
                    "--task", "measure", "--recipe", recipe, "--folder", folder, "--shape", options.shape
                )
                runs[recipe].append(run)
                print(
                    f"{recipe:>18} {run['rate']:>8.2f} {run['tokens']:>9,.0f} {run['bytes'] / 2**20:>7.0f}"
                    + (f" {run['mfu']:.3f}" if options.shape != "tiny" else ""),
                    flush=True,
                )
        rates = {recipe: max(run["rate"] for run in found) for recipe, found in runs.items()}
        memory = {recipe: max(run["bytes"] for run in found) for recipe, found in runs.items()}
        differences = {"exact": 0.0, "summed": 0.0}
        if options.shape == "tiny":
            one, other = (
                child("--task", "losses", "--recipe", r, "--folder", folder) for r in ("baseline", "ours")
            )
            differences = {k: max(abs(a - b) / a for a, b in zip(one[k], other[k], strict=True)) for k in one}
    speed, used = rates["ours"] / rates["baseline"], memory["ours"] / memory["baseline"]
    fine = speed >= MIN_SPEED and used <= MAX_MEMORY and differences["exact"] <= MAX_DIFFERENCE
    print(
        f"ours at least {MIN_SPEED} times the baseline's pairs/s: {speed:.2f}; at most {MAX_MEMORY} of its memory: "
        f"{used:.2f}; losses of {COMPARED} pairs within {MAX_DIFFERENCE:g}: {differences['exact']:.1g} "
        f"(summed in float32: {differences['summed']:.1g}) → {'within limits' if fine else 'LIMIT BROKEN'}"
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
