"""Options of `make calibrate`: when a threshold is better than another, and what the quality report shows."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ThresholdOptions(BaseModel):
    """When one threshold is better than another."""

    model_config = ConfigDict(extra="forbid")

    # A false DSAT trains the model away from a good reply; a missed one only costs data. Hence precision comes first.
    beta: float = Field(
        0.5,
        gt=0,
        description="Weight of recall against precision in the F-score that thresholds maximise; below 1 prefers precision.",
        json_schema_extra={"source": "ours"},
    )
    min_precision: float | None = Field(
        None,
        gt=0,
        le=1,
        description="A DSAT threshold is chosen only if its precision on the turns that it is chosen "
        "on is at least this (0 to 1); null: any precision will do.",
        json_schema_extra={"source": "ours"},
    )
    min_label: int = Field(
        10,
        ge=1,
        description="Least number of turns in the choosing part that have a label in the gold; with fewer, "
        "the threshold of the label stays.",
        json_schema_extra={"source": "ours"},
    )


class CalibrateOptions(ThresholdOptions):
    """How thresholds are chosen, and what the quality report shows."""

    examples: int = Field(
        25,
        ge=0,
        description="Largest number of turns that the report shows for each cell of the confusion table.",
        json_schema_extra={"source": "ours"},
    )
    characters: int = Field(
        600,
        ge=1,
        description="Number of characters of a message that the report shows.",
        json_schema_extra={"source": "ours"},
    )
    seed: int = Field(
        0, description="Random seed of the bootstrap resamples.", json_schema_extra={"source": "ours"}
    )
