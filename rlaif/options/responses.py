"""Options of the stages that make responses, revise them, learn from the revisions and pair them."""

from __future__ import annotations

from math import comb
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rlaif.options.base import FILE, NO_EFFECT, NO_JUDGE, StageOptions
from rlaif.options.data import DataSourceOptions
from rlaif.options.plan import Asked, Plan, Work, training


class SampleOptions(StageOptions):
    """Sample k responses of the current policy to each training prompt."""

    needs, makes = ("prompts", "policy"), ("responses",)
    ignores = NO_JUDGE
    stage: Literal["sample"]
    num_prompts: int | None = Field(
        default=None, ge=1, description="how many training prompts; omitted = all"
    )
    k: int = Field(default=1, ge=1, description="responses to a prompt")
    temperature: float = Field(
        default=1.0, ge=0.0, description="of sampling; 1 = the policy's own distribution; 0 = greedy"
    )
    top_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="sample from the likeliest tokens that have this probability together; 1 = from all",
    )
    max_tokens: int = Field(
        default=256,
        ge=1,
        description="most tokens of a response; a longer one is cut off and counted as truncated",
    )

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """A text a response."""
        plan.k, plan.response_tokens = self.k, self.max_tokens
        plan.responses = min(plan.train, self.num_prompts or plan.train) * self.k
        return plan.responses, [
            Asked(plan.config.policy, plan.responses, plan.prompt, written=self.max_tokens)
        ]


class CritiqueOptions(StageOptions):
    """Critique and revise each response, `rounds` times, a principle drawn for each round."""

    needs, makes = ("responses",), ("revisions",)
    ignores = ("gold",)
    stage: Literal["critique"]
    rounds: int = Field(
        default=1, ge=1, description="critiques and revisions of a response, each of the revision before"
    )
    temperature: float = Field(
        default=0.0,
        ge=0.0,
        description="of sampling critiques and revisions; 0 = greedy, at which real models keep to the point",
    )
    revision_temperature: float | None = Field(
        default=None, ge=0.0, description="of sampling revisions; omitted = temperature"
    )
    max_tokens: int = Field(
        default=256,
        ge=1,
        description="most tokens of a critique, and of a revision; a revision that is cut off is dropped "
        "and counted",
    )
    few_shot: int = Field(default=2, ge=0, description="few-shot turns taken from the principle's examples")
    critique: bool = Field(
        default=True, description="false: ask for the revision directly, without a critique before it"
    )

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """A critique and a revision a round."""
        plan.originals, rows = plan.responses, plan.responses * self.rounds
        plan.revisions = rows
        chat, rule, ask = [{"role": "user", "content": ""}], plan.constitution.principles[0], plan.templates
        critique, revision = (
            plan.tokens(turns[-1]["content"])
            for turns in (ask.critique(chat, "", rule), ask.revision(chat, "", rule, ""))
        )
        both, shots, model = plan.prompt + plan.response_tokens, 1 + self.few_shot, plan.config.feedback
        critiques = rows if self.critique else 0
        return rows, [
            Asked(model, critiques, (both + critique) * shots, written=self.max_tokens),
            Asked(model, rows, (both + self.max_tokens + revision) * shots, written=self.max_tokens),
        ]


class SftOptions(StageOptions):
    """Fine-tune the policy on the revisions, on demonstrations, or on both."""

    needs, makes = ("revisions", "policy"), ("policy",)
    ignores = NO_JUDGE
    stage: Literal["sft"]
    demonstrations: DataSourceOptions | None = Field(
        default=None,
        description="prompts with a response each, as files or data sets hold them (docs/pretraining.md)",
    )
    demonstration_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the training rows that are demonstrations, the others being revisions; omitted "
        "= all of both, as far as an earlier stage has made revisions",
    )
    train_on: Literal["all", "last"] = Field(
        default="all", description="all revisions, as in the paper, or the last"
    )
    epochs: float = Field(
        default=1.0, gt=0, description="passes over the training rows; a fraction is allowed"
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="highest learning rate")
    batch_size: int = Field(default=32, ge=1, description="rows an optimiser step")
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="most rows in one forward, cut to a divisor of the batch; omitted = batch_size",
        json_schema_extra=NO_EFFECT,
    )
    heldout: float = Field(
        default=0.05, gt=0, lt=1, description="share of prompts whose rows measure, not train"
    )
    max_length: int = Field(default=1024, ge=8, description="longer rows are dropped and counted")

    @property
    def required_artefacts(self) -> tuple[str, ...]:
        share = self.demonstration_share
        alone = self.demonstrations is not None and (share is None or share == 1)
        return ("policy",) if alone else self.needs

    @model_validator(mode="after")
    def _share_of_some(self) -> SftOptions:
        if self.demonstration_share is not None and self.demonstrations is None:
            raise ValueError("demonstration_share: no demonstrations are named")
        return self

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """It asks no model."""
        return 0, []

    def work(self, plan: Plan) -> Work:
        """A training on the revisions and the demonstrations, all of them where a share is given, too."""
        revised = plan.revisions if self.train_on == "all" else plan.originals
        alone = self.demonstrations is not None and self.demonstration_share == 1
        shown = plan.tokens_in(self.demonstrations.path or "") if self.demonstrations else 0.0
        tokens = (0 if alone else revised * plan.row) + shown
        forward = (self.micro_batch or self.batch_size) * plan.row
        return training(plan.config.policy.model, tokens, self, forward)


class PairOptions(StageOptions):
    """Make comparisons: K samples of the policy against each other, originals against revisions, imported
    pairs."""

    needs, makes = (), ("comparisons",)
    ignores = NO_JUDGE
    stage: Literal["pair"]
    per_prompt: int | None = Field(
        default=None, ge=1, description="sample pairs a prompt; omitted = all C(K,2)"
    )
    samples: bool = Field(
        default=True, description="pair the samples of the last sample stage with each other"
    )
    revisions: bool = Field(default=False, description="also pair each original with its last revision")
    imported: str | None = Field(
        default=None, description="a folder written by `rlaif data import`", json_schema_extra=FILE
    )
    limit: int | None = Field(
        default=None, ge=1, description="at most this many comparisons, drawn by the seed"
    )

    @property
    def only_samples(self) -> bool:
        """Whether all pairs are of samples, so that there must be two of a prompt."""
        return self.samples and not (self.revisions or self.imported)

    @property
    def required_artefacts(self) -> tuple[str, ...]:
        return (("responses",) if self.samples else ()) + (("revisions",) if self.revisions else ())

    @model_validator(mode="after")
    def _some_source(self) -> PairOptions:
        if not (self.samples or self.revisions or self.imported):
            raise ValueError("no source of pairs: set samples, revisions or imported")
        return self

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """It asks no model, and makes the pairs that the judge is asked about."""
        every = comb(plan.k, 2)
        each = min(every, self.per_prompt or every) if self.samples else 0
        sampled = plan.responses // max(plan.k, 1)
        made = sampled * each + (plan.originals if self.revisions else 0)
        plan.pair = (plan.prompt, plan.response_tokens, plan.principles)
        prompts = imported = 0
        if self.imported:
            prompts, imported, sizes = plan.imported(Path(self.imported))
            whole = max(1, made + imported)
            a, b, c = ((made * x + imported * y) / whole for x, y in zip(plan.pair, sizes, strict=True))
            plan.pair = (a, b, c)
        rows = made + imported
        plan.comparisons = min(rows, self.limit or rows)
        plan.paired = min(plan.comparisons, (sampled if made else 0) + prompts)
        return plan.comparisons, []
