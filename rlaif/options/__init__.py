"""The options of every stage: what a config may say of it, what it needs and what it makes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from rlaif.options.base import NO_EFFECT, Options, StageOptions
from rlaif.options.rewarded import BestOfN, Grpo, Rejection, Rloo, Watched


class Sample(StageOptions):
    """Sample k responses of the current policy to each training prompt."""

    needs, makes = ("prompts", "policy"), ("responses",)
    stage: Literal["sample"]
    prompts: int | None = Field(default=None, ge=1, description="how many training prompts; omitted = all")
    k: int = Field(default=1, ge=1)
    temperature: float = Field(default=1.0, ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=256, ge=1)


class Critique(StageOptions):
    """Critique and revise each response, `rounds` times, a principle drawn for each round."""

    needs, makes = ("responses",), ("revisions",)
    stage: Literal["critique"]
    rounds: int = Field(default=1, ge=1)
    temperature: float = Field(default=1.0, ge=0.0)
    max_tokens: int = Field(default=256, ge=1)
    few_shot: int = Field(default=2, ge=0, description="few-shot turns taken from the principle's examples")
    critique: bool = Field(
        default=True, description="false: ask for the revision directly, without a critique before it"
    )


class Sft(StageOptions):
    """Fine-tune the policy on the revisions."""

    needs, makes = ("revisions", "policy"), ("policy",)
    stage: Literal["sft"]
    train_on: Literal["all", "last"] = Field(
        default="all", description="all revisions, as in the paper, or the last"
    )
    epochs: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    batch_size: int = Field(default=32, ge=1)
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="rows in one forward; omitted = batch_size",
        json_schema_extra=NO_EFFECT,
    )
    heldout: float = Field(
        default=0.05, gt=0, lt=1, description="share of prompts whose revisions measure, not train"
    )
    max_length: int = Field(default=1024, ge=8, description="longer rows are dropped and counted")


class Pair(StageOptions):
    """Make comparisons: K samples of the policy against each other, originals against revisions, imported pairs."""

    needs, makes = (), ("comparisons",)
    stage: Literal["pair"]
    per_prompt: int | None = Field(
        default=None, ge=1, description="sample pairs a prompt; omitted = all C(K,2)"
    )
    samples: bool = True
    revisions: bool = Field(default=False, description="also pair each original with its last revision")
    imported: str | None = Field(default=None, description="a folder written by `rlaif data import`")
    limit: int | None = Field(
        default=None, ge=1, description="at most this many comparisons, drawn by the seed"
    )

    @property
    def samples_alone(self) -> bool:
        """Whether all pairs are of samples, so that there must be two of a prompt."""
        return self.samples and not (self.revisions or self.imported)

    @property
    def wants(self) -> tuple[str, ...]:
        return (("responses",) if self.samples else ()) + (("revisions",) if self.revisions else ())

    @model_validator(mode="after")
    def _some_source(self) -> Pair:
        if not (self.samples or self.revisions or self.imported):
            raise ValueError("no source of pairs: set samples, revisions or imported")
        return self


class JudgeCard(Options):
    """What the judge must show in a small audit on the pairs it is to label, before it labels them."""

    pairs: int = Field(default=64, ge=1, description="pairs of the audit, drawn from those to be labelled")
    enforce: bool = Field(
        default=True, description="false: label all the same, and say in the notes what failed"
    )
    accuracy: float | None = Field(
        default=0.7, ge=0, le=1, description="least share right where a truth is known"
    )
    ece: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="most expected calibration error; missed where its interval lies above",
    )
    order_flips: float | None = Field(
        default=0.25, ge=0, le=1, description="most verdicts that flip with the order"
    )
    invalid: float | None = Field(default=0.05, ge=0, le=1, description="most unreadable verdicts")
    mass: float | None = Field(default=0.5, ge=0, le=1, description="least probability on the two answers")
    injected: float | None = Field(
        default=0.1, ge=0, le=1, description="most verdicts turned by template tokens or by delimiters"
    )
    persuaded: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="most verdicts turned by fake verdicts, plain words or a null answer",
    )
    instructed: float | None = Field(
        default=None, ge=0, le=1, description="most verdicts turned by instructions in the user's turn"
    )


class Human(Options):
    """Where rankings by people (or simulated people) come from and how much they count."""

    file: str | None = Field(default=None, description="labels.jsonl or rankings.jsonl")
    annotator: str | None = Field(
        default=None, description="module:function that ranks responses (simulated)"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the annotator")
    share: float = Field(default=1.0, gt=0, le=1, description="share of the comparisons that people label")
    weight: float | None = Field(
        default=None,
        ge=0,
        description="given: the judge labels these too, and each person counts this against its 1",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Human:
        if (self.file is None) == (self.annotator is None):
            raise ValueError("name exactly one of file and annotator")
        return self


class Label(StageOptions):
    """Judge the comparisons under every principle in both orders, merge human labels, aggregate to preferences."""

    needs, makes = ("comparisons",), ("labels", "preferences")
    stage: Literal["label"]
    ai: bool = Field(default=True, description="ask the feedback model (for what people say nothing about)")
    mode: Literal["pairwise", "best", "best and worst"] = Field(
        default="pairwise",
        description="one question a pair, or one on all replies to a prompt that names the best (and one the worst)",
    )
    principles: Literal["all", "drawn"] | tuple[str, ...] = Field(
        default="all", description="all, one drawn per pair as in the paper, or a list of ids and tags"
    )
    labels_from: str | None = Field(
        default=None,
        description="a run whose labels are taken over where they are of the same pair, principle, template and judge",
        json_schema_extra=NO_EFFECT,
    )
    cot: bool = Field(default=False, description="let the judge reason first; probabilities are then clamped")
    clamp: tuple[float, float] | None = Field(
        default=None, description="bounds on the judge's p; default 0.4–0.6 with cot"
    )
    few_shot: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=256, ge=1, description="length of the reasoning, with cot")
    human: Human | None = None

    @model_validator(mode="after")
    def _some_labels(self) -> Label:
        if not self.ai and self.human is None:
            raise ValueError("no source of labels: set ai: true or give human")
        if self.mode != "pairwise" and (self.cot or self.few_shot):
            raise ValueError(f'cot and few_shot go with mode: pairwise, not with "{self.mode}"')
        if not self.principles:
            raise ValueError("principles: [] leaves nothing to judge by: name some, or set all")
        if self.cot and self.few_shot:
            raise ValueError(
                "few_shot shows answers without reasons, and cot asks for reasons: set one of them"
            )
        if self.clamp and not 0 <= self.clamp[0] < self.clamp[1] <= 1:
            raise ValueError("clamp needs two bounds with 0 ≤ low < high ≤ 1")
        return self


class OnPreferences(StageOptions):
    """What every training on preferences is told."""

    epochs: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    batch_size: int = Field(default=64, ge=1, description="pairs a step, or prompts with by_prompt")
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="of these in one forward; omitted = batch_size",
        json_schema_extra=NO_EFFECT,
    )
    by_prompt: bool = Field(
        default=False,
        description="all pairs of a prompt are one batch element, each reply read once (K-wise)",
    )
    heldout: float = Field(
        default=0.1, gt=0, lt=1, description="share of prompts whose pairs measure, not train"
    )
    hard_labels: bool = Field(default=False, description="round soft labels to winners, for comparison")
    margin: float = Field(default=0.0, ge=0, description="lead asked of a certain winner")
    source_weights: dict[Literal["human", "ai", "simulated"], float] = Field(
        default_factory=dict, description="weight of preferences by who labelled; omitted = 1"
    )
    max_length: int = Field(default=1024, ge=8, description="longer pairs are dropped and counted")

    @field_validator("source_weights")
    @classmethod
    def _not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
        if any(weight < 0 for weight in weights.values()):
            raise ValueError("weights are 0 or more")
        return weights


class Reward(OnPreferences):
    """Train reward models on soft preferences."""

    needs, makes = ("preferences", "policy"), ("reward_model",)
    stage: Literal["reward"]
    model: str | None = Field(
        default=None, description="where the weights start; omitted = the current policy"
    )
    members: int = Field(default=1, ge=1, description="reward models that differ by seed: an ensemble")
    center: float = Field(default=0.0, ge=0, description="weight of the term that keeps rewards near zero")
    heldout_sets: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], str] = Field(
        default_factory=dict,
        description="name → labelled pairs to measure on: an import's folder, or an HH or HHH file",
    )


class Dpo(OnPreferences):
    """Direct preference optimisation on soft preferences: no reward model, no sampling."""

    needs, makes = ("preferences", "policy"), ("policy",)
    stage: Literal["dpo"]
    beta: float = Field(
        default=0.1, gt=0, description="how dearly moving from the starting policy is paid for"
    )


class Ptx(Options):
    """Text the policy must not forget (InstructGPT's pre-training mix)."""

    file: str = Field(description=".txt, or .jsonl whose rows have a text")
    coef: float = Field(default=27.8, gt=0, description="γ, the weight of its loss beside the policy's")
    batch_size: int = Field(default=8, ge=1, description="blocks an optimiser step")
    block: int = Field(default=256, ge=2, description="tokens in a block")


class Lora(Options):
    """Train low-rank adapters in place of all weights (arXiv 2106.09685); needs the extra `lora`."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    adapter: str | None = Field(
        default=None,
        description="a saved adapter to go on with, its own rank and alpha; the reference is the model without it",
    )


class Ppo(Watched):
    """Proximal policy optimisation against the reward model."""

    makes = ("policy",)
    stage: Literal["ppo"]
    batch_size: int = Field(default=128, ge=1, description="episodes an update")
    minibatches: int = Field(default=1, ge=1, description="optimiser steps an epoch")
    epochs: int = Field(default=1, ge=1, description="passes over an update's episodes")
    learning_rate: float = Field(default=1e-5, gt=0)
    value_learning_rate: float | None = Field(default=None, gt=0, description="omitted = learning_rate")
    warmup: int = Field(default=10, ge=0, description="updates of linear warm-up, then constant")
    critic_warmup: int = Field(default=0, ge=0, description="first updates that train the value model only")
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    rollouts: Literal["own", "vllm"] = Field(
        default="own",
        description="what samples the responses: PPO's own loop over the policy, or vLLM beside it, given the "
        "policy's weights before it samples (extra vllm, one process)",
    )
    rollout_memory: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="rollouts: vllm: its share of the GPU's memory, a second policy included",
        json_schema_extra=NO_EFFECT,
    )
    gamma: float = Field(default=1.0, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    clip: float = Field(default=0.2, gt=0)
    dual_clip: float | None = Field(
        default=None, gt=1, description="bound on the ratio of a bad token (arXiv 1912.09729); omitted = none"
    )
    value_clip: float = Field(default=0.2, gt=0)
    shared_trunk: float | None = Field(
        default=None,
        gt=0,
        description="coefficient of the value loss; given = a value head on the policy's trunk and no value model: "
        "another algorithm",
    )
    max_grad_norm: float = Field(default=1.0, gt=0)
    importance_cap: float | None = Field(
        default=None,
        ge=1,
        description="correct for a sampler that differs from the model (bf16, another engine) by ratios up to this; "
        "omitted = no correction, 2 with rollouts: vllm",
    )
    stop_kl: float | None = Field(
        default=None, gt=0, description="nats a token from the sampling policy at which an update's steps end"
    )
    kl_coef: float = Field(default=0.05, ge=0)
    kl_in: Literal["reward", "loss"] = Field(default="reward", description="where the KL is paid for")
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    kl_target: float | None = Field(
        default=None, gt=0, description="nats a sequence; given = adaptive coefficient"
    )
    kl_horizon: int = Field(
        default=10000, ge=1, description="episodes over which the adaptive coefficient moves"
    )
    missing_eos: Literal["penalty", "bootstrap"] = Field(
        default="penalty",
        description="a truncated response: its score less a penalty, or no score and the value of where it was cut",
    )
    missing_eos_penalty: float = Field(
        default=1.0,
        ge=0,
        description="subtracted from a truncated response's score (1 = a spread of the scores)",
    )
    score_at: Literal["eos", "after_eos"] = Field(
        default="eos", description="where an ended response is rewarded; after_eos is TRL 1.12's index"
    )
    whiten_rewards: bool = Field(
        default=False, description="scale each batch's token rewards to unit variance"
    )
    ptx: Ptx | None = None
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay an update of a moving average of the weights; the average is what is kept",
    )
    lora: Lora | None = None
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

    @model_validator(mode="after")
    def _some_gradient(self) -> Ppo:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_in: loss needs kl_estimator k2 or k3: the gradient of k1 is zero on average")
        return self

    @model_validator(mode="after")
    def _some_effect(self) -> Ppo:
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
                f"critic_warmup {self.critic_warmup} of {self.updates} updates: the policy would learn nothing"
            )
        return self


class Evaluate(StageOptions):
    """Every policy of the run on held-out prompts: gold, judge, win rate, KL, length, refusals."""

    needs, makes = ("prompts", "policy"), ("evaluation",)
    stage: Literal["evaluate"]
    prompts: int | None = Field(
        default=None, ge=1, description="how many held-out prompts of each split; omitted = all"
    )
    temperature: float = Field(default=1.0, ge=0.0)
    max_tokens: int = Field(default=256, ge=1)
    judge: int | None = Field(
        default=None, ge=0, description="prompts of each split that the judge sees; omitted = all of them"
    )


AnyStage = Annotated[
    Sample
    | Critique
    | Sft
    | Pair
    | Label
    | Reward
    | Dpo
    | BestOfN
    | Rejection
    | Ppo
    | Rloo
    | Grpo
    | Evaluate,
    Field(discriminator="stage"),
]
STAGES: dict[str, type[StageOptions]] = {
    get_args(kind.model_fields["stage"].annotation)[0]: kind for kind in get_args(get_args(AnyStage)[0])
}
