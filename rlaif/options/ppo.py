"""Options of PPO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from rlaif.options.base import FILE, MODEL, NO_EFFECT, Options
from rlaif.options.plan import Plan, Work
from rlaif.options.rewarded import LrSchedule, OnlineOptions


class PtxOptions(Options):
    """Text the policy must not forget (InstructGPT's pre-training mix)."""

    file: str = Field(description="text as pretrain.text takes it", json_schema_extra=FILE)
    coef: float = Field(default=27.8, gt=0, description="γ, the weight of its loss beside the policy's")
    batch_size: int = Field(default=8, ge=1, description="blocks an optimiser step")
    block_size: int = Field(default=256, ge=2, description="tokens in a block")


class LoraOptions(Options):
    """Train low-rank adapters in place of all weights (arXiv 2106.09685); needs the extra `lora`."""

    rank: int = Field(default=16, ge=1, description="rank of the adapters")
    alpha: int = Field(default=32, ge=1, description="the adapters' output is scaled by alpha / rank")
    adapter: str | None = Field(
        default=None,
        description="a saved adapter to go on with, its own rank and alpha; the reference is the model "
        "without it",
        json_schema_extra=FILE,
    )


class PpoOptions(OnlineOptions):
    """Proximal policy optimisation against the reward model."""

    makes = ("policy",)
    stage: Literal["ppo"]
    model: str | None = Field(
        default=None,
        description="where the weights start, such as the policy of an earlier run; omitted = the current "
        "policy, which is the reference in either case",
        json_schema_extra=MODEL,
    )
    minibatches: int = Field(default=1, ge=1, description="optimiser steps an epoch")
    epochs: int = Field(default=1, ge=1, description="passes over an update's episodes")
    learning_rate: float = Field(default=1e-5, gt=0, description="highest learning rate")
    value_learning_rate: float | None = Field(default=None, gt=0, description="omitted = learning_rate")
    warmup: int = Field(default=10, ge=0, description="updates of linear warm-up of the learning rate")
    lr_schedule: LrSchedule = Field(
        default="constant",
        description="the learning rate after the warm-up: constant, or falling linearly to 0 at the end",
    )
    critic_warmup: int = Field(default=0, ge=0, description="first updates that train the value model only")
    temperature: float = Field(
        default=1.0, gt=0, description="of sampling; 1 = the policy's own distribution"
    )
    rollouts: Literal["own", "vllm"] = Field(
        default="own",
        description="what samples the responses: PPO's own loop over the policy, or vLLM beside it, "
        "given the "
        "policy's weights before it samples (extra vllm, one process)",
    )
    rollout_memory: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="rollouts: vllm: its share of the GPU's memory, a second policy included",
        json_schema_extra=NO_EFFECT,
    )
    gamma: float = Field(default=1.0, gt=0, le=1, description="discount a token of later rewards")
    lam: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="λ of generalised advantage estimation (arXiv 1506.02438): 0 = one step, 1 = the "
        "whole return",
    )
    clip: float = Field(
        default=0.2,
        gt=0,
        description="how far a step may move a token's probability ratio from 1 and still gain (arXiv "
        "1707.06347)",
    )
    dual_clip: float | None = Field(
        default=None, gt=1, description="bound on the ratio of a bad token (arXiv 1912.09729); omitted = none"
    )
    value_clip: float = Field(
        default=0.2,
        gt=0,
        description="how far a step may move a value from that of sampling time before its loss is held",
    )
    shared_trunk_vf_coef: float | None = Field(
        default=None,
        gt=0,
        description="coefficient of the value loss; given = a value head on the policy's trunk and no "
        "value model: "
        "another algorithm",
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are scaled down to this norm")
    importance_cap: float | None = Field(
        default=None,
        ge=1,
        description="correct for a sampler that differs from the model (bf16, another engine) by ratios "
        "up to this; "
        "omitted = no correction, 2 with rollouts: vllm",
    )
    max_update_kl: float | None = Field(
        default=None, gt=0, description="nats a token from the sampling policy at which an update's steps end"
    )
    kl_coef: float = Field(
        default=0.05,
        ge=0,
        description="weight of the KL from the reference policy; 0 = no penalty; the start value with "
        "kl_target",
    )
    kl_in: Literal["reward", "loss"] = Field(
        default="reward",
        description="where the KL penalty is applied: to the reward or as a term of the loss",
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        default="k1",
        description="how the KL is estimated from a sampled token: k1 = log ratio, k2 = half its square, "
        "k3 = ratio − 1 − log ratio",
    )
    kl_target: float | None = Field(
        default=None, gt=0, description="nats a sequence; given = adaptive coefficient"
    )
    kl_horizon: int = Field(
        default=10000, ge=1, description="episodes over which the adaptive coefficient moves"
    )
    missing_eos: Literal["penalty", "bootstrap"] = Field(
        default="penalty",
        description="a truncated response: its score less a penalty, or no score and the value of where "
        "it was cut",
    )
    missing_eos_penalty: float = Field(
        default=1.0,
        ge=0,
        description="subtracted from a truncated response's score (1 = a standard deviation of the scores)",
    )
    score_at: Literal["eos", "after_eos"] = Field(
        default="eos", description="where an ended response is rewarded; after_eos is TRL 1.12's index"
    )
    whiten_rewards: bool = Field(
        default=False, description="scale each batch's token rewards to unit variance"
    )
    ptx: PtxOptions | None = None
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay an update of a moving average of the weights; the average is what is kept",
    )
    lora: LoraOptions | None = None
    checkpoint_every: int = Field(
        default=1,
        ge=1,
        description="updates between full checkpoints: the most that a kill can cost",
        json_schema_extra=NO_EFFECT,
    )

    @model_validator(mode="before")
    @classmethod
    def _corrected(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("rollouts") == "vllm":
            return {"importance_cap": 2.0, **given}  # another engine's arithmetic always differs
        return given

    @model_serializer(mode="wrap")
    def _with_no_cap(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Left out, as defaults are where a run goes on, it would come back as the cap of rollouts: vllm.
        no_cap = self.rollouts == "vllm" and self.importance_cap is None
        return handler(self) | ({"importance_cap": None} if no_cap else {})

    @model_validator(mode="after")
    def _some_gradient(self) -> PpoOptions:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_in: loss needs kl_estimator k2 or k3: the gradient of k1 is zero on average")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> PpoOptions:
        if self.model and self.lora:
            raise ValueError("lora's reference is the model without adapters: it does not go with model")
        return self

    @model_validator(mode="after")
    def _some_effect(self) -> PpoOptions:
        if self.minibatches > self.batch_size:
            raise ValueError(
                f"minibatches {self.minibatches} of a batch_size of {self.batch_size}: some would be empty"
            )
        if self.kl_target and self.kl_coef == 0:
            raise ValueError("kl_target moves kl_coef by shares of itself: it has to be more than 0")
        if self.kl_target and self.kl_horizon < self.batch_size:
            raise ValueError(
                f"kl_horizon {self.kl_horizon} is less than a batch of {self.batch_size}: kl_coef would swing"
            )
        if self.critic_warmup >= self.updates:
            raise ValueError(
                f"critic_warmup {self.critic_warmup} of {self.updates} updates: the policy would learn "
                "nothing"
            )
        return self

    def work(self, plan: Plan) -> Work:
        """As of all that learn from their own samples; and the value model, read and trained as the policy
        is."""
        one = super().work(plan)
        if self.shared_trunk_vf_coef:
            return one
        return replace(one, learnt=2 * one.learnt, read=one.read + one.learnt / self.epochs, trained=2)
