"""One request to a language model and what came back. It knows the wire format, not who sends it.

A request is identified by what determines its answer and by nothing else: the messages' text, the model, the
sampling parameters and the answer's schema. Where it is sent, when, how often and how patiently does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

STOP: Final = "stop"  # finish_reason of a whole answer
LENGTH: Final = "length"
CONTENT_FILTER: Final = "content_filter"
REFUSAL: Final = "refusal"  # ours: the model used the API's own field to decline

# Why a task has nothing to show, besides the errors of a backend: finish_reasons that a second try would only
# repeat, and answers that could not be used however often they were asked for.
DECLINED: Final = {CONTENT_FILTER: "content_filter", REFUSAL: "model_refused"}
INVALID: Final = "invalid_answer"

Dialect = Literal["openai", "compatible"]


class SamplingOptions(BaseModel):
    """How a model answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(0.0, ge=0)  # None: not sent, for models that refuse it
    max_tokens: int = Field(2_000, gt=0)  # of the answer, reasoning included
    seed: int | None = None
    extra: dict[str, Any] = {}  # more fields of the request body, such as {"reasoning_effort": "low"}


class Sampling(SamplingOptions):
    """Which model answers, and how. Everything here determines the answer."""

    model: str = Field(min_length=1)

    @property
    def text(self) -> str:
        """Return it as canonical JSON."""
        return canonical(self.model_dump())


@dataclass(frozen=True)
class Schema:
    """The JSON schema that an answer must follow, under a name for the API."""

    name: str
    schema: Mapping[str, Any]

    @cached_property
    def text(self) -> str:
        """Return it as canonical JSON."""
        return canonical({"name": self.name, "schema": self.schema})


def closed_object(**properties: object) -> dict[str, object]:
    """Return the schema of an object that has exactly these properties, as strict structured outputs want it."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(frozen=True)
class Request:
    """What a model is asked: a system message that many requests share, and a user message."""

    system: str
    user: str
    sampling: Sampling
    schema: Schema | None = None
    purpose: str = field(default="", compare=False)  # such as "score": for people who read the store

    @cached_property
    def key(self) -> str:
        """Return 64 hex digits over what determines the answer."""
        digest = _begun(self.system).copy()
        for part in (self.user, self.sampling.text, self.schema.text if self.schema else ""):
            digest.update(_measured(part))
        return digest.hexdigest()

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the messages as the API takes them."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]

    def body(self, dialect: Dialect = "compatible") -> dict[str, Any]:
        """Return the body of a chat completion request.

        Args:
            dialect: "openai" sends `max_completion_tokens`, which its newer models insist on; "compatible" the
                older `max_tokens`, which every other server knows.
        """
        sampling = self.sampling
        limit = "max_completion_tokens" if dialect == "openai" else "max_tokens"
        body: dict[str, Any] = {
            "model": sampling.model,
            "messages": self.messages,
            limit: sampling.max_tokens,
        }
        if sampling.temperature is not None:
            body["temperature"] = sampling.temperature
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if self.schema is not None:
            wanted = {"name": self.schema.name, "strict": True, "schema": self.schema.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        return body | sampling.extra


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. With `error` there is no answer: the request failed for good, and nothing is stored."""

    text: str = ""
    finish_reason: str = STOP
    input_tokens: int = 0
    cached_tokens: int = 0  # of the input tokens: read from the server's prompt cache
    output_tokens: int = 0
    price: float = 0.0  # in the currency of the recipe's prices
    error: str | None = None  # few distinct values, such as "request_failed", "over_budget": they are counted
    detail: str | None = None  # of the error, bounded, without secrets


@lru_cache(16)
def _begun(system: str) -> hashlib._Hash:
    """Return the digest of the part that many requests share."""
    return hashlib.sha256(_measured(system))


def _measured(text: str) -> bytes:
    """Return text behind its length, so that no two lists of texts run together to the same bytes."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "big") + data


_CANONICAL: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values."""
    return _CANONICAL.encode(value)
