"""Options of `make seed`: which labelled turns become examples."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from drift_data.chats.order import TEST_FRACTION


class MineOptions(BaseModel):
    """Which labelled turns become examples, and what share of them is kept for testing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_conversation: Literal[1, "all"] = Field(
        1,
        description=(
            "Number of examples that a conversation gives each of the tables dsat, sat and seed: 1, from the turn with the "
            "highest score (the later turn when scores are equal), or all"
        ),
        json_schema_extra={"source": "ours"},
    )
    test_fraction: float = Field(
        TEST_FRACTION,
        ge=0,
        le=1,
        description='Share of the conversations whose examples get the split "test" and are never trained on (0 to 1)',
        json_schema_extra={"source": "ours"},
    )
    # A complaint about a correct refusal teaches the model to stop refusing.
    keep_refusals: bool = Field(
        False,
        description=(
            "Also keep complaints about refusals that the request deserved or that nobody judged. Complaints about "
            "refusals that a judge found undeserved are kept in any case"
        ),
        json_schema_extra={"source": "ours"},
    )
