"""TRL's DPOTrainer set up for a list of pairs: the paper's settings, batches by length, reference log-probs that are
kept.

Returns a trainer that has trained nothing yet. Whether what it will train on is right is `dpo_checks`' business.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import torch
from accelerate import PartialState
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler
from transformers import GenerationConfig
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from drift_data.workspace import UserError, replace_file
from drift_train.dpo.checkpoints import mark_complete
from drift_train.models.load import choose_device, is_fsdp, is_sharded, load_model
from drift_train.options import TrainOptions

_SHORT_RUN = 10  # steps


def make_trainer(
    policy: Path,
    reference: Path,
    pairs: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    options: TrainOptions,
    folder: Path,
    *,
    keep: bool,
    title: str,
    logs: Path,
) -> Any:
    """Return TRL's trainer over the pairs, with float32 master weights.

    With `reference_log_probs: precompute` the reference is run over all pairs here and then let go; where it is the
    policy's own folder it is never loaded a second time.

    Args:
        policy: model folder that training starts from.
        reference: model folder of DPO's reference.
        pairs: with `prompt`, `chosen`, `rejected`.
        tokenizer: of the policy.
        options: of the training.
        folder: where checkpoints go, and the reference's log-probs.
        keep: write checkpoints.
        title: the run's name for the trackers of `report_to`.
        logs: folder for TensorBoard's files, unless TENSORBOARD_LOGGING_DIR names another.

    Raises:
        UserError: the batches do not divide, adapters are asked for with sharded weights, or a tracker of
            `report_to` is not installed.
    """
    check_trackers(options.report_to)
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL's trainers report their use to the Hub
    args = _arguments(options, len(pairs), folder, keep, title)
    same = policy.resolve() == reference.resolve()
    precompute = options.reference_log_probs == "precompute"
    # the policy before training, or without its adapters; FSDP splits that only later, and a reference at once
    own = same and ((precompute and not is_fsdp()) or options.lora is not None)
    where = (
        torch.device("cpu") if is_sharded() else choose_device()
    )  # a whole model may not fit where it is split
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs]
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # tokenizing has no business among the steps
    try:
        trainer = _Trainer(
            model=_without_mask(_saveable(load_model(policy, torch.float32, where))),
            ref_model=None if own else _without_mask(load_model(reference, torch.float32, where)),
            args=args,
            train_dataset=_data_set(rows, folder),
            processing_class=tokenizer,
            peft_config=_lora(options),
        )
    finally:
        if not bars:
            datasets.enable_progress_bars()
    if precompute:
        trainer.ref_model = None
        trainer.accelerator.free_memory()
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(
                logs
            )  # its own choice lies in `folder`, which goes when training is done
    return trainer


def check_trackers(names: Sequence[str]) -> None:
    """Check that every tracker is one and is installed.

    Raises:
        UserError: one is not.
    """
    try:
        named = [
            name for name in names if name not in ("all", "none")
        ]  # transformers' words for what is installed
        for callback in get_reporting_integration_callbacks(named):
            callback()
    except (RuntimeError, ImportError, ValueError) as error:
        raise UserError(f"report_to {names}: {error}") from error


def _data_set(rows: list[dict[str, Any]], folder: Path) -> datasets.Dataset:
    """Return the rows as a data set; several processes share one on the disk, where TRL hands results over."""
    state = PartialState()
    if state.num_processes == 1:
        return datasets.Dataset.from_list(rows)
    if state.is_main_process:
        shutil.rmtree(folder / "pairs", ignore_errors=True)
        datasets.Dataset.from_list(rows).save_to_disk(folder / "pairs")
    state.wait_for_everyone()
    return datasets.load_from_disk(folder / "pairs")


def warmup_steps(pairs: int, options: TrainOptions) -> int:
    """Return the steps of warm-up: the ratio of all steps, rounded up as transformers does; none in a short run.

    The schedule starts from 0, so the first step of a warm-up learns nothing: with fewer than 10 steps that would be
    a noticeable share of the pairs, with a single step all of them.
    """
    steps = total_steps(pairs, options)
    return math.ceil(options.warmup_ratio * steps) if steps >= _SHORT_RUN else 0


def total_steps(pairs: int, options: TrainOptions) -> int:
    """Return the number of updates that a training takes."""
    return math.ceil(options.epochs * math.ceil(pairs / options.global_batch))


def in_bf16(options: TrainOptions) -> bool:
    """Say whether this process trains with bf16 autocast; `auto` depends on its device."""
    return options.precision == "bf16" or (options.precision == "auto" and choose_device().type == "cuda")


def kind_of_weights(bf16: bool) -> str:
    """Say how a checkpoint of this process has its weights."""
    return f"{'split' if is_sharded() else 'whole'} weights, trained in {'bf16' if bf16 else 'float32'}"


def _arguments(options: TrainOptions, pairs: int, folder: Path, keep: bool, title: str) -> DPOConfig:
    on_gpu = choose_device().type == "cuda"
    at_once = options.per_device_batch * PartialState(cpu=not on_gpu).num_processes
    if options.global_batch % at_once:
        raise UserError(
            f"global_batch {options.global_batch} is no multiple of the {at_once} pairs that all devices "
            "take at once. Change per_device_batch."
        )
    if options.lora is not None and is_sharded():
        raise UserError(
            "lora trains on whole copies of the model: FSDP and DeepSpeed split it. Take a launch configuration without "
            "them, or train all weights (lora: null)."
        )
    return DPOConfig(
        output_dir=str(folder),
        save_strategy="steps" if keep else "no",
        save_steps=options.checkpoint_steps,
        save_total_limit=2,  # the last whole one stays until the next is whole
        beta=options.beta,
        loss_type=[options.loss, "sft"] if options.alpha else [options.loss],
        loss_weights=[1.0, options.alpha] if options.alpha else None,
        ld_alpha=options.ld_alpha,
        precompute_ref_log_probs=options.reference_log_probs == "precompute",
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.scheduler,
        warmup_steps=warmup_steps(pairs, options),
        optim=options.optimizer,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.per_device_batch,
        gradient_accumulation_steps=options.global_batch // at_once,
        max_length=options.max_length,
        max_grad_norm=options.max_grad_norm,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=in_bf16(options),
        use_cpu=not on_gpu,
        seed=options.seed,
        report_to=options.report_to or "none",
        run_name=title,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a NaN must be seen, not replaced by the running mean
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=on_gpu,
    )


def _lora(options: TrainOptions) -> LoraConfig | None:
    if options.lora is None:
        return None
    return LoraConfig(
        r=options.lora.rank,
        lora_alpha=options.lora.alpha,
        lora_dropout=0.0,  # policy and reference are compared: they must not differ by chance
        target_modules="all-linear",  # without the head, whose adapter TRL would not train
        task_type="CAUSAL_LM",
    )


class _Trainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer with our order of batches, kept reference log-probs, and checkpoints that say they are whole."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        columns = [self.train_dataset[f"{name}_ids"] for name in ("prompt", "chosen", "rejected")]
        lengths = [len(p) + max(len(c), len(r)) for p, c, r in zip(*columns, strict=True)]
        args = self.args
        at_once = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthSortedBatches(lengths, at_once, args.seed, lambda: int(self.state.epoch or 0))

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """As TRL's, unless a run that was cut has left them; sorted by length, so that little is padded."""
        precision = "bf16" if self.args.bf16 else "float32"
        path = Path(self.args.output_dir) / f"reference-{precision}.safetensors"
        if path.is_file():
            kept = load_file(path)
        else:
            lengths = [
                len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in dataset
            ]
            order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
            computed = super()._precompute_ref_logps(dataset.select(order), name, batch_size)
            place = torch.tensor(order).argsort()
            kept = {
                side: torch.tensor(computed[f"ref_{side}_logps"])[place].contiguous()
                for side in ("chosen", "rejected")
            }
            if self.accelerator.is_main_process:
                path.parent.mkdir(parents=True, exist_ok=True)
                with replace_file(path) as part:
                    save_file(kept, part)
            self.accelerator.wait_for_everyone()
        for side in ("chosen", "rejected"):
            dataset = dataset.add_column(f"ref_{side}_logps", kept[side].tolist())
        return dataset

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process saves a part
        if self.accelerator.is_main_process:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            mark_complete(checkpoint, kind_of_weights(self.args.bf16))


