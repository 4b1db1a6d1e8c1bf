"""Options of the stages that train on preferences: reward models and DPO."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from rlaif.options.base import FILE, MODEL, NO_EFFECT, NO_JUDGE, StageOptions
from rlaif.options.plan import Asked, Plan, Work, training


class PreferenceOptions(StageOptions):
    """What every training on preferences is told."""

    ignores: ClassVar[tuple[str, ...]] = NO_JUDGE
    epochs: float = Field(
        default=1.0, gt=0, description="passes over the training rows; a fraction is allowed"
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="highest learning rate")
    batch_size: int = Field(default=64, ge=1, description="pairs a step, or prompts with by_prompt")
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="most of these in one forward, cut to a divisor of the batch; omitted = batch_size",
        json_schema_extra=NO_EFFECT,
    )
    by_prompt: bool = Field(
        default=False,
        description="all pairs of a prompt are one batch element, each response read once (K-wise)",
    )
    heldout: float = Field(
        default=0.1, gt=0, lt=1, description="share of prompts whose pairs measure, not train"
    )
    hard_labels: bool = Field(default=False, description="round soft labels to winners, for comparison")
    margin: float = Field(default=0.0, ge=0, description="lead asked of a certain winner")
    source_weights: dict[Literal["human", "ai", "simulated"], float] = Field(
        default_factory=dict, description="weight of preferences by who labelled; omitted = 1"
    )
    human_ratio: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share that preferences with people's labels have of the whole weight, however few they "
        "are; omitted = by their number",
    )
    max_length: int = Field(default=1024, ge=8, description="longer pairs are dropped and counted")

    @field_validator("source_weights")
    @classmethod
    def _not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
        if any(weight < 0 for weight in weights.values()):
            raise ValueError("weights are 0 or more")
        return weights

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """It asks no model."""
        return 0, []

    def work(self, plan: Plan) -> Work:
        """A training on both responses of every comparison."""
        forward = 2 * (self.micro_batch or self.batch_size) * plan.row
        return training(plan.config.policy.model, 2 * plan.comparisons * plan.row, self, forward)


class RewardOptions(PreferenceOptions):
    """Train reward models on soft preferences."""

    needs, makes = ("preferences", "policy"), ("reward_model",)
    shown_as = "reward_model"
    stage: Literal["reward"]
    model: str | None = Field(
        default=None,
        description="where the weights start; omitted = the current policy",
        json_schema_extra=MODEL,
    )
    members: int = Field(default=1, ge=1, description="reward models that differ by seed: an ensemble")
    center_coef: float = Field(
        default=0.0, ge=0, description="weight of the term that keeps rewards near zero"
    )
    heldout_sets: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], str] = Field(
        default_factory=dict,
        description="name → labelled pairs to measure on: an import's folder, or a file that it reads",
        json_schema_extra=FILE,
    )

    @property
    def opens_policy(self) -> bool:
        """Where its weights start with the policy's."""
        return self.model is None

    def work(self, plan: Plan) -> Work:
        """The training of every member."""
        one = super().work(plan)
        learnt, read = one.learnt * self.members, one.read * self.members
        return replace(one, model=self.model or one.model, learnt=learnt, read=read)


class DpoOptions(PreferenceOptions):
    """Direct preference optimisation on soft preferences: no reward model, no sampling."""

    needs, makes = ("preferences", "policy"), ("policy",)
    stage: Literal["dpo"]
    beta: float = Field(
        default=0.1, gt=0, description="strength of the penalty on moving from the starting policy"
    )

    def work(self, plan: Plan) -> Work:
        """The training, and the starting policy's pass over the same rows."""
        one = super().work(plan)
        return replace(one, read=2 * one.read + one.learnt, frozen=1)
