"""Options of `make distill`: what the classifier learns from, and how it is measured."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from drift_data.judge.local.options import ClassifierOptions


class Ceiling(BaseModel):
    """How well those who made the labels agree among themselves: no classifier can be expected to agree better."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kappa_dsat: float = Field(
        le=1,
        description="Cohen's κ between those who made the labels, for DSAT against the other two labels.",
        json_schema_extra={"source": "ours"},
    )
    low: float | None = Field(
        None,
        le=1,
        description="Lower end of the 95 % interval of κ.",
        json_schema_extra={"source": "ours"},
    )
    high: float | None = Field(
        None,
        le=1,
        description="Upper end of the 95 % interval of κ.",
        json_schema_extra={"source": "ours"},
    )
    note: str = Field(
        description="Who was compared, and on which turns; the report shows the text.",
        json_schema_extra={"source": "ours"},
    )


class DistillOptions(BaseModel):
    """What a new local judge learns from, and how it is measured."""

    model_config = ConfigDict(extra="forbid")

    written: bool = Field(
        True,
        description="Whether to learn also from the texts that ship with the toolkit, which teach phrases of many "
        "languages.",
        json_schema_extra={"source": "ours"},
    )
    # A hash of the conversation's id alone decides. For an odd number the held-out conversations are those whose ids
    # have a SHA-256 that the number divides.
    hold_out: int | None = Field(
        None,
        ge=2,
        description="One conversation in this many is never learned from, and the finished model is measured on these "
        "conversations; null: none is held out.",
        json_schema_extra={"source": "ours"},
    )
    max_turns: int = Field(
        50_000,
        ge=1,
        description="Largest number of the teacher's turns to read; each turn takes about 30 KB of memory.",
        json_schema_extra={"source": "ours"},
    )
    learning_curve: bool = Field(
        False,
        description="Whether to train two more classifiers, on a quarter and on half of the conversations, and report on "
        "them.",
        json_schema_extra={"source": "ours"},
    )
    about: str | None = Field(
        None,
        description="Short description of the labelled conversations for the classifier's card, such as 'WildChat "
        "conversations'.",
        json_schema_extra={"source": "ours"},
    )
    ceiling: Ceiling | None = Field(
        None,
        description="How well those who made the labels agree among themselves, if that is known.",
        json_schema_extra={"source": "ours"},
    )
    train: ClassifierOptions = Field(ClassifierOptions(), description="How the classifier is trained.")
    seed: int = Field(
        0, description="Random seed of the bootstrap resamples.", json_schema_extra={"source": "ours"}
    )
