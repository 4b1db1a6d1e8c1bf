"""PPO for language models (arXiv 1707.06347; for text arXiv 1909.08593, 2203.02155), top to bottom in one file.

An update: sample a response to each prompt (T as asked, no filter) → score it at its end → per-token rewards
−β·KL plus the score → GAE with γ = 1 → epochs of clipped policy and value steps.

Of the implementation details that matter, these are here: masks from lengths and never from token values; logits
divided by the temperature before every log-probability, log-softmax in fp32; no dropout; the score at the EOS and a
penalty where there is none; KL per token by estimator in the reward and exact in the report; β fixed or adaptive;
advantages whitened with the mask, value targets from the unwhitened ones; both losses clipped, gradients of policy
and value model clipped separately; token means over the whole minibatch however it is cut into micro-batches;
Adam with ε = 1e-5; warm-up of the rate and of the critic. Left out: discounting by default, an entropy bonus, a
shared trunk. All randomness of an update comes from a seed and its number, so no generator's state need be kept.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlaif.options import Ppo
from rlaif.rl import numerics
from rlaif.rl.episodes import Episodes, micro_batches
from rlaif.rl.forward import response_logits, response_values
from rlaif.rl.rollout import rollout
from rlaif.seeds import derive_seed

Reward = Callable[[Episodes, Sequence[Any]], Tensor]  # (episodes, each prompt's `source`) → score_B
Plan = list[list[Tensor]]  # minibatches of micro-batches of row numbers


class NotFinite(ArithmeticError):
    """A number of the update is NaN or infinite; nothing was changed by the step that would have used it."""

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value
        super().__init__(f"{name} is {value}")


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the policy reads it, and whatever the reward function wants to know of it."""

    ids: list[int]
    source: Any = None


@dataclass(frozen=True)
class Experience:
    """A scored batch: everything the optimiser steps need. [B, R], 0 where masked, unless the name says B."""

    episodes: Episodes
    score_B: Tensor  # as the reward function gave it
    reward_B: Tensor  # less the penalty for a missing EOS and β·KL: what an episode earns
    log_prob: Tensor
    reference: Tensor
    exact_kl: Tensor
    entropy: Tensor
    value: Tensor
    advantage: Tensor
    returns: Tensor


