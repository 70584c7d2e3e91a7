"""Counts tokens before anything is sent: with the model's own tokenizer where it can be had, else by rule of thumb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drift_data.workspace import UserError

_BYTES: Final = 4  # a token, by rule of thumb: English has 4 to 5, source code and Chinese about 3
_PER_MESSAGE: Final = 4  # tokens that a chat template adds


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of a text; `how` says by what means, for the person who reads an estimate."""

    count: Callable[[str], int]
    how: str


def token_counter(model: str, tokenizer: str | None = None, *, openai: bool = False) -> TokenCounter:
    """Return the best counter there is for a model.

    Args:
        model: its name, as the server knows it.
        tokenizer: folder with a `tokenizer.json`, such a file, or a Hub id; None: nothing is known.
        openai: the model is one of OpenAI's, whose tokenizer `tiktoken` has or fetches.

    Raises:
        UserError: `tokenizer` cannot be read.
    """
    if tokenizer is not None:
        return _from_file(tokenizer)
    counter = _tiktoken(model) if openai else None
    return counter or TokenCounter(
        lambda text: -(-len(text.encode("utf-8", "replace")) // _BYTES) + _PER_MESSAGE,
        f"{_BYTES} bytes a token, by rule of thumb",
    )


def _from_file(name: str) -> TokenCounter:
    from tokenizers import Tokenizer

    path = Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"The tokenizer {name} cannot be read: {error}. Give a folder with tokenizer.json or a Hub id "
            "(label.tokenizer), or leave it out."
        ) from error
    return TokenCounter(
        lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids) + _PER_MESSAGE,
        f"the tokenizer {name}",
    )


def _tiktoken(model: str) -> TokenCounter | None:
    """Return the counter of an OpenAI model; None when it is unknown or its file cannot be fetched."""
    import requests  # what tiktoken fetches with
    import tiktoken

    try:
        encoding = tiktoken.encoding_for_model(model)
    except (KeyError, requests.RequestException):
        return None
    return TokenCounter(
        lambda text: len(encoding.encode(text, disallowed_special=())) + _PER_MESSAGE,
        f"OpenAI's own tokenizer ({encoding.name})",
    )
