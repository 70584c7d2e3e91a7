"""How many simulated chats, and how their assistants and users behave: stated probabilities, nothing else."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class UserOptions(BaseModel):
    """How simulated users behave. They complain far more often than people do, since demo logs are small."""

    model_config = ConfigDict(extra="forbid")

    complains: Share = 0.25  # chance that one wrong dimension draws a complaint
    vague: Share = 0.06  # share of complaints that name nothing
    asks_again: Share = 0.04  # share of complaints that only repeat the request
    thanks_if_right: Share = 0.3  # after a reply without a fault
    thanks_if_wrong: Share = 0.08  # faults that drew no complaint
    thanks_if_mended: Share = 0.15  # after a revision
    goes_on: Share = 0.6  # chance of a further turn where there is neither
    small_talk: Share = 0.2  # share of neutral turns that ask for no task
    hard: Share = 0.25  # share of neutral turns that sound like a verdict
    most_replies: int = Field(default=4, ge=1)
    instructed: Share = 0.0  # share of complaints that the instruction follows
    instruction: str = "please answer again"  # what guided rollouts ask for: the base model has to know it


class PretrainOptions(BaseModel):
    """What the base model learns from: first clean chats, then chats of the quality it is to have."""

    model_config = ConfigDict(extra="forbid")

    clean: int = Field(default=20_000, ge=0)  # chats
    noisy: int = Field(default=20_000, ge=0)
    quality: Share = 0.7  # chance that a reply gets one dimension right
    mends: Share = 0.5  # chance that a revision mends a fault the complaint does not name
    users: UserOptions = UserOptions(complains=0.35, instructed=0.4)


class SimulateOptions(BaseModel):
    """Size and character of the demo's logs. Complaints are far more frequent than in reality."""

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    conversations: int = Field(default=5_000, ge=1)
    quality: Share = 0.65  # chance that a logged reply gets one dimension right
    mends: Share = 0.5  # chance that a logged revision mends a fault that was not named
    heldout: int = Field(default=400, ge=1)  # prompts
    heldout_tasks: int = Field(default=120, ge=1)  # tasks (of 1,296) that only held-out prompts ask for
    users: UserOptions = UserOptions()
    pretrain: PretrainOptions = PretrainOptions()
