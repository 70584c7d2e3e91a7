"""Puts log text into a prompt so that it stays data: bounded, disarmed, between fences that it cannot close.

A fence is named by a code that occurs nowhere in the text it encloses, so no message can end its own fence and
speak as the prompt. It cannot keep a model from believing what a message says: the prompt tells it not to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from drift_data.chats.safe_text import visible

# What chat templates read as control tokens: <|im_end|>, <s>, [INST], <<SYS>>, <end_of_turn>, <think>, …
_CONTROL = re.compile(
    r"<(?=[|｜][^|｜<>\n]{1,60}[|｜]>|/?(?:s|think|tool_call|tool_response)>|<?/?SYS>|(?:start|end)_of_turn>|(?:bos|eos|pad|unk|sop)>|seed:[a-z_]{1,30}>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|gMASK)\])"
)
_CODE = 8  # hex digits


class ShownOptions(BaseModel):
    """How much of each message a prompt shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_characters: int = Field(3_000, ge=200, description="of a user message; its middle is left out")
    reply_characters: int = Field(1_200, ge=200, description="of an assistant's or system message")

    def limit(self, role: str) -> int:
        """Return how many characters of a message are shown."""
        return self.user_characters if role == "user" else self.reply_characters


class Fenced(NamedTuple):
    """A message as a prompt shows it."""

    heading: str  # ours, such as "[4] user"
    text: str  # from the log, as `shown` returns it


def shown(text: str, limit: int) -> str:
    """Return log text as a prompt may hold it.

    Characters that act instead of being seen are spelled out, line ends apart; what a chat template would take
    for a control token is broken by a space; and of a text longer than `limit` characters the middle is left out.
    """
    text = text.replace("\r\n", "\n")
    if len(text) > limit:
        head, tail = limit - limit // 3, limit // 3
        text = f"{text[:head]}\n[… {len(text) - limit:,} characters left out …]\n{text[-tail:]}"
    if "<" in text or "[" in text:
        text = _CONTROL.sub(lambda match: match[0] + " ", text)
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return visible(text, len(text), keep="\n\t")


def fenced(messages: Iterable[Fenced]) -> str:
    """Return messages one below the other, each under its heading and between fences.

    The same messages always give the same text.
    """
    messages = list(messages)
    code = _code([message.text for message in messages])
    return "\n".join(f"{m.heading}\n<{code}>\n{m.text}\n</{code}>" for m in messages)


def _code(texts: list[str]) -> str:
    """Return a code that occurs in none of the texts; whoever wrote them could not foresee it."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass"))
    while True:
        code = digest.hexdigest()[:_CODE]
        if not any(code in text for text in texts):
            return code
        digest.update(b"again")
