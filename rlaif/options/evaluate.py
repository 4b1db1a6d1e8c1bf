"""Options of the evaluate stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlaif.options.base import StageOptions
from rlaif.options.plan import Asked, Plan, Work, round_up
from rlaif.records import ORDERS


class EvaluateOptions(StageOptions):
    """Every policy of the run on held-out prompts: gold, judge, win rate, KL, length, refusals."""

    needs, makes = ("prompts", "policy"), ("evaluation",)
    stage: Literal["evaluate"]
    num_prompts: int | None = Field(
        default=None, ge=1, description="how many held-out prompts of each split; omitted = all"
    )
    temperature: float = Field(
        default=0.0,
        ge=0.0,
        description="of sampling; 0 = greedy, what a user sees; 1 = the policy's own distribution",
    )
    max_tokens: int = Field(
        default=256,
        ge=1,
        description="most tokens of a response; a longer one is cut off and counted as truncated",
    )
    num_judged_prompts: int | None = Field(
        default=None, ge=0, description="prompts of each split that the judge sees; omitted = all of them"
    )

    def estimate(self, plan: Plan) -> tuple[int, list[Asked]]:
        """Every policy's responses, and of them the judge's opinions and preferences."""
        prompts = plan.evaluated(self.num_prompts)
        judged = (
            prompts
            if self.num_judged_prompts is None
            else min(prompts, plan.evaluated(self.num_judged_prompts))
        )
        rows, each, group = prompts * plan.policies, plan.principles, max(1, plan.principles)
        single = plan.template() + plan.prompt + self.max_tokens
        model, own, written = plan.config.feedback, plan.suffix(), plan.verdict_tokens()
        opinions = round_up(judged * plan.policies * each)
        preferences = round_up(judged * (plan.policies - 1) * each * len(ORDERS))
        return rows, [
            Asked(plan.config.policy, rows, plan.prompt, written=self.max_tokens),
            Asked(model, opinions, single, own, written, group),
            Asked(model, preferences, single + self.max_tokens, own, written, group),
        ]

    def work(self, plan: Plan) -> Work:
        """Each policy's and the base policy's pass over its responses, for the KL."""
        rows = plan.evaluated(self.num_prompts) * (plan.policies - 1)
        read = 2 * rows * (plan.prompt + self.max_tokens)
        return Work(plan.config.policy.model, read=read, trained=0, frozen=2)
