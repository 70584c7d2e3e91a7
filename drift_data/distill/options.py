"""The options of distillation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from drift_data.judge.local.options import TrainOptions


class Ceiling(BaseModel):
    """How well those who made the labels agree among themselves: more cannot be learned from them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kappa_dsat: float = Field(le=1)
    low: float | None = Field(None, le=1)  # ends of its 95 % interval
    high: float | None = Field(None, le=1)
    note: str  # who was compared, on what


class DistillOptions(BaseModel):
    """What a new local judge learns from, and how it is measured."""

    model_config = ConfigDict(extra="forbid")

    written: bool = True  # learn from our own written texts, too: the phrases of many languages
    # One conversation in so many is never learned from, and the finished model is measured on them. Which ones depends
    # on their ids alone: for an odd number those whose sha256 is divisible by it.
    hold_out: int | None = Field(None, ge=2)
    max_turns: int = Field(50_000, ge=1)  # of the teacher: about 30 KB of memory each
    learning_curve: bool = False  # also train on a quarter and on half of the conversations
    about: str | None = None  # what the labelled conversations are, for the classifier's card
    ceiling: Ceiling | None = None
    train: TrainOptions = TrainOptions()
    seed: int = 0  # of the resamples
