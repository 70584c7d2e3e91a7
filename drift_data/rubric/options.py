"""What determines a learned rubric besides the model and the conversations."""

from __future__ import annotations

from pydantic import Field

from drift_data.judge.quoting import ShownOptions


class LearnOptions(ShownOptions):
    """How many conversations are read, how much of each is shown, and how reasons become items."""

    per_label: int = Field(500, gt=0, description="conversations read at most, of satisfied and of others")
    seed: int = Field(0, description="decides which, where there are more")
    reasons: int = Field(3, gt=0, description="reasons that one conversation gives at most")
    batch: int = Field(100, gt=0, description="reasons folded into the rubric at a time")
    items: int = Field(10, gt=0, description="items of a polarity at most")
    tries: int = Field(3, gt=0, description="answers asked for until one can be used")
    characters: int = Field(24_000, gt=0, description="of a conversation shown; the oldest messages go first")
