"""Reads a chat completion, as the API returns it, into an answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from drift_data.judge.llm.request import REFUSAL, STOP, Answer


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class Completion(BaseModel):
    """The parts of a chat completion that count; whatever else a server sends is passed over."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None

    def answer(self) -> Answer:
        """Return it as an answer; without `usage` its tokens are 0."""
        choice, usage = self.choices[0], self.usage
        details = usage.prompt_tokens_details if usage else None
        refusal = choice.message.refusal
        return Answer(
            text=refusal or choice.message.content or "",
            finish_reason=REFUSAL if refusal else choice.finish_reason or STOP,
            input_tokens=usage.prompt_tokens if usage else 0,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
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
