"""Finds and loads policies: the base model by name, tokenizers and weights from a folder, each checked on
loading.

Knows nothing about what a policy is used for.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from drift_data.workspace import MANIFEST, UserError, Workspace, folder_digest

_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_COPIED = {".json", ".jinja", ".txt", ".model"}  # everything but weights, code and pickles
_NOT_COPIED = {MANIFEST, "config.json"}
_LARGE = 1 << 30  # bytes of weights
_PROBE = "Twice 2 tokens,\n  spaces; ¿é, 你好? — 🙂"


@dataclass(frozen=True)
class Base:
    """The model that a run starts from, and what the manifests record of it."""

    name: str  # as the user gave it
    path: Path
    inputs: tuple[str, ...]  # folders of the workspace
    files: dict[str, str]  # anything else and its digest, or revision on the Hub


def resolve_base(workspace: Workspace, name: str) -> Base:
    """Find a base model: a folder of the workspace, another local folder, or a Hub id (which is then
    downloaded).

    Raises:
        UserError: none of the three is there.
    """
    inside = workspace.path(name)
    if not Path(name).is_absolute() and (inside / MANIFEST).is_file():
        return Base(name, inside, (name,), {})
    if Path(name).is_dir():
        _require_config(Path(name))
        return Base(name, Path(name), (), {f"base:{name}": folder_digest(Path(name))})
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise UserError(
            f"No base model {name}: it is neither a finished folder of {workspace.root}, nor a folder, nor a "
            "Hub id such as owner/name."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"The base model {name} is not a folder, and the Hub does not give it: {error}"
        ) from error
    _require_config(path)
    return Base(name, path, (), {f"base:{name}": f"revision:{path.name}"})


def _require_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is no model: it has no config.json. Give a folder made by save_pretrained."
        )


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
            f"The tokenizer in {folder} has no eos_token: replies could not end. Set it to the token that ends an "
            "assistant's turn."
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
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """Load weights in the given precision onto this process's device, ready to be evaluated."""
    with _bars(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to(device()).eval()


def save_model(model: Any, source: Path, target: Path) -> None:
    """Save trained weights with the tokenizer, template and generation config of the model they came from."""
    model.config.use_cache = True  # training turns it off; the saved model is for generating
    with _bars(source):
        model.save_pretrained(target)
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


def stop_token_ids(folder: Path, tokenizer: Any) -> list[int]:
    """Return the tokens that end a reply: the tokenizer's EOS and those of the model's generation config."""
    ids = {int(tokenizer.eos_token_id)}
    if (folder / "generation_config.json").is_file():
        more = GenerationConfig.from_pretrained(folder).eos_token_id
        ids.update([] if more is None else [more] if isinstance(more, int) else more)
    return sorted(ids)


def free_memory() -> None:
    """Give memory of models that nobody holds any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def link_model(source: Path, target: Path) -> None:
    """Make `target` the same model as `source`, by hard links where they can be made."""
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.name == MANIFEST:
            continue
        real = path.resolve()  # a Hub snapshot is made of links
        try:
            os.link(real, target / path.name)
        except OSError:  # another file system
            shutil.copyfile(real, target / path.name)
