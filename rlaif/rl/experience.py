"""What PPO learns from: a batch that was sampled, scored, and read by the models.

B episodes · R response positions · S states, one more than R where the state after the last token counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rlaif.rl import numerics
from rlaif.rl.episodes import Episodes


@dataclass(frozen=True)
class Ends:
    """How each episode ends: its score, whether it `ended`, was `cut` and goes on, and how many states count. → each B"""

    score_B: Tensor
    ended_B: Tensor
    cut_B: Tensor
    states_B: Tensor

    @property
    def valued_B(self) -> Tensor:
        """How many states are valued: where an episode goes on, what comes after its last one as well."""
        return self.states_B + self.cut_B

    def select(self, rows: Tensor) -> Ends:
        """The ends of some episodes."""
        return Ends(self.score_B[rows], self.ended_B[rows], self.cut_B[rows], self.states_B[rows])


@dataclass(frozen=True)
class Experience:
    """A scored batch: everything the optimiser steps need. [B, R], 0 where masked, unless the name says otherwise.

    `log_prob` is of the weights that sampled, those after `version` updates, read as training reads them (by its first
    step, where that is on the whole batch: until then they are the sampler's); `behaviour`
    is what the sampler itself said, in its own arithmetic. `value` and `returns` are [B, S]: there
    are `states_B` of each episode, one more than its tokens where the state after its EOS counts. `value_loss` is the
    first step's, where the pass that gave `value` was that step's already and left its gradient.
    """

    episodes: Episodes
    version: int
    score_B: Tensor  # as the reward function gave it
    reward_B: Tensor  # less the penalty for a missing EOS and β·KL: what an episode earns
    states_B: Tensor
    behaviour: Tensor
    log_prob: Tensor
    reference: Tensor
    exact_kl: Tensor
    entropy: Tensor
    value: Tensor
    advantage: Tensor
    returns: Tensor
    value_loss: Tensor | None


def describe(e: Experience) -> dict[str, float]:
    """Means over the sampled batch: score and KL of an episode, entropy of a token, length in tokens."""
    mask_BR, ratio_BR = e.episodes.mask_BR, (e.log_prob - e.behaviour).exp()
    sampler_kl_BR = numerics.kl_estimate(e.behaviour, e.log_prob, "k3")
    return {
        "reward": float(e.reward_B.mean()),
        "score": float(e.score_B.mean()),
        "kl": float((e.log_prob - e.reference).sum(1).mean()),
        "exact_kl": float(e.exact_kl.sum(1).mean()),
        "sampler_kl": float(numerics.masked_mean(sampler_kl_BR, mask_BR)),
        "sampler_ratio": float(numerics.masked_mean(ratio_BR, mask_BR)),
        "sampler_ratio_max": float(ratio_BR[mask_BR].max()),
        "entropy": float(numerics.masked_mean(e.entropy, mask_BR)),
        "length": float(e.episodes.response_B.float().mean()),
        "truncated": float((~e.episodes.ended_B).float().mean()),
    }
