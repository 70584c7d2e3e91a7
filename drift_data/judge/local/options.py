"""The options of training a classifier. Apart from `train`, so that a recipe is read without scikit-learn."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

MODEL_FILE: Final = "model.npz"  # a classifier and its card, in the package and in each distilled/<name>/


class TrainOptions(BaseModel):
    """How a classifier is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text_strength: float = Field(3.0, gt=0)  # inverse regularisation of the n-grams (C)
    trees: int = Field(400, ge=1, le=5_000)
    learning_rate: float = Field(0.06, gt=0, le=1)
    seed: int = 0
