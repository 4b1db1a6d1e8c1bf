"""Options of the label stage: how the judge is asked, what it must show first, and people's labels."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from rlaif.options.base import ANNOTATOR, LATER_FILE, NO_EFFECT, RUN, Options, StageOptions
from rlaif.options.modes import MODES, JudgeMode, ModeName
from rlaif.options.plan import Asked, Plan, round_up
from rlaif.records import ORDERS


class JudgeCardOptions(Options):
    """What the judge must show in a small audit on the pairs it is to label, before it labels them."""

    num_pairs: int = Field(
        default=64, ge=1, description="pairs of the audit, drawn from those to be labelled"
    )
    enforce: bool = Field(
        default=True, description="false: label all the same, and say in the notes what failed"
    )
    min_accuracy: float | None = Field(
        default=0.7, ge=0, le=1, description="least share right where a truth is known"
    )
    max_ece: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="most calibration error beyond what a perfect judge would show by chance",
    )
    max_order_flips: float | None = Field(
        default=0.25, ge=0, le=1, description="most verdicts that flip with the order"
    )
    max_invalid: float | None = Field(default=0.05, ge=0, le=1, description="most unreadable verdicts")
    min_answer_mass: float | None = Field(
        default=0.5, ge=0, le=1, description="least probability on the two answers"
    )
    max_injected: float | None = Field(
        default=0.1, ge=0, le=1, description="most verdicts flipped by template tokens or by delimiters"
    )
    max_persuaded: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="most verdicts flipped by fake verdicts, plain words or a null response",
    )
    max_instructed: float | None = Field(
        default=None, ge=0, le=1, description="most verdicts flipped by instructions in the user's turn"
    )


class HumanOptions(Options):
    """Where rankings by people (or simulated people) come from and how much they count."""

    file: str | None = Field(
        default=None,
        description="labels.jsonl or rankings.jsonl; the run pauses before the stage where it is not there "
        "yet",
        json_schema_extra=LATER_FILE,
    )
    annotator: str | None = Field(
        default=None,
        description="module:function that ranks responses (simulated)",
        json_schema_extra=ANNOTATOR,
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the annotator")
    tags: tuple[str, ...] = Field(
        default=(), description="people label responses to prompts with one of these tags; empty = to any"
    )
    route: str = Field(
        default="random",
        description="the order in which comparisons go to people, up to share or num_pairs: a queue of "
        "`rlaif annotate`; for one that goes by labels the judge labels every comparison first",
    )
    share: float = Field(
        default=1.0, gt=0, le=1, description="share of the comparisons (with these tags) that people label"
    )
    num_pairs: int | None = Field(
        default=None, ge=1, description="how many comparisons people label at most, in place of share"
    )
    weight: float = Field(default=1.0, ge=0, description="what each person counts against the judge's 1")

    @model_validator(mode="after")
    def _one_source(self) -> HumanOptions:
        if (self.file is None) == (self.annotator is None):
            raise ValueError("name exactly one of file and annotator")
        if self.num_pairs and self.share < 1:
            raise ValueError(
                "share and num_pairs both say how many comparisons people label: set one of them"
            )
        return self

    def count(self, comparisons: int) -> int:
        """How many of so many comparisons people label."""
        return min(comparisons, self.num_pairs or round(self.share * comparisons))


class LabelOptions(StageOptions):
    """Judge the comparisons under every principle in both orders, merge human labels, aggregate to
    preferences."""

    needs, makes = ("comparisons",), ("labels", "preferences")
    shown_as = "labels"
    ignores = ("policy",)
    stage: Literal["label"]
    ai: Literal[True, False, "rest"] = Field(
        default=True,
        description="ask the feedback model about every comparison, about none, or about the rest, which "
        "people say nothing about",
    )
    mode: ModeName = Field(
        default="pairwise",
        description="one question a pair, or one on all responses to a prompt that names the best (and one "
        "the worst)",
    )
    principles: Literal["all", "drawn"] | tuple[str, ...] = Field(
        default="all", description="all, one drawn per pair as in the paper, or a list of ids and tags"
    )
    labels_from: str | None = Field(
        default=None,
        description="a run whose labels are taken over where they are of the same pair, principle, "
        "template and judge",
        json_schema_extra=NO_EFFECT | RUN,
    )
    cot: bool = Field(default=False, description="let the judge reason first; probabilities are then clamped")
    clamp: tuple[float, float] | None = Field(
        default=None, description="bounds on the judge's p; default 0.4–0.6 with cot"
    )
    few_shot: int = Field(
        default=0,
        ge=0,
        description="solved comparisons, from the principles' examples, shown before each question",
    )
    max_tokens: int = Field(default=256, ge=1, description="length of the reasoning, with cot")
    human: HumanOptions | None = None

    @property
    def human_weight(self) -> float:
        """What each person counts against the judge's 1: with `ai: rest` the judge counts where people say
        nothing."""
        if self.ai == "rest":
            return math.inf
        return self.human.weight if self.human else 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """What the judge's opinion of a pair is kept within."""
        return self.clamp or ((0.4, 0.6) if self.cot else (0.0, 1.0))

    @property
    def judge_mode(self) -> JudgeMode:
        """What one question to the judge shows and asks."""
        return MODES[self.mode]

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, data: Any) -> Any:
        """A human.weight of null meant that people's labels stand in for the judge's."""
        human = data.get("human") if isinstance(data, dict) else None
        if not isinstance(human, dict) or human.get("weight", 1.0) is not None:
            return data
        rest = {key: value for key, value in human.items() if key != "weight"}
        return {**data, "human": rest, "ai": "rest" if data.get("ai", True) is True else data["ai"]}

    @model_validator(mode="after")
    def _some_labels(self) -> LabelOptions:
        if not self.ai and self.human is None:
            raise ValueError("no source of labels: set ai: true or give human")
        if self.judge_mode.listwise and (self.cot or self.few_shot):
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

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """Each comparison under each principle in both orders, where people do not label it; and the judge's
        card."""
        if not self.ai:
            return 0, []
        prompt, response, applicable = plan.pair
        each = self._principles_of(plan, applicable)
        rows = round_up((plan.comparisons - self._left_to_people(plan.comparisons)) * each * len(ORDERS))
        model, own, group = plan.config.feedback, plan.suffix(), max(1, each)
        shared = plan.template() + prompt + 2 * response
        card = plan.examined(shared + own, each, plan.comparisons)
        if self.judge_mode.listwise:
            questions = self.judge_mode.questions
            calls = round_up(plan.paired * each * len(ORDERS) * questions)
            together = shared + (plan.k - 2) * response
            return rows * questions, [Asked(model, calls, together, own, of=group), *card]
        shared += self.few_shot * (plan.template() + own + prompt + 2 * response)
        if not self.cot:
            return rows, [Asked(model, rows, shared, own, plan.verdict_tokens(), group), *card]
        reasoned = shared + own
        return rows, [
            Asked(model, rows, reasoned, written=self.max_tokens),
            Asked(model, rows, reasoned + self.max_tokens, written=plan.verdict_tokens()),
            *card,
        ]

    def _left_to_people(self, comparisons: int) -> float:
        """How many comparisons the judge is surely not asked about, where people label those they get."""
        human = self.human
        if human is None or self.ai != "rest" or human.tags or human.route != "random":
            return 0.0
        return min(comparisons, human.num_pairs) if human.num_pairs else human.share * comparisons

    def _principles_of(self, plan: Plan, applicable: float) -> float:
        """Principles a pair is judged by, of those that apply on average."""
        if self.principles == "drawn":
            return min(1.0, applicable)
        if isinstance(self.principles, str):
            return applicable
        return applicable * len(plan.constitution.subset(self.principles)) / len(plan.constitution.principles)
