"""One request to a language model, and its answer.

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

from pydantic import Field

from drift_data.llm.options import LLMSamplingOptions

# Finish reasons of an answer.
STOP: Final = "stop"  # the answer is whole
LENGTH: Final = "length"  # the answer was cut off at `max_tokens`
CONTENT_FILTER: Final = "content_filter"  # the server's filter withheld the answer
REFUSAL: Final = "refusal"  # our own word: the model declined in the API's field `refusal`

# Finish reasons that a second try would only repeat → the reason with which the task then ends. A task whose answer
# has an `error` ends with that error as its reason.
DECLINED: Final = {CONTENT_FILTER: "content_filter", REFUSAL: "model_refused"}
INVALID: Final = "invalid_answer"  # the reason of a task that ends because none of its answers could be used

Dialect = Literal["openai", "compatible"]  # how a request limits the answer's length, see `Request.body`


class Sampling(LLMSamplingOptions):
    """Which model answers, and how. All fields determine the answer and are part of a request's key."""

    model: str = Field(min_length=1)

    @property
    def text(self) -> str:
        """Return the fields as canonical JSON."""
        return to_canonical_json(self.model_dump())


@dataclass(frozen=True)
class Schema:
    """The JSON schema that an answer must follow, under a name for the API."""

    name: str
    schema: Mapping[str, Any]

    @cached_property
    def text(self) -> str:
        """Return name and schema as canonical JSON."""
        return to_canonical_json({"name": self.name, "schema": self.schema})


def make_object_schema(**properties: object) -> dict[str, object]:
    """Return the JSON schema of an object with exactly these properties, as strict structured outputs need it."""
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
    # For people who read the store: "score", "extract" or "fold".
    purpose: str = field(default="", compare=False)

    @cached_property
    def key(self) -> str:
        """Return the SHA-256 of what determines the answer, as 64 hex digits."""
        digest = _hash_shared_text(self.system).copy()
        for part in (self.user, self.sampling.text, self.schema.text if self.schema else ""):
            digest.update(_encode_with_length(part))
        return digest.hexdigest()

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the messages as the API takes them."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]

    def body(self, dialect: Dialect = "compatible") -> dict[str, Any]:
        """Return the body of a chat completion request.

        Args:
            dialect: "openai" sends `max_completion_tokens`, which OpenAI's newer models insist on; "compatible" sends
                the older `max_tokens`, which every other server knows.
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
    """What came back for a request. If `error` is set, the request failed for good and nothing is stored."""

    text: str = ""
    finish_reason: str = STOP
    input_tokens: int = 0
    cached_tokens: int = 0  # part of the input tokens: those the server read from its prompt cache
    output_tokens: int = 0
    price: float = 0.0  # in the currency of the recipe's prices
    # Kind of failure. Runs count failures by kind, so there are few: "request_failed", "over_budget" and such.
    error: str | None = None
    detail: str | None = None  # more about the error: bounded, without secrets


@lru_cache(16)
def _hash_shared_text(system: str) -> hashlib._Hash:
    """Return a hash that has taken in the system message, which many requests share."""
    return hashlib.sha256(_encode_with_length(system))


def _encode_with_length(text: str) -> bytes:
    """Return the number of a text's bytes, then the bytes: two different lists of texts never give the same bytes."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "big") + data


_CANONICAL_ENCODER: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def to_canonical_json(value: Any) -> str:
    """Return JSON text that is the same for equal values: keys sorted, no white space."""
    return _CANONICAL_ENCODER.encode(value)
