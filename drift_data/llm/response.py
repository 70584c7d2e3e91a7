"""Reads what the API returns, a chat completion or an error, into what it means. It knows not how it came.

What servers add or leave out beside the text is no reason to throw a paid answer away: token counts that cannot
be read count as not given.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from drift_data.llm.request import CONTENT_FILTER, REFUSAL, STOP, Answer

PROMPT_TOO_LONG: Final = "prompt_too_long"  # errors of an answer
REQUEST_REFUSED: Final = "request_refused"
_ABORTED: Final = frozenset({"abort", "error"})  # finish reasons of a server that stopped in mid-answer
_FILTERED: Final = frozenset({"content_filter", "content_policy_violation"})
_FLAGGED_WORDS: Final = re.compile(r"flagged|moderation|content policy", re.IGNORECASE)
_TOO_LONG: Final = frozenset(
    {"context_length_exceeded", "string_above_max_length", "exceed_context_size_error"}
)
# How vLLM, SGLang, llama.cpp, TGI and others say it.
_TOO_LONG_WORDS: Final = re.compile(
    r"context (length|size|window)|maximum (context|model) length|longer than the (model|maximum)"
    r"|(prompt|input)\b.{0,60}\btoo long",
    re.IGNORECASE,
)
_MAY_PASS: Final = frozenset({402, 408, 409, 429})  # of the statuses from 400 to 499
_MOST_TOKENS: Final = 1 << 40


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_Tokens = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
_IfReadable = WrapValidator(_or_none)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Details(BaseModel):
    cached_tokens: _Tokens | None = None


class _Usage(BaseModel):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    prompt_tokens_details: Annotated[_Details | None, _IfReadable] = None


class Completion(BaseModel):
    """The parts of a chat completion that count; whatever else a server sends is passed over."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Annotated[_Usage | None, _IfReadable] = None

    @property
    def aborted(self) -> bool:
        """Say whether the server stopped in mid-answer: the text is no answer."""
        return self.choices[0].finish_reason in _ABORTED

    def answer(self) -> Answer:
        """Return it as an answer; without `usage` its tokens are 0."""
        choice, usage = self.choices[0], self.usage
        details = usage.prompt_tokens_details if usage else None
        refusal = choice.message.refusal
        return Answer(
            text=refusal or choice.message.content or "",
            finish_reason=REFUSAL if refusal else choice.finish_reason or STOP,
            input_tokens=usage.prompt_tokens if usage else 0,
            cached_tokens=min(details.cached_tokens or 0, usage.prompt_tokens) if usage and details else 0,
            output_tokens=usage.completion_tokens if usage else 0,
        )


class APIError(BaseModel):
    """An error in the API's format."""

    code: str | int | None = None
    type: str | None = None
    message: str | None = None


def error_of(body: Any) -> APIError:
    """Return the error in a response's body, whatever its shape."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(inner, dict):
        return APIError(message=str(inner)[:2_000] if inner else None)
    code, kind, message = inner.get("code"), inner.get("type"), inner.get("message")
    return APIError(
        code=code if isinstance(code, str | int) else None,
        type=kind if isinstance(kind, str) else None,
        message=str(message)[:2_000] if message else None,
    )


def refusal_of(error: APIError, status: int | None) -> str | None:
    """Return what a request is refused for; None when it is not, and may be answered another time.

    Args:
        error: what the server says.
        status: of its response; None: there was none.

    Returns:
        CONTENT_FILTER, PROMPT_TOO_LONG or REQUEST_REFUSED.
    """
    codes, words = (
        {str(value) for value in (error.code, error.type) if value is not None},
        error.message or "",
    )
    if _FILTERED & codes or (status == 403 and _FLAGGED_WORDS.search(words)):
        return CONTENT_FILTER
    if status is not None and (not 400 <= status < 500 or status in _MAY_PASS):
        return None
    if status == 413 or _TOO_LONG & codes or _TOO_LONG_WORDS.search(words):
        return PROMPT_TOO_LONG
    return None if status is None else REQUEST_REFUSED
