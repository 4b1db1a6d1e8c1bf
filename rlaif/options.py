"""The options of every stage: what a config may say of it, what it needs and what it makes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Options(BaseModel):
    """Base of everything in a config: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StageOptions(Options):
    """Base of the stages' options."""

    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    stage: str

    @property
    def wants(self) -> tuple[str, ...]:
        """Artefacts that must exist before this stage, given its options."""
        return self.needs


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
        default=None, ge=1, description="rows in one forward; omitted = batch_size"
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
    def wants(self) -> tuple[str, ...]:
        return (("responses",) if self.samples else ()) + (("revisions",) if self.revisions else ())

    @model_validator(mode="after")
    def _some_source(self) -> Pair:
        if not (self.samples or self.revisions or self.imported):
            raise ValueError("no source of pairs: set samples, revisions or imported")
        return self


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
        description="given: the judge labels these too, and people count this against its 1",
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
    ai: bool = Field(default=True, description="ask the feedback model (for what human.share leaves over)")
    principles: Literal["all", "drawn"] = Field(
        default="all", description="all, or one drawn per pair as in the paper"
    )
    cot: bool = Field(default=False, description="let the judge reason first; probabilities are then clamped")
    clamp: tuple[float, float] | None = Field(
        default=None, description="bounds on p; default 0.4–0.6 with cot"
    )
    few_shot: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=256, ge=1, description="length of the reasoning, with cot")
    human: Human | None = None

    @model_validator(mode="after")
    def _some_labels(self) -> Label:
        if not self.ai and self.human is None:
            raise ValueError("no source of labels: set ai: true or give human")
        if self.clamp and not 0 <= self.clamp[0] < self.clamp[1] <= 1:
            raise ValueError("clamp needs two bounds with 0 ≤ low < high ≤ 1")
        return self


class Reward(StageOptions):
    """Train a reward model on soft preferences."""

    needs, makes = ("preferences", "policy"), ("reward_model",)
    stage: Literal["reward"]
    model: str | None = Field(
        default=None, description="where the weights start; omitted = the current policy"
    )
    epochs: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    batch_size: int = Field(default=64, ge=1)
    micro_batch: int | None = Field(
        default=None, ge=1, description="pairs in one forward; omitted = batch_size"
    )
    heldout: float = Field(
        default=0.1, gt=0, lt=1, description="share of prompts whose pairs measure, not train"
    )
    hard_labels: bool = Field(default=False, description="round soft labels to winners, for comparison")
    center: float = Field(default=0.0, ge=0, description="weight of the term that keeps rewards near zero")
    max_length: int = Field(default=1024, ge=8, description="longer pairs are dropped and counted")


class RewardSource(Options):
    """One thing PPO is rewarded by."""

    source: str = Field(
        description="reward_model (the run's), judge (the feedback model asked about single responses), "
        "module:function of (prompts, responses) -> scores, or a reward-model folder"
    )
    weight: float = Field(default=1.0, description="of its score in the sum; negative to hold something down")
    scale: bool = Field(
        default=True, description="bring its scores to mean 0 and spread 1 on samples of the starting policy"
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


class Ppo(StageOptions):
    """Proximal policy optimisation against the reward model."""

    needs, makes = ("prompts", "policy"), ("policy",)
    stage: Literal["ppo"]
    updates: int = Field(default=100, ge=1)
    batch_size: int = Field(default=128, ge=1, description="episodes an update")
    micro_batch: int = Field(default=64, ge=1, description="sequences in one forward")
    minibatches: int = Field(default=1, ge=1, description="optimiser steps an epoch")
    epochs: int = Field(default=1, ge=1, description="passes over an update's episodes")
    learning_rate: float = Field(default=1e-5, gt=0)
    value_learning_rate: float | None = Field(default=None, gt=0, description="omitted = learning_rate")
    warmup: int = Field(default=10, ge=0, description="updates of linear warm-up, then constant")
    critic_warmup: int = Field(default=0, ge=0, description="first updates that train the value model only")
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    rewards: tuple[RewardSource, ...] = Field(
        default=(RewardSource(source="reward_model"),), min_length=1, description="what is rewarded, added up"
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
        description="correct for a sampler that differs from the model (bf16, another engine) by ratios up to this",
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
    checkpoint_every: int = Field(default=10, ge=1, description="updates between full checkpoints")
    sample_every: int = Field(
        default=10, ge=1, description="updates between looks at what the policy writes (samples.jsonl)"
    )
    watch: int = Field(default=64, ge=0, description="held-out prompts answered at every look; 0 = none")
    watch_judge: bool = Field(
        default=False, description="the judge reads those answers too, not only the gold scorer"
    )
    tracker: Literal["trackio", "wandb", "tensorboard"] | None = None

    @property
    def wants(self) -> tuple[str, ...]:
        trained = any(source.source == "reward_model" for source in self.rewards)
        return (*self.needs, "reward_model") if trained else self.needs

    @model_validator(mode="after")
    def _some_gradient(self) -> Ppo:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_in: loss needs kl_estimator k2 or k3: the gradient of k1 is zero on average")
        if len({source.source for source in self.rewards}) < len(self.rewards):
            raise ValueError("rewards: each source once")
        return self


class Evaluate(StageOptions):
    """Every policy of the run on held-out prompts: gold, judge, win rate, KL, length, refusals."""

    needs, makes = ("prompts", "policy"), ("evaluation",)
    stage: Literal["evaluate"]
    prompts: int | None = Field(default=None, ge=1, description="how many held-out prompts; omitted = all")
    temperature: float = Field(default=1.0, ge=0.0)
    max_tokens: int = Field(default=256, ge=1)
    judge: int | None = Field(default=None, ge=0, description="prompts the judge sees; omitted = all of them")


AnyStage = Annotated[
    Sample | Critique | Sft | Pair | Label | Reward | Ppo | Evaluate, Field(discriminator="stage")
]
