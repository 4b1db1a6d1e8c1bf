"""The training batch of PPO: sampled, scored, with log-probabilities and values.

B episodes · R response positions · S states, one more than R where the state after the last token counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.options import PpoOptions
from rlaif.rl import numerics
from rlaif.rl.episodes import Episodes, length_mask


@dataclass(frozen=True)
class Ends:
    """How each episode ends: its score, whether it `ended`, was `cut` and goes on, and how many states count.
    → each B"""

    score_B: Tensor
    ended_B: Tensor
    cut_B: Tensor
    states_B: Tensor

    @property
    def num_values_B(self) -> Tensor:
        """How many states are valued: where an episode goes on, what comes after its last one as well."""
        return self.states_B + self.cut_B

    def select(self, rows: Tensor) -> Ends:
        """The ends of some episodes."""
        return Ends(self.score_B[rows], self.ended_B[rows], self.cut_B[rows], self.states_B[rows])


@dataclass(frozen=True)
class Experience:
    """A scored batch: everything the optimiser steps need. [B, R], 0 where masked, unless the name says
    otherwise.

    `log_prob` is of the weights that sampled, those after `version` updates, as a training pass computes it;
    `sampler_log_prob` is the sampler's own, which rounds otherwise. `value` and `returns` are [B, S]: there
    are `states_B` of each episode, one more than its tokens where the state after its EOS counts.
    """

    episodes: Episodes
    version: int
    score_B: Tensor  # as the reward function gave it
    reward_B: Tensor  # less the penalty for a missing EOS and β·KL: what an episode earns
    states_B: Tensor
    sampler_log_prob: Tensor
    log_prob: Tensor
    reference: Tensor
    exact_kl: Tensor
    entropy: Tensor
    value: Tensor
    advantage: Tensor
    returns: Tensor


def episode_ends(options: PpoOptions, episodes: Episodes, score_B: Tensor) -> Ends:
    """How the episodes end, by what the options say of a missing EOS and of where the score stands."""
    ended_B = episodes.ended_B
    after_eos_B = ended_B & (episodes.response_B < options.max_tokens) & (options.score_at == "after_eos")
    cut_B = ~ended_B & (options.missing_eos == "bootstrap")
    return Ends(score_B, ended_B, cut_B, episodes.response_B + after_eos_B)


def rewards_and_returns(
    options: PpoOptions, kl_coef: float, ends: Ends, measured: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The reward of each state, its advantage, and its return. → each BS

    A truncated response pays a penalty, or goes unscored where its value goes on.
    """
    o, values_BS = options, measured["value"]
    states_BS = length_mask(ends.states_B, values_BS.shape[1])
    kl_BR = numerics.kl_estimate(measured["log_prob"], measured["reference"], o.kl_estimator)
    kl_BS = torch.nn.functional.pad(kl_BR, (0, states_BS.shape[1] - kl_BR.shape[1]))
    unended_B = 0 if o.missing_eos == "bootstrap" else ends.score_B - o.missing_eos_penalty
    end_B = torch.where(ends.ended_B, ends.score_B, unended_B)
    rewards_BS = numerics.token_rewards(kl_BS, end_B, states_BS, kl_coef if o.kl_in == "reward" else 0.0)
    learnt_BS = rewards_BS
    if o.whiten_rewards:
        learnt_BS = numerics.masked_whiten(rewards_BS, states_BS, shift_mean=False)
    last_B1 = ends.states_B.clamp(max=values_BS.shape[1] - 1)[:, None]
    after_B = torch.where(ends.cut_B, values_BS.gather(1, last_B1)[:, 0], 0)
    return rewards_BS, *numerics.gae(learnt_BS, values_BS, states_BS, o.gamma, o.lam, after_B)


def estimate_advantages(
    options: PpoOptions,
    kl_coef: float,
    number: int,
    episodes: Episodes,
    ends: Ends,
    measured: dict[str, Tensor],
) -> Experience:
    """The scored batch with advantages, whitened over its tokens, and the returns before whitening."""
    rewards_BS, advantages_BS, returns_BS = rewards_and_returns(options, kl_coef, ends, measured)
    mask_BR, sampler_BR = episodes.mask_BR, episodes.behaviour_BR
    return Experience(
        episodes,
        number - 1,
        ends.score_B,
        rewards_BS.sum(1),
        ends.states_B,
        sampler_log_prob=torch.where(mask_BR, measured["log_prob"] if sampler_BR is None else sampler_BR, 0),
        advantage=numerics.masked_whiten(advantages_BS[:, : mask_BR.shape[1]], mask_BR),
        returns=returns_BS,
        **measured,
    )


def describe(e: Experience) -> dict[str, float]:
    """Means over the sampled batch: score and KL of an episode, entropy of a token, length in tokens."""
    mask_BR, ratio_BR = e.episodes.mask_BR, (e.log_prob - e.sampler_log_prob).exp()
    sampler_kl_BR = numerics.kl_estimate(e.sampler_log_prob, e.log_prob, "k3")
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
