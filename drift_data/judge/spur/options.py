"""Options of the LLM judge: how much of a conversation one request shows, and how often it is asked again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from drift_data.judge.quoting import ShownOptions


class WindowOptions(ShownOptions):
    """How much of a conversation one request shows, in messages and characters."""

    turns: int = Field(10, gt=0, description="feedback turns judged at most")
    context: int = Field(4, ge=0, description="messages shown before the first judged reply: the overlap")
    characters: int = Field(24_000, gt=0, description="shown in all; one judged turn always fits")


class ScoreOptions(BaseModel):
    """How conversations are cut, and how often an answer that cannot be used is asked for again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: WindowOptions = WindowOptions()
    tries: int = Field(3, gt=0, description="answers asked for until one can be used")
