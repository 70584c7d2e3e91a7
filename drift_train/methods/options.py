"""The options of a whole run, completed and checked by the method that they name. Imports no torch."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drift_train.methods import METHODS
from drift_train.options import (
    OURS,
    ExamplesName,
    HealthOptions,
    MethodName,
    PairOptions,
    RewardOptions,
    RolloutOptions,
    TrainOptions,
    from_paper,
    make_warm_start_options,
)


class LoopOptions(BaseModel):
    """A whole run: warm start, then iterations of rollout, pairs and DPO."""

    model_config = ConfigDict(extra="forbid")

    method: MethodName = Field(
        default="drift",
        description="How pairs are made of logged and sampled replies: drift, spin or iterdpo.",
        json_schema_extra=from_paper("sec. 4.1"),
    )
    examples: ExamplesName = Field(
        default="logs",
        description="What the method learns from: logs (the table dsat, sat or seed, whichever the method reads), or "
        "preferences (the pairs that the data set carries).",
        json_schema_extra=from_paper("table 1"),
    )
    rollout: RolloutOptions = Field(
        default=RolloutOptions(),
        description="Which examples an iteration takes, what the policy is shown, and how replies are sampled.",
    )
    reward: RewardOptions | None = Field(
        default=None,
        description="The reward model; needed only where samples are ranked.",
        json_schema_extra=OURS,
    )
    pairs: PairOptions = Field(default=PairOptions(), description="Which pairs are kept.")
    train: TrainOptions = Field(default=TrainOptions(), description="DPO of an iteration.")
    warm: TrainOptions | None = Field(
        default_factory=make_warm_start_options,
        description="DPO of the warm start; null leaves the warm start out: M0 is the base model.",
        json_schema_extra=from_paper("app. D"),
    )
    min_seed_pairs: int = Field(
        default=8,
        ge=1,
        description="Fewest seed pairs that are worth a warm start. With fewer, M0 is the base model, and a line on "
        "stderr says so.",
        json_schema_extra=OURS,
    )
    health: HealthOptions | None = Field(
        default=HealthOptions(),
        description="What is measured after the training of an iteration, with three models in float32; null measures "
        "nothing.",
        json_schema_extra=OURS,
    )

    @property
    def is_guided(self) -> bool:
        """Whether rollouts show the complaint: as `rollout.guidance` says, or else as the method does by itself."""
        if self.rollout.guidance is not None:
            return self.rollout.guidance
        return METHODS[self.method].is_guided_by_default(self.examples)

    @property
    def examples_table(self) -> str:
        """The table that the method reads its examples from."""
        return METHODS[self.method].examples_table(self.examples, self.is_guided)

    @property
    def ranking(self) -> RewardOptions | None:
        """The reward model that ranks the samples of an example; None where they are not ranked."""
        return self.reward if self._has_ranking else None

    @property
    def _has_ranking(self) -> bool:
        return self._compares_samples or self.rollout.select == "best"

    @property
    def _compares_samples(self) -> bool:
        return METHODS[self.method].compares_samples(self.is_guided)

    def rollout_options(self) -> RolloutOptions:
        """Return the options of the rollouts with what the method decides filled in: guidance, and two samples
        where two are compared.
        """
        samples = max(self.rollout.samples, 2 if self._compares_samples else 1)
        return self.rollout.model_copy(update={"guidance": self.is_guided, "samples": samples})

    @model_validator(mode="after")
    def _require_reward_for_ranking(self) -> Self:
        if self._has_ranking and self.reward is None:
            why = (
                "rollout.select: best"
                if self.rollout.select == "best"
                else f"{self.method} without guidance, which compares samples of one prompt,"
            )
            raise ValueError(
                f"{why} needs a reward model: set reward, e.g. loop.reward.model={RewardOptions().model}"
            )
        if self.rollout.select == "best" and self.rollout_options().samples == 1:
            raise ValueError("rollout.select: best has nothing to select from: raise rollout.samples")
        return self
