"""Options of labelling: which judge labels, with which thresholds, and how it reaches a language model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self, assert_never

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from drift_data.judge.local.options import MODEL_FILE
from drift_data.judge.spur.options import ScoreOptions
from drift_data.llm.options import (
    BatchOptions,
    ClientOptions,
    LLMSamplingOptions,
    Price,
    ServerOptions,
    VllmOptions,
)

LLMWay = Literal["openai", "vllm", "batch"]  # how a judge reaches a language model
_OURS: JsonDict = {"source": "ours"}


class Thresholds(BaseModel):
    """The score from which on each side counts.

    Scores are sums of item strengths from 1 (weak) to 10 (explicit), so each default asks for one clear sign.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sat: float = Field(
        5.0,
        gt=0,
        description="Lowest sat_score with which a turn counts as satisfied.",
        json_schema_extra=_OURS,
    )
    dsat: float = Field(
        5.0,
        gt=0,
        description="Lowest dsat_score with which a turn counts as dissatisfied.",
        json_schema_extra=_OURS,
    )


class Band(BaseModel):
    """The local scores that are uncertain: the language model is asked where low ≤ dsat_score < high."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="Lowest local dsat_score at which the language model is asked about a turn.",
        json_schema_extra=_OURS,
    )
    high: float = Field(
        8.0,
        allow_inf_nan=False,
        description="Local dsat_score from which on the language model is not asked: the local judge is sure enough.",
        json_schema_extra=_OURS,
    )

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low ({self.low:g}) must be below high ({self.high:g}): the turns with low ≤ dsat_score < high are "
                "asked about. To ask about none: JUDGE=local"
            )
        return self


class CascadeOptions(Band):
    """Which turns a cascade asks a language model about, and how the cascade reaches that model."""

    llm: LLMWay = Field(
        "openai",
        description="How the cascade reaches its language model: openai, vllm or batch.",
        json_schema_extra=_OURS,
    )


class LabelOptions(BaseModel):
    """Who labels, and from which summed strengths on a turn counts as SAT or DSAT."""

    model_config = ConfigDict(extra="forbid")

    judge: Literal["local", "dataset", "cascade", "openai", "vllm", "batch"] = Field(
        "local",
        description="Who labels: the embedded classifier (local), the data set's own labels (dataset), the "
        "classifier with a language model for the turns it is unsure of (cascade), or a language model "
        "(openai, vllm, batch).",
        json_schema_extra=_OURS,
    )
    name: str | None = Field(
        None,
        pattern=r"^\w[\w.:-]*$",
        description="Name of the label table; null: the kind of judge, with the name of label.classifier if "
        "that is set.",
        json_schema_extra=_OURS,
    )
    thresholds: Thresholds = Field(
        Thresholds(), description="Scores (summed item strengths) from which on a turn counts as SAT or DSAT."
    )
    cascade: CascadeOptions = Field(
        CascadeOptions(), description="Which turns a cascade asks a language model about."
    )
    classifier: Path | None = Field(
        None,
        description="Classifier of the local judge: a model.npz, or the name of one distilled in the workspace; "
        "null: the one that ships.",
        json_schema_extra=_OURS,
    )
    # Only judges that ask a language model read the options below.
    model: str | None = Field(
        None,
        description="Language model to ask: its name on the server; for vllm a folder or Hub id.",
        json_schema_extra=_OURS,
    )
    server: ServerOptions = Field(ServerOptions(), description="Server of the language model.")
    client: ClientOptions = Field(
        ClientOptions(), description="How many requests are sent at once, and how patiently."
    )
    sampling: LLMSamplingOptions = Field(LLMSamplingOptions(), description="How the language model answers.")
    rubric: Path | None = Field(
        None,
        description="YAML file with the rubric's items; null: the shipped 9 + 9 items.",
        json_schema_extra=_OURS,
    )
    score: ScoreOptions = Field(
        ScoreOptions(), description="How conversations are cut into requests, and how often one is repeated."
    )
    vllm: VllmOptions = Field(VllmOptions(), description="How vLLM runs in this process.")
    batch: BatchOptions = Field(BatchOptions(), description="Files of the Batch API.")
    tokenizer: str | None = Field(
        None,
        description="Tokenizer that counts the tokens of requests before they are sent: a folder, a tokenizer.json or "
        "a Hub id; null: the tokenizer of OpenAI's model or of the vLLM folder, else 4 bytes count as a token.",
        json_schema_extra=_OURS,
    )
    prices: dict[str, Price] = Field(
        {},
        description="Model name → prices per million tokens, all in one currency.",
        json_schema_extra=_OURS,
    )
    budget: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Most that one label table may cost, in the currency of the prices; what its stored answers have "
        "cost is included. null: no limit.",
        json_schema_extra=_OURS,
    )

    @property
    def table(self) -> str:
        """Return the name of the label table: `name`, else the kind of judge with the name of a given classifier.

        So the labels of a distilled classifier never replace those of the classifier that ships.
        """
        if self.name is not None:
            return self.name
        if self.judge != "local" or self.classifier is None:
            return self.judge
        path = self.classifier
        if path.name == MODEL_FILE:
            path = path.parent  # `make distill` writes distilled/<name>/model.npz
        name = re.sub(r"[^\w.-]+", "-", path.name.removesuffix(".npz"))
        return f"local-{name.rstrip('-')}"

    @property
    def asks(self) -> LLMWay | None:
        """Return how the judge reaches a language model; None if it asks none."""
        match self.judge:
            case "local" | "dataset":
                return None
            case "cascade":
                return self.cascade.llm
            case "openai" | "vllm" | "batch":
                return self.judge
            case other:
                assert_never(other)  # a new kind needs a case of its own
