"""Options of asking a language model: where it is, how it answers, what it costs, and how requests travel."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.config import JsonDict

OPENAI_URL: Final = "https://api.openai.com/v1"
_MILLION: Final = 1_000_000
_OURS: Final[JsonDict] = {"source": "ours"}


class ServerOptions(BaseModel):
    """Where an OpenAI-compatible server is, and where its key is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str | None = Field(
        None,
        description="Base URL of the server, such as http://localhost:8000/v1; null: OpenAI.",
        json_schema_extra=_OURS,
    )
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the key; the key itself is written nowhere.",
        json_schema_extra=_OURS,
    )

    @field_validator("base_url")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            address = urlsplit(value)
            usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:  # the error's own text would show the value, which may hold a key
            usable = False
        if not usable:
            raise ValueError("a base URL looks like http://localhost:8000/v1")
        if address.username or address.password or address.query:
            raise ValueError(
                "a base URL carries no credentials: put the key into the variable of api_key_env"
            )
        return value

    @property
    def url(self) -> str:
        """Return the base URL, OpenAI's by default."""
        return self.base_url or OPENAI_URL

    @property
    def host(self) -> str:
        """Return the name of the server, for messages."""
        return urlsplit(self.url).netloc

    @property
    def at_openai(self) -> bool:
        """Say whether the server is OpenAI's own."""
        return urlsplit(self.url).hostname == urlsplit(OPENAI_URL).hostname


class LLMSamplingOptions(BaseModel):
    """How a language model answers. All of these determine the answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(
        0.0,
        ge=0,
        description="Sampling temperature; null: the request holds none, for models that refuse it.",
        json_schema_extra=_OURS,
    )
    max_tokens: int = Field(
        2_000,
        gt=0,
        description="Most tokens of one answer, the model's reasoning included.",
        json_schema_extra=_OURS,
    )
    seed: int | None = Field(
        None,
        description="Seed of the server's sampling; null: the request holds none.",
        json_schema_extra=_OURS,
    )
    extra: dict[str, Any] = Field(
        {},
        description='More fields of the request\'s body, such as {"reasoning_effort": "low"}.',
        json_schema_extra=_OURS,
    )


class ClientOptions(BaseModel):
    """How many requests are sent to a server at once, and how patiently."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connections: int = Field(
        32,
        gt=0,
        le=1_000,
        description="Most requests on their way at once; the client starts with 8 and adds more while that brings more "
        "answers a second.",
        json_schema_extra=_OURS,
    )
    timeout: float = Field(
        300.0, gt=0, description="Seconds that one answer may take.", json_schema_extra=_OURS
    )
    tries: int = Field(
        6,
        gt=0,
        description="Most times that a request is sent; attempts that the server only puts off (status 429 or 529, or a "
        "wait that it asks for) do not count.",
        json_schema_extra=_OURS,
    )
    first_wait: float = Field(
        1.0,
        ge=0,
        description="Most seconds before the second try; the bound doubles with each further try.",
        json_schema_extra=_OURS,
    )
    longest_wait: float = Field(
        60.0, ge=0, description="Most seconds between two tries.", json_schema_extra=_OURS
    )
    patience: float = Field(
        900.0,
        ge=0,
        description="Seconds after which a request is not tried again, and the longest wait that a server may ask for.",
        json_schema_extra=_OURS,
    )
    breaker: int = Field(
        10,
        gt=0,
        description="Requests in a row that fail for good before the run ends; ten times as many once the server has "
        "answered one.",
        json_schema_extra=_OURS,
    )


class BatchOptions(BaseModel):
    """How large the request files of the Batch API may be, who sends them, and when to stop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offline: bool = Field(
        False,
        description="Whether request files are only written, for somebody else to send.",
        json_schema_extra=_OURS,
    )
    results: tuple[str, ...] = Field(
        (),
        description="Result and error files that came back, as files, folders or globs, to read answers from.",
        json_schema_extra=_OURS,
    )
    final: bool = Field(
        False,
        description="Whether to finish without the answers that are missing; only requests without which there is no "
        "result at all are still asked.",
        json_schema_extra=_OURS,
    )
    requests_per_file: int = Field(
        50_000,
        gt=0,
        description="Most requests in one file; the default is the API's limit.",
        json_schema_extra=_OURS,
    )
    bytes_per_file: int = Field(
        200_000_000,
        gt=0,
        description="Most bytes of one file; the default is the API's limit.",
        json_schema_extra=_OURS,
    )
    enqueued_tokens: int | None = Field(
        None,
        gt=0,
        description="Most prompt tokens at the API at once, a limit of the account; null: files are sent until the API "
        "says that the limit is reached.",
        json_schema_extra=_OURS,
    )
    tries: int = Field(
        3,
        gt=0,
        description="Most times that a request is sent; a batch that ends before the model was asked does not count.",
        json_schema_extra=_OURS,
    )
    poll_seconds: float = Field(
        60.0, gt=0, description="Most seconds between two looks at the API.", json_schema_extra=_OURS
    )
    patience_hours: float = Field(
        24.0,
        ge=0,
        description="Hours to wait for the API's queue when it is full although no file of this run is in it.",
        json_schema_extra=_OURS,
    )


class VllmOptions(BaseModel):
    """How vLLM runs in this process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_model_len: int = Field(
        16_384, gt=0, description="Most tokens of a prompt and its answer together.", json_schema_extra=_OURS
    )
    round: int = Field(
        512,
        gt=0,
        description="Requests given to the engine at a time; a killed run asks at most these again.",
        json_schema_extra=_OURS,
    )
    engine: dict[str, Any] = Field(
        {},
        description="More arguments of vllm.LLM, such as tensor_parallel_size.",
        json_schema_extra=_OURS,
    )


class Price(BaseModel):
    """What a model costs per million tokens, in any one currency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, description="Price of a million prompt tokens.", json_schema_extra=_OURS)
    output: float = Field(ge=0, description="Price of a million answer tokens.", json_schema_extra=_OURS)
    cached_input: float | None = Field(
        None,
        ge=0,
        description="Price of a million prompt tokens that the server had in its cache; null: as `input`.",
        json_schema_extra=_OURS,
    )
    batch: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of these prices that the Batch API takes.",
        json_schema_extra=_OURS,
    )

    def of(self, input_tokens: int, cached_tokens: int, output_tokens: int, *, batch: bool = False) -> float:
        """Return the price of a number of tokens.

        Args:
            input_tokens: tokens of the prompt.
            cached_tokens: those of them that the server had in its cache.
            output_tokens: tokens of the answer.
            batch: whether the Batch API answered.
        """
        cached_input = self.input if self.cached_input is None else self.cached_input
        whole = (
            (input_tokens - cached_tokens) * self.input
            + cached_tokens * cached_input
            + output_tokens * self.output
        )
        return whole * (self.batch if batch else 1) / _MILLION