class PPO:
    """Policy and value model under training, with the frozen reference policy and the reward function.

    All models on one device, in eval mode and fp32; `autocast` runs their forwards in bf16. `eos` may be several ids.
    """

    def __init__(
        self, policy: Any, reference: Any, value: Any, reward: Reward, options: Ppo,
        eos: Sequence[int], pad: int, seed: int = 0, autocast: bool = False,
    ) -> None:  # fmt: skip
        self.policy, self.reference, self.value, self.reward = policy, reference, value, reward
        self.options, self.eos, self.pad, self.seed, self.autocast = options, eos, pad, seed, autocast
        self.device: torch.device = policy.device
        value_rate = options.value_learning_rate or options.learning_rate
        self.optimizer = torch.optim.Adam(policy.parameters(), options.learning_rate, eps=1e-5)
        self.value_optimizer = torch.optim.Adam(value.parameters(), value_rate, eps=1e-5)
        self.kl = numerics.KlController(options.kl_coef, options.kl_target, options.kl_horizon)

    def update(self, number: int, prompts: Sequence[PromptTokens]) -> tuple[dict[str, Any], Experience]:
        """One update, the `number`-th counted from 1: sample, score, learn. → its metrics, and what was sampled."""
        start = time.perf_counter()
        kl_coef = self.kl.coef
        episodes = self.sample(prompts, "rollout", number)
        plan = self._plan(episodes, number)
        experience = self._experience(episodes, prompts, plan)
        losses = self._learn(experience, plan, number)
        metrics = {"update": number, "episodes": number * self.options.batch_size, "kl_coef": kl_coef,
                   **_describe(experience), **losses, "seconds": round(time.perf_counter() - start, 4)}  # fmt: skip
        self.kl.update(metrics["exact_kl"], len(episodes))
        return metrics, experience

    def sample(self, prompts: Sequence[PromptTokens], *seed: Any) -> Episodes:
        """A response to each prompt; the same for the same weights and seed parts."""
        generator = torch.Generator(self.device).manual_seed(derive_seed(self.seed, *seed))
        o = self.options
        with self._precision():
            ids = [p.ids for p in prompts]
            return rollout(self.policy, ids, o.max_tokens, o.temperature, self.eos, self.pad, generator)

    def score(self, episodes: Episodes, prompts: Sequence[PromptTokens]) -> Tensor:
        """The reward function's score of each episode, checked. → B"""
        scores_B = self.reward(episodes, [p.source for p in prompts]).float()
        if scores_B.shape != (len(episodes),):
            raise ValueError(f"the reward function gave {tuple(scores_B.shape)} for {len(episodes)} episodes")
        _require_finite(score=scores_B.sum())
        return scores_B

    def _precision(self) -> AbstractContextManager[Any]:
        # Entered anew around every use of the weights: autocast keeps its bf16 copies until it is left.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _plan(self, episodes: Episodes, number: int) -> Plan:
        """Minibatches drawn at random; each cut into micro-batches of similar length, the same in every pass.

        The same cut for old and new log-probabilities makes the first ratio exactly 1 and not 1 ± rounding.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "minibatches", number))
        shuffled = torch.randperm(len(episodes), generator=generator).to(self.device)
        chunks = shuffled.chunk(self.options.minibatches)
        return [micro_batches(rows, episodes.length_B, self.options.micro_batch) for rows in chunks]

    @torch.no_grad()
    def _experience(self, episodes: Episodes, prompts: Sequence[PromptTokens], plan: Plan) -> Experience:
        score_B = self.score(episodes, prompts)
        end_B = score_B - self.options.missing_eos_penalty * (~episodes.ended_B)
        mask_BR = episodes.mask_BR
        names = ("log_prob", "reference", "exact_kl", "entropy", "value")
        seen = {name: torch.zeros(mask_BR.shape, device=self.device) for name in names}
        for rows in (rows for minibatch in plan for rows in minibatch):
            part = episodes.select(rows)
            at = part.mask_BR.nonzero(as_tuple=True)
            for name, values_N in self._measure(part).items():
                seen[name][rows[at[0]], at[1]] = values_N
        kl_BR = numerics.kl_estimate(seen["log_prob"], seen["reference"], self.options.kl_estimator)
        rewards_BR = numerics.token_rewards(kl_BR, end_B, mask_BR, self.kl.coef)
        reward_B = rewards_BR.sum(1)
        _require_finite(reward=reward_B.sum(), exact_kl=seen["exact_kl"].sum(), value=seen["value"].sum())
        if self.options.whiten_rewards:
            rewards_BR = numerics.masked_whiten(rewards_BR, mask_BR, shift_mean=False)
        advantages_BR, returns_BR = numerics.gae(
            rewards_BR, seen["value"], mask_BR, self.options.gamma, self.options.lam
        )
        advantages_BR = numerics.masked_whiten(advantages_BR, mask_BR)
        return Experience(episodes, score_B, reward_B, **seen, advantage=advantages_BR, returns=returns_BR)

    def _measure(self, part: Episodes) -> dict[str, Tensor]:
        """What the models say of a micro-batch's response tokens. → each N"""
        with self._precision():
            policy_NV = numerics.log_probs(response_logits(self.policy, part, self.options.temperature))
            reference_NV = numerics.log_probs(response_logits(self.reference, part, self.options.temperature))
            values_N = response_values(self.value, part)
        tokens_N = part.tokens()
        return {
            "log_prob": numerics.picked(policy_NV, tokens_N), "reference": numerics.picked(reference_NV, tokens_N),
            "exact_kl": numerics.exact_kl(policy_NV, reference_NV), "entropy": numerics.entropy(policy_NV),
            "value": values_N,
        }  # fmt: skip

    def _learn(self, experience: Experience, plan: Plan, number: int) -> dict[str, Any]:
        """The optimiser steps of one update; → means over its minibatches."""
        trains_policy = number > self.options.critic_warmup
        self._set_rates(number)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", number))
        steps: list[dict[str, float]] = []
        for _ in range(self.options.epochs):
            for index in torch.randperm(len(plan), generator=generator).tolist():
                steps.append(self._step(experience, plan[index], trains_policy))
        means = {key: math.fsum(s[key] for s in steps) / len(steps) for key in steps[0] if key != "ratio"}
        return {**means, "ratio_first": steps[0].get("ratio"), "explained_variance": numerics.explained_variance(
            experience.value, experience.returns, experience.episodes.mask_BR)}  # fmt: skip

    def _set_rates(self, number: int) -> None:
        o = self.options
        for optimizer, rate, first in (
            (self.optimizer, o.learning_rate, o.critic_warmup),
            (self.value_optimizer, o.value_learning_rate or o.learning_rate, 0),
        ):
            share = min(1.0, (number - first) / o.warmup) if o.warmup else 1.0
            optimizer.param_groups[0]["lr"] = rate * share

    def _step(self, experience: Experience, minibatch: list[Tensor], trains_policy: bool) -> dict[str, float]:
        """Gradients of one minibatch, micro-batch by micro-batch, then one step of each optimiser."""
        tokens = sum(experience.episodes.response_B[rows].sum() for rows in minibatch)
        totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        ratios = []
        for rows in minibatch:
            part = experience.episodes.select(rows)
            value_loss = self._value_loss(experience, part, rows) / tokens
            value_loss.backward()
            totals["value_loss"] += value_loss.detach()
            if trains_policy:
                loss, log_ratio_N = self._policy_loss(experience, part, rows)
                (loss / tokens).backward()
                ratio_N = log_ratio_N.exp()
                ratios.append(ratio_N)
                totals["policy_loss"] += loss.detach() / tokens
                totals["clip_fraction"] += ((ratio_N - 1).abs() > self.options.clip).sum() / tokens
                totals["approx_kl"] += (torch.expm1(log_ratio_N) - log_ratio_N).sum() / tokens
        totals["value_grad_norm"] = self._clip(self.value)
        if trains_policy:
            totals["grad_norm"] = self._clip(self.policy)
        _require_finite(**totals)
        self._apply(self.value_optimizer)
        if trains_policy:
            self._apply(self.optimizer)
            every_N = torch.cat(ratios)
            totals["ratio"] = every_N[(every_N - 1).abs().argmax()]
        return {name: float(value) for name, value in totals.items()}

    def _value_loss(self, experience: Experience, part: Episodes, rows: Tensor) -> Tensor:
        with self._precision():
            values_N = response_values(self.value, part)
        old_N, returns_N = _flat(part, rows, experience.value, experience.returns)
        return numerics.value_loss(values_N, old_N, returns_N, self.options.value_clip).sum()

    def _policy_loss(self, experience: Experience, part: Episodes, rows: Tensor) -> tuple[Tensor, Tensor]:
        with self._precision():
            logits_NV = response_logits(self.policy, part, self.options.temperature)
        log_prob_N = numerics.picked(numerics.log_probs(logits_NV), part.tokens())
        old_N, advantages_N = _flat(part, rows, experience.log_prob, experience.advantage)
        loss_N = numerics.policy_loss(log_prob_N, old_N, advantages_N, self.options.clip)
        return loss_N.sum(), (log_prob_N - old_N).detach()

    def _clip(self, model: Any) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), self.options.max_grad_norm)

    def _apply(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _flat(part: Episodes, rows: Tensor, *whole_BR: Tensor) -> tuple[Tensor, ...]:
    """The real positions of some rows, in the order of `part.tokens()`. → each N"""
    at = part.mask_BR.nonzero(as_tuple=True)
    return tuple(x[rows[at[0]], at[1]] for x in whole_BR)


def _describe(e: Experience) -> dict[str, float]:
    """Means over the sampled batch: score and KL of an episode, entropy of a token, length in tokens."""
    return {
        "reward": float(e.reward_B.mean()),
        "score": float(e.score_B.mean()),
        "kl": float((e.log_prob - e.reference).sum(1).mean()),
        "exact_kl": float(e.exact_kl.sum(1).mean()),
        "entropy": float(numerics.masked_mean(e.entropy, e.episodes.mask_BR)),
        "length": float(e.episodes.response_B.float().mean()),
        "truncated": float((~e.episodes.ended_B).float().mean()),
    }


def _require_finite(**numbers: Tensor) -> None:
    for name, value in numbers.items():
        if not torch.isfinite(value):
            raise NotFinite(name, float(value))
