"""Options of training a classifier. They have a module of their own so that a recipe is read without scikit-learn."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

MODEL_FILE: Final = "model.npz"  # a classifier with its card, in the package and in each distilled/<name>/


class ClassifierOptions(BaseModel):
    """How a classifier is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text_strength: float = Field(
        3.0,
        gt=0,
        description="Inverse strength (C) of the L2 regularisation of the models that read n-grams: larger fits the "
        "texts more closely.",
        json_schema_extra={"source": "ours"},
    )
    trees: int = Field(
        400,
        ge=1,
        le=5_000,
        description="Number of boosted trees that combine the texts with the numbers of a turn.",
        json_schema_extra={"source": "ours", "unit": "trees"},
    )
    learning_rate: float = Field(
        0.06,
        gt=0,
        le=1,
        description="Share of its own prediction that each tree adds to those before it.",
        json_schema_extra={"source": "ours"},
    )
    seed: int = Field(
        0,
        description="Seed of the folds and of the trees' random choices.",
        json_schema_extra={"source": "ours"},
    )
