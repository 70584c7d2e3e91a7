"""DPO on a list of pairs: TRL's DPOTrainer with the paper's settings, and the checks that must stop a run
around it.

Reads pairs and model folders, writes a model folder and metrics. Knows nothing of workspaces and iterations.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from drift_data.workspace import UserError
from drift_train.checks import MARGIN_TOLERANCE, CheckError
from drift_train.metrics import MetricsWriter
from drift_train.options import TrainOptions
from drift_train.pairs import TRAIN
from drift_train.policy import context_length, device, free_memory, load_model, load_renderer, save_model
from drift_train.render import Renderer

_SHORT_RUN = 10  # steps
_FULLY_CHECKED = 64  # pairs whose every token is compared with our own rendering; of the others the lengths


def train(
    policy: Path,
    reference: Path,
    pairs: Sequence[Mapping[str, Any]],
    target: Path,
    metrics: Path,
    options: TrainOptions,
    *,
    iteration: int,
    method: str,
    title: str,
) -> dict[str, Any]:
    """Train a copy of `policy` on pairs and save it, in float32, to `target`.

    Args:
        policy: model folder that training starts from.
        reference: model folder of DPO's reference.
        pairs: rows of the `pairs` table, all of split "train".
        target: folder that the trained model is written into; plain transformers and vllm load it.
        metrics: JSONL file, one line an optimiser step. It is `*.partial.jsonl` until the model is saved, so
            that a run which is cut leaves the metrics of the model that is there.
        options: of the training.
        iteration: goes into the metrics, as does `method`.
        title: of the progress bar.

    Returns:
        The last step's metrics and the number of steps.

    Raises:
        UserError: pairs of another split, a `max_length` beyond the model's context, several GPUs, or too
            little memory on the one.
        CheckError: TRL sees other tokens than our rendering or would cut some, the margin at step 0 is not 0
            although policy and reference are the same weights, or a loss is not finite.
    """
    _check_rows(pairs, policy, options)
    _check_devices()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    partial = metrics.with_suffix(".partial.jsonl")
    writer = MetricsWriter(partial, iteration, method, options.alpha, title)
    scratch = tempfile.TemporaryDirectory(prefix=".trl-", dir=target.parent)  # TRL wants one; it stays empty
    try:
        steps = _train_and_save(policy, reference, pairs, target, options, writer, scratch.name)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"{title}: the GPU is out of memory. Halve per_device_batch ({options.per_device_batch}); "
            "global_batch stays as it is by accumulation. Then lower max_length, or set "
            "gradient_checkpointing."
        ) from error
    finally:
        writer.close()
        scratch.cleanup()
        free_memory()  # trainer and models went with the frame that held them: an engine comes next
    partial.replace(metrics)
    return {"steps": steps, "last_step": {name: round(value, 6) for name, value in writer.last.items()}}


def _train_and_save(
    policy: Path,
    reference: Path,
    pairs: Sequence[Mapping[str, Any]],
    target: Path,
    options: TrainOptions,
    writer: MetricsWriter,
    scratch: str,
) -> int:
    """Check, train, save, and return the number of steps. Alone holds the trainer and the models."""
    renderer = load_renderer(policy)
    trainer = _trainer(policy, reference, pairs, renderer.tokenizer, options, scratch)
    writer.nll.watch(trainer.model)
    _check_tokens(trainer.train_dataset, pairs, renderer, options.max_length)
    _check_first_batch(trainer, same_weights=policy.resolve() == reference.resolve())
    trainer.add_callback(writer)
    trainer.train()
    save_model(trainer.accelerator.unwrap_model(trainer.model), policy, target)
    return int(trainer.state.global_step)


def _check_devices() -> None:
    """Refuse what TRL refuses, too, in words that help: one process that sees several GPUs."""
    seen = torch.cuda.device_count()
    if seen > 1 and "WORLD_SIZE" not in os.environ:
        raise UserError(
            f"This process sees {seen} GPUs and trains on one. Make one visible, e.g. CUDA_VISIBLE_DEVICES=0, and "
            "run again: what is finished is kept."
        )


def _check_rows(pairs: Sequence[Mapping[str, Any]], policy: Path, options: TrainOptions) -> None:
    foreign = next((row for row in pairs if row["split"] != TRAIN), None)
    if foreign is not None:
        raise UserError(
            f"Pair {foreign['conversation_id']}, turn {foreign['turn']} is of split {foreign['split']!r}: "
            "training reads train only. Filter the table, or mine it again."
        )
    context = context_length(policy)
    if options.max_length > context:
        raise UserError(
            f"max_length {options.max_length} is beyond the {context} positions of {policy}. Set it to at "
            f"most {context}."
        )


def warmup_steps(pairs: int, options: TrainOptions) -> int:
    """Return the steps of warm-up: the ratio of all steps, rounded up as transformers does; none in a short run.

    The schedule starts from 0, so the first step of a warm-up learns nothing: with fewer than 10 steps that would be
    a noticeable share of the pairs, with a single step all of them.
    """
    steps = math.ceil(options.epochs * math.ceil(pairs / options.global_batch))
    return math.ceil(options.warmup_ratio * steps) if steps >= _SHORT_RUN else 0


def _trainer(
    policy: Path,
    reference: Path,
    pairs: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    options: TrainOptions,
    scratch: str,
) -> Any:
    """Return TRL's trainer over the pairs, with policy and reference loaded as float32 master weights."""
    import datasets
    import huggingface_hub.constants
    from accelerate import PartialState
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL's trainers report their use to the Hub
    on_gpu = device().type == "cuda"
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs]
    at_once = options.per_device_batch * PartialState(cpu=not on_gpu).num_processes
    if options.global_batch % at_once:
        raise UserError(
            f"global_batch {options.global_batch} is no multiple of the {at_once} pairs that all devices "
            "take at once. Change per_device_batch."
        )
    args = DPOConfig(
        output_dir=scratch,
        save_strategy="no",
        beta=options.beta,
        loss_type=["sigmoid", "sft"] if options.alpha else ["sigmoid"],
        loss_weights=[1.0, options.alpha] if options.alpha else None,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.scheduler,
        warmup_steps=warmup_steps(len(pairs), options),
        optim=options.optimizer,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.per_device_batch,
        gradient_accumulation_steps=options.global_batch // at_once,
        max_length=options.max_length,
        max_grad_norm=options.max_grad_norm,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=options.precision == "bf16" or (options.precision == "auto" and on_gpu),
        use_cpu=not on_gpu,
        seed=options.seed,
        report_to=options.report_to or "none",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a NaN must be seen, not replaced by the running mean
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=on_gpu,
    )
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # tokenizing has no business among the steps
    try:
        trainer = DPOTrainer(
            model=load_model(policy, torch.float32),
            ref_model=load_model(reference, torch.float32),
            args=args,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
    finally:
        if not bars:
            datasets.enable_progress_bars()
    trainer.remove_callback(PrinterCallback)
    return trainer


def _check_tokens(
    dataset: Any, pairs: Sequence[Mapping[str, Any]], renderer: Renderer, max_length: int
) -> None:
    """Compare what TRL will train on with our rendering: no row lost or cut, replies alone learned."""
    if len(dataset) != len(pairs):
        raise CheckError(
            f"TRL kept {len(dataset)} of {len(pairs)} pairs. Make the pairs again with this max_length."
        )
    for number, (row, pair) in enumerate(zip(dataset, pairs, strict=True)):
        where = f"pair {pair['conversation_id']}, turn {pair['turn']}"
        for side in ("chosen", "rejected"):
            if len(row[f"{side}_ids"]) != pair[f"{side}_tokens"]:
                raise CheckError(
                    f"TRL renders the {side} reply of {where} to {len(row[f'{side}_ids'])} tokens, the pairs "
                    f"table has {pair[f'{side}_tokens']}. Another tokenizer or template made the table: make "
                    "the pairs again."
                )
            length = len(row["prompt_ids"]) + len(row[f"{side}_ids"])
            if length > max_length:
                raise CheckError(
                    f"The {side} reply of {where} would be cut: {length} tokens do not fit into max_length "
                    f"{max_length}. Make the pairs again with this max_length."
                )
            if number < _FULLY_CHECKED:
                prompt, reply = renderer.pair(pair["prompt"], pair[side][0]["content"])
                if row["prompt_ids"] != prompt or row[f"{side}_ids"] != reply:
                    raise CheckError(f"TRL renders {where} ({side}) to other tokens than the rollout did.")


def _check_first_batch(trainer: Any, *, same_weights: bool) -> None:
    """Run the first pairs through policy and reference before anything is learned.

    With the same weights every margin is 0, so the sigmoid loss is ln 2; anything else means that one of the
    two was loaded wrongly or computes differently.
    """
    rows = [trainer.train_dataset[i] for i in range(min(len(trainer.train_dataset), 8))]
    batch = trainer.data_collator(rows)
    learned = int(batch["completion_mask"].sum())
    expected = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    if learned != expected:
        raise CheckError(
            f"The loss would cover {learned} tokens of the first batch; its replies have {expected}."
        )
    batch = {name: value.to(trainer.model.device) for name, value in batch.items()}
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
    reference_chosen, reference_rejected = trainer.compute_ref_log_probs(trainer.ref_model, batch)
    margins = trainer.beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    if not bool(torch.isfinite(margins).all()):
        raise CheckError(
            "Log-probabilities of the first batch are not finite: the policy or the reference is broken."
        )
    worst = float(margins.abs().max())
    tolerance = MARGIN_TOLERANCE[torch.bfloat16 if trainer.args.bf16 else torch.float32]
    if same_weights and worst > tolerance:
        loss = float(torch.nn.functional.softplus(-margins).mean())
        raise CheckError(
            f"Before the first step policy and reference are the same weights, yet a margin is {worst:.3g} "
            f"(at most {tolerance}) and the sigmoid loss {loss:.6f} instead of ln 2 = {math.log(2):.6f}. One "
            "of the two was not loaded from the folder it claims."
        )
