"""Loads policies from folders, tokenizer and weights, each checked on loading, and saves trained ones.

Knows nothing about what a policy is used for.
"""

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

_COPIED = {".json", ".jinja", ".txt", ".model"}  # everything but weights, code and pickles
_NOT_COPIED = {MANIFEST, "config.json"}
_LARGE = 1 << 30  # bytes of weights
_PROBE = "Twice 2 tokens,\n  spaces; ¿é, 你好? — 🙂"


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer that can be trained with.

    Raises:
        UserError: it has no chat template, no EOS, no pad token of its own, or does not give text back as it
            was.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise UserError(
            f"{folder} has no chat template, so nobody can say how a conversation reads to it. Take an "
            "instruct model, or put the template into its chat_template.jinja."
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer in {folder} has no eos_token: replies could not end. Set it to the token that "
            "ends an assistant's turn."
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"The tokenizer in {folder} pads with {tokenizer.pad_token!r}, its eos_token being "
            f"{tokenizer.eos_token!r}: an end that was padded and an end that was said would be one token. "
            "Set pad_token in tokenizer_config.json to another existing token, an unused or reserved one."
        )
    ids = tokenizer(_PROBE, add_special_tokens=False).input_ids
    returned = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if tokenizer.unk_token_id not in ids and returned.strip() != _PROBE:
        raise UserError(
            f"The tokenizer in {folder} turns {_PROBE!r} into {returned!r}. It was rebuilt wrongly on "
            "loading: check tokenizer_class in its tokenizer_config.json against the tokenizer.json beside "
            "it."
        )
    return tokenizer


def device() -> torch.device:
    """Return the device that this process computes on."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def sharded() -> bool:
    """Say whether accelerate was told to split one model over the devices (FSDP, DeepSpeed)."""
    return fsdp() or _asked_for("DEEPSPEED")


def fsdp() -> bool:
    """Say whether accelerate was told to do so by FSDP."""
    return _asked_for("FSDP")


def _asked_for(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}") == "true"


def load_model(folder: Path, dtype: torch.dtype, where: torch.device | None = None) -> Any:
    """Load weights in the given precision, onto this process's device unless told another, ready to be evaluated."""
    with _bars(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to(where or device()).eval()


def save_model(
    model: Any, source: Path, target: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Save trained weights with the tokenizer, template and generation config of the model they came from.

    Args:
        model: what was trained.
        source: folder of the model it came from.
        target: folder to write.
        weights: the whole state, where the model itself holds only a part of it.
    """
    model.config.use_cache = True  # training turns it off; the saved model is for generating
    with _bars(source):
        model.save_pretrained(target, state_dict=weights)
    for path in sorted(source.iterdir()):
        if (
            path.is_file()
            and path.name not in _NOT_COPIED
            and path.suffix in _COPIED
            and "index" not in path.name
        ):
            shutil.copyfile(path, target / path.name)


@contextmanager
def _bars(folder: Path) -> Iterator[None]:
    """Show transformers' own loading and saving bars where that takes a while, not for a tiny model."""
    small = sum(path.stat().st_size for path in folder.glob("*.safetensors")) < _LARGE
    shown = logging.is_progress_bar_enabled()
    if small:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if small and shown:
            logging.enable_progress_bar()


def context_length(folder: Path) -> int:
    """Return how many tokens a model can see, from its config."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def load_renderer(folder: Path) -> Renderer:
    """Load the tokenizer of a policy, with the tokens that end its replies: EOS and those of its generation config.

    Raises:
        UserError: as `load_tokenizer`.
    """
    ends: int | list[int] | None = None
    if (folder / "generation_config.json").is_file():
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
    return Renderer(load_tokenizer(folder), [ends] if isinstance(ends, int) else ends)


def free_memory() -> None:
    """Give memory of models that nobody holds any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
