"""Options of `make convert`: which conversations are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class CleanOptions(BaseModel):
    """Which conversations `convert` keeps. A row without the column that a filter looks at is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    languages: tuple[str, ...] | None = Field(
        None,
        description="Languages to keep, as the data names them, such as English; null: all.",
        json_schema_extra={"source": "ours"},
    )
    drop_toxic: bool = Field(
        False,
        description="Whether conversations that the source flags as toxic are left out.",
        json_schema_extra={"source": "ours"},
    )
    min_turns: int = Field(
        1,
        ge=1,
        description="Number of assistant replies that a conversation needs.",
        json_schema_extra={"source": "ours"},
    )
    max_message_chars: int = Field(
        1_000_000,
        ge=1,
        description="Number of characters that one message may have.",
        json_schema_extra={"source": "ours"},
    )
    deduplicate: Literal["off", "exact", "near"] = Field(
        "exact",
        description="Which repeated conversations are left out: none, those with equal messages, or also those with "
        "nearly equal words.",
        json_schema_extra={"source": "ours"},
    )
    near_threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Jaccard similarity of the word 3-grams from which two conversations are near duplicates (0 to 1).",
        json_schema_extra={"source": "ours"},
    )
    exclude_prompts: str | None = Field(
        None,
        description="File of evaluation prompts; conversations that begin with one are left out; null: no such file.",
        json_schema_extra={"source": "ours"},
    )
