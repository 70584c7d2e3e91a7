"""Options of simulation: how many chats, and with which probabilities their assistants and users behave."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

Share = Annotated[float, Field(ge=0, le=1)]
_OURS: JsonDict = {"source": "ours"}


class UserOptions(BaseModel):
    """How simulated users behave. They complain far more often than people do, since demo logs are small."""

    model_config = ConfigDict(extra="forbid")

    complains: Share = Field(
        0.25,
        description="Chance that one wrong dimension of a reply draws a complaint.",
        json_schema_extra=_OURS,
    )
    vague: Share = Field(
        0.06, description="Share of complaints that do not say what is wrong.", json_schema_extra=_OURS
    )
    asks_again: Share = Field(
        0.04, description="Share of complaints that only repeat the request.", json_schema_extra=_OURS
    )
    thanks_if_right: Share = Field(
        0.3, description="Chance of thanks after a reply without a fault.", json_schema_extra=_OURS
    )
    thanks_if_wrong: Share = Field(
        0.08,
        description="Chance of thanks after a reply whose faults drew no complaint.",
        json_schema_extra=_OURS,
    )
    thanks_if_mended: Share = Field(
        0.15,
        description="Chance of thanks after a revision that drew no complaint, right or wrong.",
        json_schema_extra=_OURS,
    )
    goes_on: Share = Field(
        0.6,
        description="Chance of a further turn after a reply that draws neither a complaint nor thanks.",
        json_schema_extra=_OURS,
    )
    small_talk: Share = Field(
        0.2, description="Share of neutral turns that ask for no task.", json_schema_extra=_OURS
    )
    hard: Share = Field(
        0.25,
        description="Share of neutral turns that sound like a complaint or like thanks.",
        json_schema_extra=_OURS,
    )
    most_replies: int = Field(
        4,
        ge=1,
        description="Most replies of a chat: it ends after this many at the latest.",
        json_schema_extra={"source": "ours", "unit": "replies"},
    )
    instructed: Share = Field(
        0.0, description="Share of complaints that are followed by `instruction`.", json_schema_extra=_OURS
    )
    instruction: str = Field(
        "please answer again",
        description="The instruction that guided rollouts give after a complaint, in words that the tiny base model knows.",
        json_schema_extra=_OURS,
    )


class PretrainOptions(BaseModel):
    """What the base model learns from: first clean chats, then chats of the quality that it is to have."""

    model_config = ConfigDict(extra="forbid")

    clean: int = Field(
        20_000,
        ge=0,
        description="Number of chats whose last reply is worth learning.",
        json_schema_extra={"source": "ours", "unit": "chats"},
    )
    noisy: int = Field(
        20_000,
        ge=0,
        description="Number of chats of the quality that the base model is to have, learned after the clean ones.",
        json_schema_extra={"source": "ours", "unit": "chats"},
    )
    quality: Share = Field(
        0.7,
        description="Chance that a reply gets one dimension of the task right.",
        json_schema_extra=_OURS,
    )
    mends: Share = Field(
        0.5,
        description="Chance that a revision mends a fault that the complaint does not name.",
        json_schema_extra=_OURS,
    )
    users: UserOptions = Field(
        UserOptions(complains=0.35, instructed=0.4), description="How the users of these chats behave."
    )


class SimulateOptions(BaseModel):
    """Size and character of the demo's logs. Complaints are far more frequent than in reality."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(
        0,
        description="Seed of everything that is drawn; equal seeds make equal logs.",
        json_schema_extra=_OURS,
    )
    conversations: int = Field(
        5_000,
        ge=1,
        description="Number of logged chats.",
        json_schema_extra={"source": "ours", "unit": "chats"},
    )
    quality: Share = Field(
        0.65,
        description="Chance that a logged reply gets one dimension of the task right.",
        json_schema_extra=_OURS,
    )
    mends: Share = Field(
        0.5,
        description="Chance that a logged revision mends a fault that the complaint does not name.",
        json_schema_extra=_OURS,
    )
    heldout: int = Field(
        400,
        ge=1,
        description="Number of held-out prompts.",
        json_schema_extra={"source": "ours", "unit": "prompts"},
    )
    heldout_tasks: int = Field(
        120,
        ge=1,
        description="How many of the 1,296 possible tasks only held-out prompts ask for.",
        json_schema_extra={"source": "ours", "unit": "tasks"},
    )
    users: UserOptions = Field(UserOptions(), description="How the users of the logged chats behave.")
    pretrain: PretrainOptions = Field(
        PretrainOptions(), description="Chats that the tiny base model learns from."
    )
