"""Sets up TRL's DPOTrainer for a list of pairs: the recipe's settings, batches by length, kept reference log-probs.

`dpo.checks` looks at what the trainer is about to train on.
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

_STEPS_WITHOUT_WARMUP = 10  # a training of fewer steps has no warm-up


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

    With `reference_log_probs: precompute` the reference runs over all pairs here and is then let go. A reference that is
    the policy's own folder is not loaded a second time.

    Args:
        policy: model folder that training starts from.
        reference: model folder of DPO's reference.
        pairs: rows with `prompt`, `chosen`, `rejected`.
        tokenizer: the policy's tokenizer.
        options: options of the training.
        folder: gets checkpoints and the reference's log-probs.
        keep: whether checkpoints are written.
        title: the run's name for the trackers of `report_to`.
        logs: folder for TensorBoard's files, unless TENSORBOARD_LOGGING_DIR names another.

    Raises:
        UserError: the batches do not divide, adapters are asked for with sharded weights, or a tracker of
            `report_to` is not installed.
    """
    check_trackers(options.report_to)
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL's trainers report their use to the Hub
    args = _make_config(options, len(pairs), folder, keep, title)
    same = policy.resolve() == reference.resolve()
    precompute = options.reference_log_probs == "precompute"
    # Whether the policy's own weights serve as the reference: before training, or later without the adapters. Before
    # training they do not under FSDP, which splits a reference at once and the policy only later.
    is_own_reference = same and ((precompute and not is_fsdp()) or options.lora is not None)
    # A model that will be split is loaded on the CPU, since one device may be too small for the whole of it.
    where = torch.device("cpu") if is_sharded() else choose_device()
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs]
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # bars of tokenizing would confuse among those of steps
    try:
        trainer = _Trainer(
            model=_drop_padding_mask(_make_saveable(load_model(policy, torch.float32, where))),
            ref_model=None
            if is_own_reference
            else _drop_padding_mask(load_model(reference, torch.float32, where)),
            args=args,
            train_dataset=_make_dataset(rows, folder),
            processing_class=tokenizer,
            peft_config=_make_lora_config(options),
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
            # TensorBoard's default lies in `folder`, which is removed after training.
            callback.logging_dir = str(logs)
    return trainer


def check_trackers(names: Sequence[str]) -> None:
    """Check that every name is a tracker that transformers knows, and that it is installed.

    Raises:
        UserError: a name is not such a tracker.
    """
    try:
        # "all" and "none" are words of transformers for groups of trackers.
        named = [name for name in names if name not in ("all", "none")]
        for callback in get_reporting_integration_callbacks(named):
            callback()
    except (RuntimeError, ImportError, ValueError) as error:
        raise UserError(f"report_to {names}: {error}") from error


def _make_dataset(rows: list[dict[str, Any]], folder: Path) -> datasets.Dataset:
    """Return the rows as a data set. Several processes share one on the disk, where TRL hands results over."""
    state = PartialState()
    if state.num_processes == 1:
        return datasets.Dataset.from_list(rows)
    if state.is_main_process:
        shutil.rmtree(folder / "pairs", ignore_errors=True)
        datasets.Dataset.from_list(rows).save_to_disk(folder / "pairs")
    state.wait_for_everyone()
    return datasets.load_from_disk(folder / "pairs")


def count_warmup_steps(pairs: int, options: TrainOptions) -> int:
    """Return the number of warm-up steps: `warmup_ratio` of all steps, rounded up as transformers does.

    A training of fewer than 10 steps has none. The schedule starts from 0, so the first step of a warm-up learns
    nothing: that would be a noticeable share of the pairs, and with a single step all of them.
    """
    steps = count_updates(pairs, options)
    return math.ceil(options.warmup_ratio * steps) if steps >= _STEPS_WITHOUT_WARMUP else 0


def count_updates(pairs: int, options: TrainOptions) -> int:
    """Return the number of updates that a training takes."""
    return math.ceil(options.epochs * math.ceil(pairs / options.global_batch))


def uses_bf16(options: TrainOptions) -> bool:
    """Say whether this process trains with bf16 autocast: `auto` means so on a GPU."""
    return options.precision == "bf16" or (options.precision == "auto" and choose_device().type == "cuda")


def describe_weights(bf16: bool) -> str:
    """Return the weight layout and the precision of this process's checkpoints, as text."""
    return f"{'split' if is_sharded() else 'whole'} weights, trained in {'bf16' if bf16 else 'float32'}"


def _make_config(options: TrainOptions, pairs: int, folder: Path, keep: bool, title: str) -> DPOConfig:
    on_gpu = choose_device().type == "cuda"
    at_once = options.per_device_batch * PartialState(cpu=not on_gpu).num_processes
    if options.global_batch % at_once:
        raise UserError(
            f"global_batch {options.global_batch} is not a multiple of the {at_once} pairs that all devices "
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
        save_total_limit=2,  # the last whole checkpoint stays until the next one is whole
        beta=options.beta,
        loss_type=[options.loss, "sft"] if options.alpha else [options.loss],
        loss_weights=[1.0, options.alpha] if options.alpha else None,
        ld_alpha=options.ld_alpha,
        precompute_ref_log_probs=options.reference_log_probs == "precompute",
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.scheduler,
        warmup_steps=count_warmup_steps(pairs, options),
        optim=options.optimizer,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.per_device_batch,
        gradient_accumulation_steps=options.global_batch // at_once,
        max_length=options.max_length,
        max_grad_norm=options.max_grad_norm,
        gradient_checkpointing=options.gradient_checkpointing,
        bf16=uses_bf16(options),
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


def _make_lora_config(options: TrainOptions) -> LoraConfig | None:
    if options.lora is None:
        return None
    return LoraConfig(
        r=options.lora.rank,
        lora_alpha=options.lora.alpha,
        lora_dropout=0.0,  # policy and reference are compared, so they must not differ by chance
        target_modules="all-linear",  # which leaves the head out; TRL would not train its adapter
        task_type="CAUSAL_LM",
    )


class _Trainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer with batches by length, kept reference log-probs, and a mark on whole checkpoints."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        columns = [self.train_dataset[f"{name}_ids"] for name in ("prompt", "chosen", "rejected")]
        lengths = [len(p) + max(len(c), len(r)) for p, c, r in zip(*columns, strict=True)]
        args = self.args
        at_once = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthSortedBatches(lengths, at_once, args.seed, lambda: int(self.state.epoch or 0))

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Compute the reference's log-probs in the order of length, so that little is padded, or read those of a killed run."""
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
        self.accelerator.wait_for_everyone()  # every process saves a part
        if self.accelerator.is_main_process:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            mark_complete(checkpoint, describe_weights(self.args.bf16))


class LengthSortedBatches(Sampler[int]):
    """Orders pairs in random global batches; each full batch is sorted by length, so that micro-batches pad little.

    Which pairs share an update is as random as without the sorting, and the same on any number of devices. The last
    global batch, when it is smaller, is not sorted: it may end in a smaller micro-batch, whose mean TRL weighs as much as
    any other, and that extra weight would always go to the shortest pairs.

    Two samplers of transformers do something similar, and neither fits: `group_by_length` fills whole updates with
    replies of one length, `batch_rebalance` makes micro-batches of several sizes, whose means TRL weighs alike.

    Args:
        lengths: tokens of the longer side of each pair.
        global_batch: pairs of one update.
        seed: seed of the order.
        epoch: returns the epoch that begins; called once in each.
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


def _make_saveable(model: Any) -> Any:
    """Reduce a model's generation config to its special tokens, so that the model can be saved.

    transformers loads a generation config that contradicts itself (`do_sample: false` with a temperature) with a warning,
    and refuses to save it: at the first checkpoint, or after the training. `save_model` copies the original file anyway.
    """
    known = model.generation_config
    tokens = {name: getattr(known, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**tokens)
    return model


def _drop_padding_mask(model: Any) -> Any:
    """Have a causal model attend without TRL's padding mask, which changes nothing there and is slow.

    The padding is on the right, where no token of a text attends to it. With a mask, torch's attention can neither skip
    the future nor avoid a (batch, 1, seq, seq) matrix. Mixtures of experts keep the mask: their balancing loss counts
    tokens by it.
    """

    def drop(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": None}

    config = model.config.get_text_config()
    if config._attn_implementation == "sdpa" and not hasattr(config, "output_router_logits"):
        # On the base model, because adapters call it past the hooks of the model itself.
        model.base_model.register_forward_pre_hook(drop, with_kwargs=True)
    return model
