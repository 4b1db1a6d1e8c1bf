"""The formulas of PPO as pure functions; names carry the axes.

B episodes · R response positions (right-padded, `mask_BR` tells which are real) · N tokens, flat · V
vocabulary. Log-probabilities are natural logarithms, KL is in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlaif.options.rewarded import LrSchedule

KlEstimator = Literal["k1", "k2", "k3"]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where `mask`; both of one shape, at least one position real."""
    return torch.where(mask, x, 0).sum() / mask.sum()


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """`x` scaled to unit variance over the real positions, and to zero mean unless `shift_mean` is off; 0
    elsewhere."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask) * mask.sum() / (mask.sum() - 1).clamp(min=1)
    white = (x - mean) * torch.rsqrt(variance + 1e-8) + (0 if shift_mean else mean)
    return torch.where(mask, white, 0)


def gather_log_probs(log_probs_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """The entry of each row that its token names. → N"""
    return log_probs_NV.gather(-1, tokens_N[:, None])[:, 0]


def entropy(log_probs_NV: Tensor, probs_NV: Tensor) -> Tensor:
    """Entropy of each position's distribution, given as logarithms and as they are. → N"""
    return -(probs_NV * log_probs_NV).sum(-1)


def exact_kl(log_probs_NV: Tensor, reference_NV: Tensor, probs_NV: Tensor) -> Tensor:
    """KL(π‖π_ref) of each position over the whole vocabulary, from log-probabilities and π's probabilities. →
    N"""
    return (probs_NV * (log_probs_NV - reference_NV)).sum(-1)


def kl_estimate(log_prob: Tensor, reference: Tensor, kind: KlEstimator = "k1") -> Tensor:
    """One-sample estimate of KL(π‖π_ref) at a token drawn from π (Schulman 2020, "Approximating KL
    divergence").

    k1 = log π/π_ref is unbiased; k2 = k1²/2 is biased but small in variance; k3 = e^(−k1) − 1 + k1 is
    unbiased and ≥ 0.
    """
    ratio = log_prob - reference
    if kind == "k1":
        return ratio
    return ratio**2 / 2 if kind == "k2" else torch.expm1(-ratio) + ratio


def token_rewards(kl_BR: Tensor, score_B: Tensor, mask_BR: Tensor, kl_coef: float) -> Tensor:
    """−β·KL at every token, and the episode's score on top at its last real one (the EOS where it ended). →
    BR"""
    last_B1 = mask_BR.sum(1, keepdim=True) - 1
    return torch.where(mask_BR, -kl_coef * kl_BR, 0).scatter_add(1, last_B1, score_B[:, None].to(kl_BR))


def gae(
    rewards_BR: Tensor,
    values_BR: Tensor,
    mask_BR: Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
    after_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates (arXiv 1506.02438) and the returns the value model is fitted to. → BR,
    BR

    After its last real position an episode is worth `after_B`, 0 unless it was cut off there and goes on. A
    masked position is passed over: what comes after it is carried to what stands before it. Both results are
    0 where masked.
    """
    advantages_BR = torch.zeros_like(rewards_BR)
    carried_B = torch.zeros_like(rewards_BR[:, 0])
    next_value_B = carried_B if after_B is None else after_B.to(carried_B)
    for t in reversed(range(rewards_BR.shape[1])):
        real_B, value_B = mask_BR[:, t], values_BR[:, t]
        delta_B = rewards_BR[:, t] + gamma * next_value_B - value_B
        carried_B = torch.where(real_B, delta_B + gamma * lam * carried_B, carried_B)
        next_value_B = torch.where(real_B, value_B, next_value_B)
        advantages_BR[:, t] = carried_B
    advantages_BR = torch.where(mask_BR, advantages_BR, 0)
    return advantages_BR, torch.where(mask_BR, advantages_BR + values_BR, 0)


def policy_loss(
    log_prob_N: Tensor, old_N: Tensor, advantages_N: Tensor, clip: float, dual_clip: float | None = None
) -> Tensor:
    """Clipped surrogate loss of each token (arXiv 1707.06347, eq. 7), to be minimised. → N

    `dual_clip` also bounds what a token of negative advantage can cost (arXiv 1912.09729, eq. 5).
    """
    ratio_N = (log_prob_N - old_N).exp()
    gain_N = torch.min(ratio_N * advantages_N, ratio_N.clamp(1 - clip, 1 + clip) * advantages_N)
    if dual_clip is not None:
        gain_N = torch.where(advantages_N < 0, torch.max(gain_N, dual_clip * advantages_N), gain_N)
    return -gain_N


def value_loss(values_N: Tensor, old_N: Tensor, returns_N: Tensor, clip: float) -> Tensor:
    """Half the squared error of each value, or of the value held within ±clip of the old one if that is
    worse. → N"""
    held_N = torch.clamp(values_N, old_N - clip, old_N + clip)
    return 0.5 * torch.max((values_N - returns_N) ** 2, (held_N - returns_N) ** 2)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(returns − values)/Var(returns) over the real positions; 0 where the returns do not vary."""
    total = returns[mask].var(correction=0)
    left = (returns - values)[mask].var(correction=0)
    return float(1 - left / total) if total > 0 else 0.0


@dataclass
class KlController:
    """The KL coefficient β: fixed, or steered towards a target of nats per sequence (arXiv 1909.08593,
    section 2.2)."""

    coef: float
    target: float | None = None
    horizon: int = 10000

    def update(self, kl: float, episodes: int) -> None:
        """Move β by the measured KL of a batch of `episodes`; nothing to do where no target is set."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coef *= 1 + error * episodes / self.horizon


class UpdateNotFinite(ArithmeticError):
    """A number of the update is NaN or infinite; nothing was changed by the step that would have used it."""

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value
        super().__init__(f"{name} is {value}")


def rate_share(step: int, steps: int, warmup: int, schedule: LrSchedule) -> float:
    """The share of the highest learning rate in step 1 … `steps`: it rises linearly in the first `warmup`
    steps; a linear schedule then falls and would reach 0 one step after the last."""
    rising = min(1.0, step / warmup) if warmup else 1.0
    falling = (steps - step + 1) / max(1, steps - warmup) if schedule == "linear" else 1.0
    return min(rising, falling)


def require_finite(**numbers: Tensor) -> None:
    for name, value in numbers.items():
        if not torch.isfinite(value):
            raise UpdateNotFinite(name, float(value))