class LengthSortedBatches(Sampler[int]):
    """Random global batches, each full one sorted by length, longest first, so that a micro-batch pads little.

    The last, smaller one may end in a smaller micro-batch, whose mean weighs as much as the others': sorted, that extra
    weight would always be the shortest pairs'.

    Which pairs share an update is as random as without the sorting, and the same on any number of devices.
    transformers has two samplers for this, and neither fits: `group_by_length` fills whole updates with replies of
    one length, `batch_rebalance` makes micro-batches of several sizes, whose means TRL weighs alike.

    Args:
        lengths: tokens of each pair's longer side.
        global_batch: pairs of one update.
        seed: of the order.
        epoch: says which epoch begins; asked anew in each.
    """

    def __init__(
        self, lengths: Sequence[int], global_batch: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self._lengths, self._global_batch, self._seed, self._epoch = lengths, global_batch, seed, epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch())
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._global_batch):
            batch = order[start : start + self._global_batch]
            if len(batch) == self._global_batch:
                batch.sort(key=self._lengths.__getitem__, reverse=True)
            yield from batch


def _saveable(model: Any) -> Any:
    """Let a model be saved whatever its generation config asks for.

    transformers loads one that contradicts itself (`do_sample: false` with a temperature) with a warning, and refuses to
    save it: with the first checkpoint, or when all is trained. `save_model` copies the file of the model's origin anyway.
    """
    known = model.generation_config
    tokens = {name: getattr(known, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**tokens)
    return model


def _without_mask(model: Any) -> Any:
    """Let a causal model attend without TRL's padding mask, where that changes nothing and costs much.

    The padding is on the right, so no token sees it anyway; with a mask torch's attention can neither skip the future
    nor avoid a (batch, 1, seq, seq) matrix. Mixtures of experts keep it: their balancing loss counts tokens by it.
    """

    def drop(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": None}

    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa" and not hasattr(config, "output_router_logits"):
        model.base_model.register_forward_pre_hook(
            drop, with_kwargs=True
        )  # adapters go round the model's own hooks
    return model
