"""Several reward models as one, against over-optimisation (Coste et al., arXiv 2310.02743, section 2.3).

M members · B episodes. Members are brought to one scale before they are pooled, so that none counts for more
because its scores spread wider; the pooled score is given back on the first member's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rlaif.records import Prompt
from rlaif.rl.episodes import Episodes
from rlaif.rl.reward import ModelReward, Scale

Pool = Literal["mean", "worst", "mean_minus_std"]


def pool(scores_MB: Tensor, how: Pool, k: float = 1.0) -> Tensor:
    """The members' mean, their worst case, or their mean less k standard deviations. → B"""
    if how == "worst":
        return scores_MB.amin(0)
    margin_B = k * scores_MB.std(0, correction=0) if how == "mean_minus_std" else 0.0
    return scores_MB.mean(0) - margin_B


class Ensemble:
    """Pooled scores of reward models of one tokenizer, in place of a `ModelReward`."""

    def __init__(self, members: Sequence[ModelReward], scales: Sequence[Scale], how: Pool, k: float) -> None:
        self.members, self.scales, self.k = members, scales, k
        self.how: Pool = how
        self.context, self.own_tokens, self.unread = members[0].context, members[0].own_tokens, 0.0

    def why_unscorable(self, prompt: Prompt) -> str | None:
        """Why the first of the members that cannot read responses to this prompt cannot."""
        return next(filter(None, (member.why_unscorable(prompt) for member in self.members)), None)

    def __call__(self, episodes: Episodes, prompts: Sequence[Prompt]) -> Tensor:
        """Raw score of each episode. → B"""
        pairs = zip(self.members, self.scales, strict=True)
        scores_MB = torch.stack([(member(episodes, prompts) - s.mean) / s.std for member, s in pairs])
        self.unread = max(member.unread for member in self.members)
        first = self.scales[0]
        return first.mean + first.std * pool(scores_MB, self.how, self.k)
