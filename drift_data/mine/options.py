"""The options of mining: what becomes an example."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from drift_data.chats.order import TEST_FRACTION


class MineOptions(BaseModel):
    """What becomes an example."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_conversation: Literal[1, "all"] = 1  # 1: the strongest turn of each table, the later of equals
    test_fraction: float = Field(TEST_FRACTION, ge=0, le=1)
    # A complaint about a correct refusal teaches the model to stop refusing. Kept in any case: complaints about
    # refusals that a judge found undeserved.
    keep_refusals: bool = False
