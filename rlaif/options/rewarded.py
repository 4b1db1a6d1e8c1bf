"""Options of the stages that ask for rewards; of PPO, which is one of them, see `rlaif.options.ppo`."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rlaif.options.base import NO_EFFECT, REWARD, Options, StageOptions
from rlaif.options.plan import Asked, Plan, Work, training
from rlaif.options.sources import SourceKind, source_kind

LrSchedule = Literal["constant", "linear"]
REFERENCE_SAMPLES = 256  # responses of the starting policy that fix the scores' scale


class RewardSourceOptions(Options):
    """One thing a policy is rewarded by or a response graded by."""

    source: str = Field(
        description="reward_model (the run's), judge (the feedback model asked about single responses), "
        "module:function of (prompts, responses) -> scores, or a reward-model folder",
        json_schema_extra=REWARD,
    )
    weight: float = Field(default=1.0, description="of its score in the sum; negative to hold something down")
    scale: bool = Field(
        default=True,
        description="bring its scores to mean 0 and standard deviation 1 on samples of the starting policy",
    )
    pool: Literal["mean", "worst", "mean_minus_std"] = Field(
        default="mean", description="what several members (reward.members) say together"
    )
    pool_k: float = Field(default=1.0, ge=0, description="standard deviations taken off by mean_minus_std")

    @property
    def kind(self) -> type[SourceKind]:
        """What kind of source it is."""
        return source_kind(self.source)


class RewardedOptions(StageOptions):
    """What every stage that asks for rewards is told."""

    needs: ClassVar[tuple[str, ...]] = ("prompts", "policy")
    rewards: tuple[RewardSourceOptions, ...] = Field(
        default=(RewardSourceOptions(source="reward_model"),),
        min_length=1,
        description="what is rewarded, added up",
    )
    micro_batch: int = Field(
        default=64, ge=1, description="most sequences in one forward", json_schema_extra=NO_EFFECT
    )

    @property
    def required_artefacts(self) -> tuple[str, ...]:
        return (*self.needs, *dict.fromkeys(need for source in self.rewards for need in source.kind.needs))

    @field_validator("rewards")
    @classmethod
    def _each_once(cls, rewards: tuple[RewardSourceOptions, ...]) -> tuple[RewardSourceOptions, ...]:
        if len({source.source for source in rewards}) < len(rewards):
            raise ValueError("each source once")
        return rewards

    @property
    def scored(self) -> int:
        """How many of its rewards are models' that it reads itself."""
        return sum(source.kind.opens.endswith(":model_score") for source in self.rewards)

    def graded(self, plan: Plan, responses: int, length: float) -> list[Asked]:
        """What the judge is asked where it is a source of the reward."""
        return plan.pointwise(responses if any(o.kind.asks_judge for o in self.rewards) else 0, length)


