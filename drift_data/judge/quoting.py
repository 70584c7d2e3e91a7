"""Quotes log text in a prompt so that it stays data: shortened, disarmed, and between fences.

Each fence carries a code that occurs nowhere in the quoted text, so a message cannot close its own fence and pose as
the prompt. A fence cannot keep a model from believing what a message says; the prompt has to tell the model not to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from drift_data.chats.safe_text import escape_invisible

# The start of what a chat template reads as a control token: <|im_end|>, <s>, [INST], <<SYS>>, <end_of_turn>, <think>, …
_CONTROL_TOKEN_START = re.compile(
    r"<(?=[|｜][^|｜<>\n]{1,60}[|｜]>|/?(?:s|think|tool_call|tool_response)>|<?/?SYS>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk|sop)>|seed:[a-z_]{1,30}>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|gMASK)\])"
)
_FENCE_CODE_DIGITS = 8  # hexadecimal digits of a fence code


class QuotingOptions(BaseModel):
    """How much of each message a prompt shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_characters: int = Field(
        3_000,
        ge=200,
        description="Most characters of a user message that are shown; the middle of a longer one is left out.",
        json_schema_extra={"source": "ours", "unit": "characters"},
    )
    reply_characters: int = Field(
        1_200,
        ge=200,
        description="Most characters of an assistant's or a system message that are shown; the middle of a longer one "
        "is left out.",
        json_schema_extra={"source": "ours", "unit": "characters"},
    )

    def max_characters(self, role: str) -> int:
        """Return how many characters of a message with this role are shown."""
        return self.user_characters if role == "user" else self.reply_characters


class QuotedMessage(NamedTuple):
    """A message as a prompt shows it."""

    heading: str  # our own words, such as "[4] user"
    text: str  # log text as `quote_text` returns it


def quote_text(text: str, limit: int) -> str:
    """Return log text in a form that is safe to put into a prompt.

    Invisible characters that act on the text around them are spelled out; line breaks and tabs stay. A space breaks
    whatever a chat template would read as a control token. Of a text longer than `limit` characters, the middle is
    left out.
    """
    text = text.replace("\r\n", "\n")
    if len(text) > limit:
        head, tail = limit - limit // 3, limit // 3
        text = f"{text[:head]}\n[… {len(text) - limit:,} characters left out …]\n{text[-tail:]}"
    if "<" in text or "[" in text:
        text = _CONTROL_TOKEN_START.sub(lambda match: match[0] + " ", text)
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return escape_invisible(text, len(text), keep="\n\t")


def quote_messages(messages: Iterable[QuotedMessage]) -> str:
    """Return the messages one below the other, each under its heading and between fences.

    Equal messages give equal text, so that a request that is made again has the same key.
    """
    messages = list(messages)
    code = _choose_fence_code([message.text for message in messages])
    return "\n".join(f"{m.heading}\n<{code}>\n{m.text}\n</{code}>" for m in messages)


def _choose_fence_code(texts: list[str]) -> str:
    """Return a fence code that occurs in none of the texts.

    The code is a hash of the texts, so their writer could not write it into them.
    """
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass"))
    while True:
        code = digest.hexdigest()[:_FENCE_CODE_DIGITS]
        if not any(code in text for text in texts):
            return code
        digest.update(b"again")
