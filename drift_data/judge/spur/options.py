"""Options of the LLM judge: how much of a conversation one request shows, and how often it is asked again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from drift_data.judge.quoting import QuotingOptions


class WindowOptions(QuotingOptions):
    """How much of a conversation one request shows, in messages and characters."""

    turns: int = Field(
        10,
        gt=0,
        description="Most feedback turns that one request judges.",
        json_schema_extra={"source": "ours", "unit": "turns"},
    )
    context: int = Field(
        4,
        ge=0,
        description="Messages shown before the first judged reply; neighbouring requests overlap by them.",
        json_schema_extra={"source": "ours", "unit": "messages"},
    )
    characters: int = Field(
        24_000,
        gt=0,
        description="Most characters of messages that one request shows; a single judged turn is shown even if it "
        "takes more.",
        json_schema_extra={"source": "ours", "unit": "characters"},
    )


class ScoreOptions(BaseModel):
    """How conversations are cut into requests, and how often a request is repeated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: WindowOptions = Field(
        WindowOptions(), description="How much of a conversation one request shows."
    )
    tries: int = Field(
        3,
        gt=0,
        description="Most answers asked for until each turn has a usable one; a turn without one is dropped.",
        json_schema_extra={"source": "ours", "unit": "answers"},
    )