class OnlineOptions(RewardedOptions):
    """What every stage that learns from its own samples is told of how it is watched."""

    updates: int = Field(
        default=100, ge=1, description="updates of the policy; each samples batch_size responses"
    )
    batch_size: int = Field(default=128, ge=1, description="responses an update")
    max_tokens: int = Field(
        default=256,
        ge=1,
        description="most tokens of a response; a longer one is cut off and counted as truncated",
    )
    sample_every: int = Field(
        default=10,
        ge=1,
        description="updates between looks at what the policy writes (samples.jsonl)",
        json_schema_extra=NO_EFFECT,
    )
    num_watched_prompts: int = Field(
        default=64,
        ge=0,
        description="held-out prompts whose responses are sampled at every look; 0 = none",
        json_schema_extra=NO_EFFECT,
    )
    judge_watched_prompts: bool = Field(
        default=False,
        description="the judge reads those responses too, not only the gold scorer",
        json_schema_extra=NO_EFFECT,
    )
    tracker: Literal["trackio", "wandb", "tensorboard"] | None = Field(
        default=None,
        description="where metrics are also sent, beside metrics.jsonl",
        json_schema_extra=NO_EFFECT,
    )

    def monitors(self, update: int) -> bool:
        """Whether this update is looked at closely: the first, the last and every so many between them."""
        return update == 1 or update % self.sample_every == 0 or update == self.updates

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """The judge where it rewards and where it is asked at a look; the samples are the stage's own."""
        rows = self.updates * self.batch_size
        looks = sum(map(self.monitors, range(1, self.updates + 1))) if self.judge_watched_prompts else 0
        seen = plan.pointwise(looks * min(self.num_watched_prompts, plan.heldout), self.max_tokens)
        return rows, [*self.graded(plan, rows, self.max_tokens), *seen]

    def work(self, plan: Plan) -> Work:
        """The samples that fix the scores' scale; of every update the samples, the rewards and the reference,
        and an optimiser step on the policy."""
        each = plan.prompt + self.max_tokens
        tokens, looks = (
            self.updates * self.batch_size * each,
            sum(map(self.monitors, range(1, self.updates + 1))),
        )
        written = self.updates * self.batch_size + looks * min(self.num_watched_prompts, plan.heldout)
        scaled = -(-REFERENCE_SAMPLES // self.batch_size) * self.batch_size
        scaled *= any(reward.scale for reward in self.rewards)
        return Work(
            plan.config.policy.model,
            learnt=tokens * getattr(self, "epochs", 1),
            read=tokens * (1 + self.scored) + scaled * each * self.scored + (written + scaled) * plan.prompt,
            written=(written + scaled) * self.max_tokens,
            rows=self.batch_size,
            forward=min(self.micro_batch, self.batch_size) * each,
            frozen=1 + self.scored,
        )


class BestOfNOptions(RewardedOptions):
    """Of n responses to each held-out prompt the best-rewarded one: an arm without training."""

    makes = ("best",)
    stage: Literal["best_of_n"]
    n: int = Field(default=16, ge=2, description="responses a prompt")
    num_prompts: int | None = Field(
        default=None, ge=1, description="how many held-out prompts of each split; omitted = all"
    )
    temperature: float = Field(
        default=1.0, gt=0, description="of sampling; 1 = the policy's own distribution"
    )
    max_tokens: int = Field(
        default=256,
        ge=1,
        description="most tokens of a response; a longer one is cut off and counted as truncated",
    )

    @property
    def opens_policy(self) -> bool:
        """It grades by the policy's tokens."""
        return True

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """The policy n times a prompt, and the judge of each response where it grades."""
        rows = plan.evaluated(self.num_prompts) * self.n
        plan.policies += 1
        texts = Asked(plan.config.policy, rows, plan.prompt, written=self.max_tokens)
        return rows, [texts, *self.graded(plan, rows, self.max_tokens)]

    def work(self, plan: Plan) -> Work:
        """The rewards of its responses."""
        read = plan.evaluated(self.num_prompts) * self.n * (plan.prompt + self.max_tokens) * self.scored
        return Work(plan.config.policy.model, read=read, trained=0, frozen=self.scored)


class RejectionOptions(RewardedOptions):
    """Fine-tune the policy on the best-rewarded of its responses from the last sample stage."""

    needs, makes = ("responses", "policy"), ("policy",)
    stage: Literal["rejection"]
    keep: int = Field(default=1, ge=1, description="responses kept of each prompt")
    epochs: float = Field(
        default=1.0, gt=0, description="passes over the training rows; a fraction is allowed"
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="highest learning rate")
    batch_size: int = Field(default=32, ge=1, description="rows an optimiser step")
    heldout: float = Field(
        default=0.05, gt=0, lt=1, description="share of prompts whose responses measure, not train"
    )
    max_length: int = Field(default=1024, ge=8, description="longer rows are dropped and counted")

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """The judge of each response where it grades."""
        kept = min(plan.responses, (plan.responses // max(plan.k, 1)) * self.keep)
        return kept, self.graded(plan, plan.responses, plan.response_tokens)

    def work(self, plan: Plan) -> Work:
        """The rewards of all responses, and a training on those kept."""
        kept = min(plan.responses, plan.responses // max(plan.k, 1) * self.keep)
        one = training(plan.config.policy.model, kept * plan.row, self, self.batch_size * plan.row)
        return replace(one, read=one.read + plan.responses * plan.row * self.scored, frozen=self.scored)


class GroupOptions(OnlineOptions):
    """What RLOO and GRPO are told: several responses a prompt, and no value model."""

    makes: ClassVar[tuple[str, ...]] = ("policy",)
    batch_size: int = Field(default=128, ge=2, description="responses an update")
    group_size: int = Field(default=8, ge=2, description="responses a prompt")
    minibatches: int = Field(default=1, ge=1, description="optimiser steps an epoch")
    epochs: int = Field(default=1, ge=1, description="passes over an update's responses")
    learning_rate: float = Field(default=1e-5, gt=0, description="highest learning rate")
    warmup: int = Field(default=10, ge=0, description="updates of linear warm-up of the learning rate")
    lr_schedule: LrSchedule = Field(
        default="constant",
        description="the learning rate after the warm-up: constant, or falling linearly to 0 at the end",
    )
    temperature: float = Field(
        default=1.0, gt=0, description="of sampling; 1 = the policy's own distribution"
    )
    clip: float = Field(
        default=0.2,
        gt=0,
        description="how far a step may move a token's probability ratio from 1 and still gain",
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are scaled down to this norm")
    kl_coef: float = Field(
        default=0.05, ge=0, description="weight of the KL from the reference policy; 0 = no penalty"
    )
    missing_eos_penalty: float = Field(
        default=1.0,
        ge=0,
        description="subtracted from a truncated response's score (1 = a standard deviation of the scores)",
    )

    @property
    def minibatch(self) -> int:
        """Responses that an optimiser step learns from."""
        return self.batch_size // self.minibatches

    @model_validator(mode="after")
    def _whole_groups(self) -> GroupOptions:
        for name in ("group_size", "minibatches"):
            if self.batch_size % getattr(self, name):
                raise ValueError(
                    f"batch_size {self.batch_size} is no multiple of {name} {getattr(self, name)}"
                )
        return self


class RlooOptions(GroupOptions):
    """Leave-one-out REINFORCE against the rewards, by trl."""

    stage: Literal["rloo"]


class GrpoOptions(GroupOptions):
    """Group-relative policy optimisation against the rewards, by trl."""

    stage: Literal["grpo"]
    scale_rewards: Literal["group", "batch", "none"] = Field(
        default="group", description="whose standard deviation the rewards are divided by"
    )
