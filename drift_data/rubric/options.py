"""Options of learning a rubric. They, the model's sampling and the conversations determine the rubric."""

from __future__ import annotations

from typing import Final

from pydantic import Field
from pydantic.config import JsonDict

from drift_data.judge.quoting import QuotingOptions

_OURS: Final[JsonDict] = {"source": "ours"}


class LearnOptions(QuotingOptions):
    """How many conversations are read, how much of each a prompt shows, and how reasons become items."""

    per_label: int = Field(
        500,
        gt=0,
        description="Most conversations that are read with a thumbs up, and as many with a thumbs down.",
        json_schema_extra=_OURS,
    )
    seed: int = Field(
        0,
        description="Seed of the choice of conversations, if there are more than per_label.",
        json_schema_extra=_OURS,
    )
    reasons: int = Field(
        3,
        gt=0,
        description="Most reasons that an answer may give for one conversation.",
        json_schema_extra=_OURS,
    )
    batch: int = Field(
        100,
        gt=0,
        description="Reasons that one request works into the rubric.",
        json_schema_extra=_OURS,
    )
    items: int = Field(
        10,
        gt=0,
        description="Most items for satisfaction, and as many for dissatisfaction.",
        json_schema_extra=_OURS,
    )
    tries: int = Field(
        3,
        gt=0,
        description="Most answers asked for until one is usable; a conversation, or a batch of reasons, without one "
        "is left out.",
        json_schema_extra=_OURS,
    )
    characters: int = Field(
        24_000,
        gt=0,
        description="Most characters of a conversation that a prompt shows; of a longer one, the oldest messages are "
        "left out.",
        json_schema_extra=_OURS,
    )
