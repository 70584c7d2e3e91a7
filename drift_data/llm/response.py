"""Reads what an OpenAI-compatible API returns: a chat completion, or an error and what the error means.

A paid answer is never thrown away because of what a server adds or leaves out beside the text: token counts that
cannot be read count as not given.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from drift_data.llm.request import CONTENT_FILTER, REFUSAL, STOP, Answer

# Kinds of failure, as in `Answer.error`.
PROMPT_TOO_LONG: Final = "prompt_too_long"
REQUEST_REFUSED: Final = "request_refused"
_ABORTED_REASONS: Final = frozenset({"abort", "error"})  # finish reasons: the server stopped in mid-answer
_FILTER_CODES: Final = frozenset({"content_filter", "content_policy_violation"})
_FILTER_WORDS: Final = re.compile(r"flagged|moderation|content policy", re.IGNORECASE)
_TOO_LONG_CODES: Final = frozenset(
    {"context_length_exceeded", "string_above_max_length", "exceed_context_size_error"}
)
# The words in which vLLM, SGLang, llama.cpp, TGI and others say that a prompt is too long.
_TOO_LONG_WORDS: Final = re.compile(
    r"context (length|size|window)|maximum (context|model) length|longer than the (model|maximum)"
    r"|(prompt|input)\b.{0,60}\btoo long",
    re.IGNORECASE,
)
# The statuses from 400 to 499 after which the same request may be answered another time.
_TEMPORARY_STATUSES: Final = frozenset({402, 408, 409, 429})
_MAX_TOKENS: Final = 1 << 40  # a token count above this cannot be true


def _read_or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_Tokens = Annotated[int, Field(ge=0, le=_MAX_TOKENS)]
_IfReadable = WrapValidator(_read_or_none)


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
    """The parts of a chat completion that are read; whatever else a server sends is ignored."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Annotated[_Usage | None, _IfReadable] = None

    @property
    def is_aborted(self) -> bool:
        """Say whether the server stopped in mid-answer, so that the text must not be used."""
        return self.choices[0].finish_reason in _ABORTED_REASONS

    def to_answer(self) -> Answer:
        """Return the completion as an answer; without `usage` its token counts are 0."""
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


def read_error(body: Any) -> APIError:
    """Return the error in a response's body, whatever shape the body has."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(inner, dict):
        return APIError(message=str(inner)[:2_000] if inner else None)
    code, kind, message = inner.get("code"), inner.get("type"), inner.get("message")
    return APIError(
        code=code if isinstance(code, str | int) else None,
        type=kind if isinstance(kind, str) else None,
        message=str(message)[:2_000] if message else None,
    )


def classify_refusal(error: APIError, status: int | None) -> str | None:
    """Return why a server refuses a request for good; None when the same request may be answered another time.

    Args:
        error: what the server says.
        status: HTTP status of the response; None: there was no response.

    Returns:
        CONTENT_FILTER, PROMPT_TOO_LONG or REQUEST_REFUSED.
    """
    codes = {str(value) for value in (error.code, error.type) if value is not None}
    words = error.message or ""
    if _FILTER_CODES & codes or (status == 403 and _FILTER_WORDS.search(words)):
        return CONTENT_FILTER
    if status is not None and (not 400 <= status < 500 or status in _TEMPORARY_STATUSES):
        return None
    if status == 413 or _TOO_LONG_CODES & codes or _TOO_LONG_WORDS.search(words):
        return PROMPT_TOO_LONG
    return None if status is None else REQUEST_REFUSED
