"""The options of the report: what the page shows, and where its alarms go off."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AlarmOptions(BaseModel):
    """Thresholds of the alarms. They are rules of thumb of this toolkit; the paper has none."""

    model_config = ConfigDict(extra="forbid")

    margin_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Alarm when the margin at the end is at most this share of the highest margin so far: the training "
        "signal fades.",
        json_schema_extra={"source": "ours"},
    )
    chosen_reward: float = Field(
        -0.1,
        le=0,
        description="Alarm when the reward of chosen replies ends below this. The reward is β × the log-probability gained "
        "over the reference, in nats: with β 0.1, a reward of -0.1 is a loss of 1 nat.",
        json_schema_extra={"source": "ours"},
    )
    accuracy: float = Field(
        0.55,
        ge=0.5,
        le=1,
        description="Alarm when the share of pairs whose chosen reply has the higher reward ends below this; 0.5 is "
        "chance.",
        json_schema_extra={"source": "ours"},
    )
    length_ratio: float = Field(
        1.5,
        gt=1,
        description="Alarm when chosen replies are longer or shorter than rejected ones by more than this factor, or a "
        "model's replies than the base model's.",
        json_schema_extra={"source": "ours"},
    )
    distinct_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Alarm when a model's replies have less than this share of the base model's distinct word pairs, or "
        "less than this share of the first iteration's diversity.",
        json_schema_extra={"source": "ours"},
    )
    # The demo has 0.015 nats a token after two iterations. At twenty times its learning rate it has 0.2 to 0.5 an
    # iteration, and chosen replies become less likely while margins grow.
    kl: float = Field(
        0.1,
        gt=0,
        description="Alarm when the KL divergence to the base model, or of one iteration, is above this, in nats a token.",
        json_schema_extra={"source": "ours"},
    )
    filtered: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Alarm when the filters drop more than this share of the candidate pairs: then the filters, not the "
        "users, shape the data.",
        json_schema_extra={"source": "ours"},
    )
    length_stops: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Alarm when more than this share of the sampled replies is cut for length.",
        json_schema_extra={"source": "ours"},
    )
    score_errors: float = Field(
        2.0,
        gt=0,
        description="Alarm when a model's score lies more than this many standard errors below the best score before it.",
        json_schema_extra={"source": "ours"},
    )
    min_steps: int = Field(
        5,
        ge=1,
        description="Logged training steps below which a curve raises no alarm: it is too short to tell.",
        json_schema_extra={"source": "ours"},
    )


class ReportOptions(BaseModel):
    """What the page shows, and where its alarms go off."""

    model_config = ConfigDict(extra="forbid")

    examples: int = Field(
        6, ge=0, description="Number of complaints that the page shows.", json_schema_extra={"source": "ours"}
    )
    samples: int = Field(
        4,
        ge=0,
        description="Number of prompts that the page shows with every model's reply.",
        json_schema_extra={"source": "ours"},
    )
    characters: int = Field(
        600,
        ge=1,
        description="Most characters of a message that the page shows.",
        json_schema_extra={"source": "ours"},
    )
    alarms: AlarmOptions = Field(AlarmOptions(), description="Thresholds of the alarms.")
