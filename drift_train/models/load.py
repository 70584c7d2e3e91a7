"""Loads tokenizers and weights from folders, checks them, and saves trained models."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from drift_data.workspace import MANIFEST, UserError
from drift_train.models.render import Renderer

# Endings of the files copied beside saved weights: no code, no pickles.
_COPIED_ENDINGS = {".json", ".jinja", ".txt", ".model"}
_NOT_COPIED = {MANIFEST, "config.json"}  # written anew for a saved model
_BYTES_WITH_PROGRESS_BAR = 1 << 30  # of weights, from which a bar is shown; fewer load in about a second
_ROUND_TRIP_TEXT = "Twice 2 tokens,\n  spaces; ¿é, 你好? — 🙂"


def load_tokenizer(folder: Path) -> Any:
    """Return a folder's tokenizer, checked to be fit for training.

    Raises:
        UserError: the tokenizer has no chat template, no EOS, or no pad token besides its EOS, or decodes a text to
            another one.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise UserError(
            f"{folder} has no chat template, so conversations cannot be rendered for this model. Take an "
            "instruct model, or put the template into its chat_template.jinja."
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer in {folder} has no eos_token: replies could not end. Set it to the token that "
            "ends an assistant's turn."
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"The tokenizer in {folder} has the pad_token {tokenizer.pad_token!r} and the eos_token "
            f"{tokenizer.eos_token!r}. The two must differ, or padding cannot be told from the end of a reply. "
            "Set pad_token in tokenizer_config.json to another existing token, an unused or reserved one."
        )
    ids = tokenizer(_ROUND_TRIP_TEXT, add_special_tokens=False).input_ids
    returned = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if tokenizer.unk_token_id not in ids and returned.strip() != _ROUND_TRIP_TEXT:
        raise UserError(
            f"The tokenizer in {folder} turns {_ROUND_TRIP_TEXT!r} into {returned!r}. It was rebuilt wrongly on "
            "loading: check tokenizer_class in its tokenizer_config.json against the tokenizer.json beside "
            "it."
        )
    return tokenizer


def choose_device() -> torch.device:
    """Return the device that this process computes on: its current GPU, or the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def is_sharded() -> bool:
    """Say whether accelerate splits one model over the devices, by FSDP or DeepSpeed."""
    return is_fsdp() or _is_chosen("DEEPSPEED")


def is_fsdp() -> bool:
    """Say whether accelerate splits one model over the devices by FSDP."""
    return _is_chosen("FSDP")


def _is_chosen(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}") == "true"


def load_model(folder: Path, dtype: torch.dtype, where: torch.device | None = None) -> Any:
    """Return a folder's model in evaluation mode, in the given precision, on `where` or this process's device."""
    with _progress_bars(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to(where or choose_device()).eval()


def save_model(
    model: Any, source: Path, target: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Save a trained model with the tokenizer, template and generation config of the model that it started from.

    Args:
        model: the trained model.
        source: folder of the model that it started from.
        target: folder to write.
        weights: all weights, where `model` holds only a part of them; None: those of `model`.
    """
    model.config.use_cache = True  # training turns the cache off, generating needs it
    with _progress_bars(source):
        model.save_pretrained(target, state_dict=weights)
    for path in sorted(source.iterdir()):
        if (
            path.is_file()
            and path.name not in _NOT_COPIED
            and path.suffix in _COPIED_ENDINGS
            and "index" not in path.name
        ):
            shutil.copyfile(path, target / path.name)


@contextmanager
def _progress_bars(folder: Path) -> Iterator[None]:
    """Show transformers' own bars for loading and saving a large model, and none for a small one."""
    small = sum(path.stat().st_size for path in folder.glob("*.safetensors")) < _BYTES_WITH_PROGRESS_BAR
    shown = logging.is_progress_bar_enabled()
    if small:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if small and shown:
            logging.enable_progress_bar()


def read_context_length(folder: Path) -> int:
    """Return how many tokens a model can see, as its config says; 2^30 where the config does not say it."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def load_renderer(folder: Path) -> Renderer:
    """Return the renderer of a folder's tokenizer. Replies end with EOS or with an EOS of its generation config.

    Raises:
        UserError: as `load_tokenizer`.
    """
    ends: int | list[int] | None = None
    if (folder / "generation_config.json").is_file():
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
    return Renderer(load_tokenizer(folder), [ends] if isinstance(ends, int) else ends)


def free_memory() -> None:
    """Give the memory of models that are no longer referenced back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
