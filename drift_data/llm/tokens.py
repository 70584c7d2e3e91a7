"""Counts tokens before anything is sent: by the model's own tokenizer where there is one, else by rule of thumb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drift_data.workspace import UserError

_BYTES_PER_TOKEN: Final = 4  # rule of thumb: English has 4 to 5, source code and Chinese about 3
_TOKENS_PER_MESSAGE: Final = 4  # what a chat template adds to a message


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """A way to count the tokens of a message."""

    count: Callable[[str], int]  # a message's text → its tokens, those of the chat template included
    how: str  # how tokens are counted, in words for the estimate


def choose_token_counter(model: str, tokenizer: str | None = None, *, openai: bool = False) -> TokenCounter:
    """Return the most exact counter for a model.

    Args:
        model: the model's name, as the server knows it.
        tokenizer: folder with a `tokenizer.json`, such a file, or a Hub id; None: the recipe names no tokenizer.
        openai: whether the model is one of OpenAI's, whose tokenizer `tiktoken` has or fetches.

    Raises:
        UserError: `tokenizer` cannot be read.
    """
    if tokenizer is not None:
        return _load_tokenizer(tokenizer)
    counter = _load_tiktoken(model) if openai else None
    return counter or TokenCounter(
        lambda text: -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE,
        f"{_BYTES_PER_TOKEN} bytes a token, by rule of thumb",
    )


def _load_tokenizer(name: str) -> TokenCounter:
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
        lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids) + _TOKENS_PER_MESSAGE,
        f"the tokenizer {name}",
    )


def _load_tiktoken(model: str) -> TokenCounter | None:
    """Return the counter of an OpenAI model; None when tiktoken does not know it or cannot fetch its file."""
    import requests  # what tiktoken fetches with
    import tiktoken

    try:
        encoding = tiktoken.encoding_for_model(model)
    except (KeyError, requests.RequestException):
        return None
    return TokenCounter(
        lambda text: len(encoding.encode(text, disallowed_special=())) + _TOKENS_PER_MESSAGE,
        f"OpenAI's own tokenizer ({encoding.name})",
    )
