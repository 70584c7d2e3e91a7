"""Trains a model on a list of pairs by DPO: checks what must hold, trains with TRL, saves a plain model.

A training that was killed goes on from its last whole checkpoint.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from drift_data.workspace import UserError, replace_file
from drift_train.dpo.checkpoints import find_resume_point, partial_metrics_path, remove_broken
from drift_train.dpo.checks import check_first_batch, check_reference, check_rows, check_tokens
from drift_train.dpo.metrics import MetricsWriter
from drift_train.dpo.trainer import count_updates, describe_weights, make_trainer, uses_bf16
from drift_train.models.load import free_memory, is_sharded, load_renderer, save_model
from drift_train.options import TrainOptions


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
    unfinished: Path | None = None,
) -> dict[str, Any]:
    """Train a copy of `policy` on pairs and save it to `target`, in float32, adapters merged in.

    Args:
        policy: model folder that training starts from.
        reference: model folder of DPO's reference.
        pairs: rows of the `pairs` table, all of split "train".
        target: folder that the trained model is written into; plain transformers and vllm load it.
        metrics: JSON Lines file, one line for each optimiser step. Lines go to `*.partial.jsonl` until the model is
            saved, so a killed training leaves the metrics of the model that is in place. With `unfinished` the
            partial file stays: checkpoints cannot be resumed without it until the caller has moved `target` into place.
        options: options of the training. With `launch` it runs in processes of its own.
        iteration: number of the iteration, for the metrics.
        method: the method that made the pairs, for the metrics.
        title: name of the progress bar.
        unfinished: folder of checkpoints. A training resumes from what a killed one with the same arguments left
            there. None: no checkpoint is kept.

    Returns:
        `steps`, `last_step` (its metrics), `precision` of the training, `precision_saved` of the saved weights.

    Raises:
        UserError: pairs of another split, a `max_length` beyond the model's context, several GPUs in one
            process, or too little memory on one.
        CheckError: TRL sees other tokens than our rendering or would cut some, the log-ratio at step 0 is not 0
            although policy and reference are the same weights, a reference log-probability is missing, or a loss
            is not finite.
    """
    result = run_training(
        {
            "policy": policy,
            "reference": reference,
            "pairs": pairs,
            "target": target,
            "metrics": metrics,
            "options": options,
            "iteration": iteration,
            "method": method,
            "title": title,
            "unfinished": unfinished,
        }
    )
    partial = partial_metrics_path(metrics)
    with replace_file(metrics) as part:
        shutil.copyfile(partial, part)
    if unfinished is None:
        partial.unlink()
    return result


def run_training(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call `train_here` with these arguments, in this process or in those that `options.launch` asks for."""
    options = arguments["options"]
    check_rows(arguments["pairs"], arguments["policy"], options)
    if options.launch is not None:
        from drift_train.dpo.launch import launch_training

        return launch_training(arguments)
    _check_devices()
    return train_here(**arguments)


def train_here(
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
    unfinished: Path | None = None,
) -> dict[str, Any]:
    """Train as `train` does, in this process, which may be one of several that accelerate started.

    The metrics stay at `*.partial.jsonl`.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    PartialState(cpu=not torch.cuda.is_available())  # from now on each process has a device of its own
    partial = partial_metrics_path(metrics)
    keep = unfinished is not None and count_updates(len(pairs), options) > options.checkpoint_steps
    scratch = tempfile.TemporaryDirectory(prefix=".trl-", dir=target.parent)
    folder = unfinished / "training" if unfinished is not None else Path(scratch.name)
    # A killed run may have written checkpoints although this one is told to keep none, so the folder is searched anyway.
    checkpoint, rows = (
        find_resume_point(folder, partial, describe_weights(uses_bf16(options)))
        if unfinished is not None
        else (None, [])
    )
    same = policy.resolve() == reference.resolve()
    writer = MetricsWriter(partial, iteration, method, options.alpha, title, rows, same)
    try:
        steps, saved = _train_and_save(
            policy, reference, pairs, target, options, writer, folder, keep, checkpoint
        )
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{title}: the GPU is out of memory. Halve per_device_batch ({options.per_device_batch}); "
            "global_batch stays as it is by accumulation. Then set gradient_checkpointing, lower max_length, train "
            "adapters (lora), or split the model over several GPUs (launch: gpus8-fsdp2)."
        ) from error
    finally:
        writer.close()
        scratch.cleanup()
        free_memory()  # nothing refers to trainer and models any more, and an engine needs the memory next
    precision = "bf16" if uses_bf16(options) else "float32"
    last = {name: round(value, 6) for name, value in writer.last.items()}
    return {"steps": steps, "last_step": last, "precision": precision, "precision_saved": saved}


def _train_and_save(
    policy: Path,
    reference: Path,
    pairs: Sequence[Mapping[str, Any]],
    target: Path,
    options: TrainOptions,
    writer: MetricsWriter,
    folder: Path,
    keep: bool,
    checkpoint: Path | None,
) -> tuple[int, str]:
    """Check, train and save; return the number of steps and the saved precision.

    Only this frame holds the trainer and the models, so their memory can be freed when it returns.
    """
    renderer = load_renderer(policy)
    trainer = make_trainer(
        policy,
        reference,
        pairs,
        renderer.tokenizer,
        options,
        folder,
        keep=keep,
        title=writer.title,
        logs=writer.path.parent / "tensorboard",
    )
    writer.meter.watch(trainer.model)
    check_tokens(trainer.train_dataset, pairs, renderer, options.max_length)
    if trainer.precompute_ref_logps:
        check_reference(trainer.train_dataset, pairs)
    check_first_batch(trainer, pairs, same_weights=policy.resolve() == reference.resolve())
    trainer.add_callback(writer)
    if trainer.accelerator.is_main_process:
        remove_broken(folder, checkpoint)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return int(trainer.state.global_step), _save(trainer, policy, target)


def _save(trainer: Any, policy: Path, target: Path) -> str:
    """Save the whole model from the first process, with adapters merged, and return the precision of its weights."""
    accelerator = trainer.accelerator
    weights = accelerator.get_state_dict(trainer.model_wrapped) if is_sharded() else None
    saved = "float32"
    if accelerator.is_main_process:
        model = accelerator.unwrap_model(trainer.model)
        if hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        save_model(model, policy, target, weights)
        first = next(iter(weights.values())) if weights else next(model.parameters())
        saved = str(first.dtype).removeprefix("torch.")
    accelerator.wait_for_everyone()
    return saved


def _check_devices() -> None:
    """Refuse one process that sees several GPUs, before TRL refuses it in words that do not help."""
    seen = torch.cuda.device_count()
    if seen > 1 and "WORLD_SIZE" not in os.environ:
        raise UserError(
            f"This process sees {seen} GPUs and trains on one. Use them all with train.launch (e.g. gpus8-fsdp2, see "
            "docs/guide/multi-gpu.md), or make one visible, e.g. CUDA_VISIBLE_DEVICES=0, and run again: what is finished is kept."
        )
