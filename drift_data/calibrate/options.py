"""The options of calibration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ThresholdOptions(BaseModel):
    """What makes one threshold better than another."""

    model_config = ConfigDict(extra="forbid")

    # Of the F-score that is maximised: below 1 prefers precision, since a false DSAT trains the model away from a
    # good reply and a missed one costs only data.
    beta: float = Field(0.5, gt=0)
    min_precision: float | None = Field(None, gt=0, le=1)  # of DSAT, on the choosing part
    min_label: int = Field(10, ge=1)  # turns that must have a label before its threshold is chosen


class CalibrateOptions(ThresholdOptions):
    """How thresholds are chosen, and what the page shows."""

    examples: int = Field(25, ge=0)  # turns of each cell of the confusion table
    characters: int = Field(600, ge=1)  # of a message that are shown
    seed: int = 0  # of the resamples
