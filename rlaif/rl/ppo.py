"""PPO for language models (arXiv 1707.06347; for text arXiv 1909.08593, 2203.02155), top to bottom.

An update: sample a response to each prompt (T as asked, no filter) → score it at its end → per-token rewards
−β·KL plus the score → GAE with γ = 1 → epochs of clipped policy and value steps. See docs/ppo.md.

Of the implementation details that matter, these are here: masks from lengths and never from token values;
logits divided by the temperature before every log-probability, log-softmax in fp32; no dropout; the score at
the EOS and, where there is none, a penalty or the value of going on; KL per token by estimator in the reward
or the loss and exact in the report; β fixed or adaptive; advantages whitened with the mask, value targets
from the unwhitened ones; both losses clipped, gradients of policy and value model clipped separately; token
means over the whole minibatch however it is cut into micro-batches; Adam with ε = 1e-5; warm-up of the rate
and of the critic; a pre-training mix; an average of the weights. Left out: discounting by default and an
entropy bonus. All randomness of an update comes from a seed and its number, so no generator's state is kept.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlaif.options import PpoOptions
from rlaif.rl import numerics
from rlaif.rl.cpu import keep_freed_memory, linear_layers
from rlaif.rl.episodes import Episodes, PromptTokens, flat_states, length_mask, micro_batches
from rlaif.rl.experience import (
    Ends,
    Experience,
    describe,
    episode_ends,
    estimate_advantages,
    rewards_and_returns,
)
from rlaif.rl.forward import choose_attention, precision, response_final, response_values, to_bf16
from rlaif.rl.heads import COMPARED, compare, token_log_probs
from rlaif.rl.lora import without_adapters
from rlaif.rl.numerics import require_finite
from rlaif.rl.pretraining import Pretraining
from rlaif.rl.ranks import SINGLE_PROCESS, Ranks, gather_episodes
from rlaif.rl.rollout import Stops, rollout
from rlaif.rl.sharding import full_tensor, run_in_forward, unsharded
from rlaif.rl.weights import trainable_weights, update_average, use_average
from rlaif.runs.seeds import derive_seed

Reward = Callable[[Episodes, Sequence[Any]], Tensor]  # (episodes, each prompt's `source`) → score_B
Sampler = Callable[[Any, list[list[int]], int], Episodes]  # (policy, prompts, seed) → with `behaviour_BR`
SUMS = ("value_loss", "policy_loss", "clip_fraction", "approx_kl")  # of a step, over its micro-batches
Plan = list[list[Tensor]]  # minibatches of micro-batches of row numbers


class PPO:
    """Policy and value model under training, with the frozen reference policy and the reward function.

    All models on one device, in eval mode; what is trained of them (`requires_grad`) in fp32, `autocast` runs
    forwards in bf16 and keeps the `reference` in it. Without one it is the policy with its adapters switched
    off. `eos` may be several ids; `stops` finds the end of a response that has none. A `sampler` takes the
    place of the decode loop, on one process. With sharded `ranks` the three models are sharded
    (`rlaif.rl.sharding`).
    """

    def __init__(
        self,
        policy: Any,
        reference: Any,
        value: Any,
        reward: Reward,
        options: PpoOptions,
        eos: Sequence[int],
        pad: int,
        seed: int = 0,
        autocast: bool = False,
        stops: Stops | None = None,
        pretraining: Pretraining | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        sampler: Sampler | None = None,
    ) -> None:
        self.policy, self.reference, self.value, self.reward = policy, reference, value, reward
        self.options, self.eos, self.pad, self.seed, self.autocast = options, eos, pad, seed, autocast
        self.stops, self.pretraining, self.ranks, self.sampler = stops, pretraining, ranks, sampler
        # With one minibatch the first step reads the whole batch by the weights that sampled it. Two passes
        # are then not made twice: the value model's, whose gradient is taken as the batch is measured, and
        # the policy's, whose last hidden states are kept from sampling.
        self.reuses_passes = options.minibatches == 1 and ranks.count == 1 and sampler is None
        # Not so in bf16: there the sampler's states round otherwise than the whole pass by which the
        # reference is read, and the difference would be penalised as KL at every token.
        self.keeps_states = self.reuses_passes and not autocast
        self.device: torch.device = policy.device
        keep_freed_memory(self.device)
        if autocast and reference is not None and not ranks.sharded:  # a sharded model is of one dtype
            to_bf16(reference)
        value_rate = options.value_learning_rate or options.learning_rate
        weights, value_weights = trainable_weights(policy), trainable_weights(value)
        self.optimizer = torch.optim.Adam(weights.values(), options.learning_rate, eps=1e-5, fused=True)
        self.value_optimizer = torch.optim.Adam(value_weights.values(), value_rate, eps=1e-5, fused=True)
        self.kl = numerics.KlController(options.kl_coef, options.kl_target, options.kl_horizon)
        self.average = {name: w.detach().clone() for name, w in weights.items()} if options.ema_decay else {}

    def update(self, number: int, prompts: Sequence[PromptTokens]) -> tuple[dict[str, Any], Experience]:
        """One update, the `number`-th counted from 1. → its metrics, and what was sampled"""
        start, kl_coef = time.perf_counter(), self.kl.coef
        self._choose_attention(prompts)
        # 1. Sample a response to each prompt, and draw the minibatches.
        episodes = self.sample(prompts, "rollout", number)
        plan = self._plan(episodes, number)
        # 2. Score the responses.
        ends = episode_ends(self.options, episodes, self.score(episodes, prompts))
        # 3. Measure them by policy, reference and value model, all as they were when sampling.
        measured, value_loss = self.measure_batch(episodes, plan, ends)
        # 4. Token rewards, advantages and returns.
        experience = estimate_advantages(self.options, kl_coef, number, episodes, ends, measured)
        require_finite(reward=experience.reward_B.sum())
        # 5. Epochs of optimiser steps on the minibatches.
        losses, log_prob_BR = self.optimize(experience, plan, number, value_loss)
        experience = replace(experience, log_prob=log_prob_BR)
        # 6. Update the moving average of the weights.
        update_average(self.policy, self.average, self.options.ema_decay or 0.0)
        metrics = {
            "update": number,
            "episodes": number * self.options.batch_size,
            "kl_coef": kl_coef,
            **describe(experience),
            **losses,
            "seconds": round(time.perf_counter() - start, 4),
        }
        # 7. Adapt the KL coefficient to the KL that was measured.
        self.kl.update(metrics["exact_kl"], len(episodes))
        return metrics, experience

    def _choose_attention(self, prompts: Sequence[PromptTokens]) -> None:
        """The attention kernel that is fastest for sequences of this length, in bf16 on a CPU."""
        if self.autocast and self.device.type == "cpu":
            longest = max(len(p.ids) for p in prompts) + self.options.max_tokens
            for model in filter(None, (self.policy, self.reference, self.value)):
                choose_attention(model, longest)

    def sample(self, prompts: Sequence[PromptTokens], *seed: Any) -> Episodes:
        """A response to each prompt; the same for the same weights and seed parts."""
        ids, number = [p.ids for p in prompts], derive_seed(self.seed, *seed)
        if self.sampler is not None:
            return self.sampler(self.policy, ids, number)
        generator = torch.Generator(self.device).manual_seed(number)
        o, ranks = self.options, self.ranks if len(ids) >= self.ranks.count else SINGLE_PROCESS
        with self._precision(), unsharded(self.policy):
            how = (self.eos, self.pad, generator, self.stops, ranks, self.keeps_states)
            mine = rollout(self.policy, ids, o.max_tokens, o.temperature, *how)
        return gather_episodes(ranks, ids, mine, self.pad)

    @torch.no_grad()
    def score(self, episodes: Episodes, prompts: Sequence[PromptTokens]) -> Tensor:
        """The reward function's score of each episode, checked. → B"""
        mine = self.ranks.own_share(torch.arange(len(episodes), device=self.device))
        read = episodes if self.ranks.count == 1 else episodes.select(mine)
        with linear_layers(self.policy):
            found = self.reward(read, [p.source for p in self.ranks.own_share(prompts)]).float()
        if found.shape != (len(read),):
            raise ValueError(f"the reward function gave {tuple(found.shape)} for {len(read)} episodes")
        scores_B = torch.zeros(len(episodes), device=self.device)
        scores_B[mine] = found.to(self.device)
        self.ranks.all_reduce(scores_B)
        require_finite(score=scores_B.sum())
        return scores_B

    def _reference(self) -> AbstractContextManager[Any]:
        return without_adapters(self.policy) if self.reference is None else nullcontext(self.reference)

    def _precision(self) -> AbstractContextManager[Any]:
        # Entered anew around every use of the weights: autocast keeps its bf16 copies until it is left.
        return precision(self.policy, self.autocast)

    def _copies(self) -> AbstractContextManager[Any]:
        """Not in bf16 itself; around what is, it makes autocast's copies of the weights outlast a
        micro-batch."""
        return nullcontext() if self.ranks.sharded else torch.autocast(self.device.type, enabled=False)

    def _plan(self, episodes: Episodes, number: int) -> Plan:
        """Minibatches drawn at random; each cut into micro-batches of similar length, the same in every pass.

        The same cut for old and new log-probabilities makes the first ratio exactly 1 and not 1 ± rounding.
        There is something to do for every process.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "minibatches", number))
        shuffled = torch.randperm(len(episodes), generator=generator).to(self.device)
        chunks = shuffled.tensor_split(self.options.minibatches)
        limits = [min(self.options.micro_batch, -(-len(rows) // self.ranks.count)) for rows in chunks]
        return [micro_batches(r, episodes.length_B, n) for r, n in zip(chunks, limits, strict=True)]

    @torch.no_grad()
    def measure_batch(
        self, episodes: Episodes, plan: Plan, ends: Ends
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """What the models compute of the whole batch, micro-batch by micro-batch. → by name [B, R], values
        [B, S]; a loss

        Where the first step is on the whole batch, and a return depends on its own episode alone, the value
        model's pass is that step's already: its gradient is taken here, and the loss is returned; else that
        is None.
        """
        measured = {name: torch.zeros(episodes.mask_BR.shape, device=self.device) for name in COMPARED}
        measured["value"] = torch.zeros(len(episodes), int(ends.num_values_B.max()), device=self.device)
        learns = self.reuses_passes and not self.options.whiten_rewards
        value_loss = torch.zeros((), device=self.device) if learns else None
        with self._precision():
            for minibatch in plan:
                for rows in self.ranks.padding(minibatch):
                    self._measure(episodes.select(rows[:1]), ends.num_values_B[rows[:1]])
            for minibatch in plan:
                for rows in self.ranks.own_share(minibatch):
                    part, own = episodes.select(rows), ends.select(rows)
                    found = self._measure(part, own.num_values_B, learns)
                    for name, numbers_N in found.items():
                        count_B = own.num_values_B if name == "value" else part.response_B
                        row_N, step_N = length_mask(count_B).nonzero(as_tuple=True)
                        measured[name][rows[row_N], step_N] = numbers_N.detach()
                    if value_loss is not None:
                        mine = {name: x[rows] for name, x in measured.items()}
                        value_loss += self._first_value_backward(found["value"], mine, own, ends)
        self.ranks.all_reduce(*measured.values())
        require_finite(exact_kl=measured["exact_kl"].sum(), value=measured["value"].sum())
        return measured, value_loss

    @torch.enable_grad()
    def _first_value_backward(
        self, values_N: Tensor, measured: dict[str, Tensor], own: Ends, every: Ends
    ) -> Tensor:
        """Add a micro-batch's share to the gradient of the first step's value loss. → that share of the
        loss"""
        old_BS = measured["value"]
        states_BS = length_mask(own.states_B, old_BS.shape[1])
        values_N = values_N[states_BS[length_mask(own.num_values_B, states_BS.shape[1])]]
        returns_N = rewards_and_returns(self.options, self.kl.coef, own, measured)[2][states_BS]
        loss_N = numerics.value_loss(values_N, old_BS[states_BS], returns_N, self.options.value_clip)
        return self.value_backward(loss_N.sum() / every.states_B.sum())

    def _measure(self, part: Episodes, num_values_B: Tensor, learns: bool = False) -> dict[str, Tensor]:
        """What the models compute of a micro-batch's response tokens and states, values with a gradient or
        without. → each N"""
        found = run_in_forward(self.policy, lambda: self._compare(part))
        with torch.set_grad_enabled(learns):
            return {**found, "value": response_values(self.value, part, num_values_B)}

    def _compare(self, part: Episodes) -> dict[str, Tensor]:
        """Log-probabilities of policy and reference, KL and entropy of a micro-batch's response tokens. →
        each N"""
        policy, tokens_N = response_final(self.policy, part, part.final_BRD), part.tokens()
        temperature = self.options.temperature
        with self._reference() as model:
            return run_in_forward(
                model, lambda: compare(policy, response_final(model, part), tokens_N, temperature)
            )

    def optimize(
        self, experience: Experience, plan: Plan, number: int, value_loss: Tensor | None
    ) -> tuple[dict[str, Any], Tensor]:
        """The optimiser steps of one update. → means over them, and the old log-probabilities [B, R]

        `value_loss` is the first step's where `measure_batch` has taken its gradient. The old
        log-probabilities are the experience's; where these were read off the sampler's states, the first step
        replaces them by its own.
        """
        trains_policy = number > self.options.critic_warmup
        self._set_rates(number)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", number))
        epochs = [torch.randperm(len(plan), generator=generator).tolist() for _ in range(self.options.epochs)]
        order = [index for epoch in epochs for index in epoch]
        old_BR = experience.log_prob.clone()
        steps: list[dict[str, float]] = []
        for step, index in enumerate(order, (number - 1) * len(order) + 1):
            found = self._step(experience, old_BR, plan[index], trains_policy, step, value_loss)
            if found is None:
                break
            steps.append(found)
            # What was computed before the first step, or while sampling, is of the old weights from here on.
            experience = replace(experience, episodes=replace(experience.episodes, final_BRD=None))
            value_loss = None
        means = {key: math.fsum(s[key] for s in steps) / len(steps) for key in steps[0] if key != "ratio"}
        states_BS = length_mask(experience.states_B, experience.value.shape[1])
        variance = numerics.explained_variance(experience.value, experience.returns, states_BS)
        first = {"ratio_first": steps[0].get("ratio"), "explained_variance": variance}
        return {**means, **first, "steps": len(steps)}, old_BR

    def _set_rates(self, number: int) -> None:
        o = self.options
        for optimizer, rate, first in (
            (self.optimizer, o.learning_rate, o.critic_warmup),
            (self.value_optimizer, o.value_learning_rate or o.learning_rate, 0),
        ):
            share = numerics.rate_share(number - first, o.updates - first, o.warmup, o.lr_schedule)
            optimizer.param_groups[0]["lr"] = rate * share

    def _step(
        self,
        experience: Experience,
        old_BR: Tensor,
        minibatch: list[Tensor],
        trains_policy: bool,
        step: int,
        value_loss: Tensor | None,
    ) -> dict[str, float] | None:
        """Gradients of one minibatch, micro-batch by micro-batch, then one step of each optimiser.

        None, and no step, where the policy has gone `max_update_kl` from the one that sampled.
        """
        totals, ratios = self._gradients(experience, old_BR, minibatch, trains_policy, value_loss)
        self.ranks.all_reduce(*(totals[name] for name in (SUMS if trains_policy else SUMS[:1])))
        if trains_policy and totals["approx_kl"] > (self.options.max_update_kl or math.inf):
            for optimizer in (self.optimizer, self.value_optimizer):
                optimizer.zero_grad(set_to_none=True)
            return None
        if trains_policy and self.pretraining:
            totals["ptx_loss"] = self.ptx_backward(self.pretraining, step)
        models = (self.value, self.policy) if trains_policy else (self.value,)
        self.ranks.all_reduce_gradients(
            {id(w): w for m in models for w in trainable_weights(m).values()}.values()
        )
        totals["value_grad_norm"] = self._clip(self.value)
        if trains_policy:
            totals["grad_norm"] = self._clip(self.policy)
        require_finite(**totals)
        self._apply(self.value_optimizer)
        if not trains_policy:  # on a shared trunk the value loss has left gradients
            self.optimizer.zero_grad(set_to_none=True)
        else:
            self._apply(self.optimizer)
            furthest = float(ratios[(ratios - 1).abs().argmax()])
            totals["ratio"] = torch.tensor(
                max(self.ranks.gather([furthest]), key=lambda ratio: abs(ratio - 1))
            )
        return {name: float(value) for name, value in totals.items()}

    def _gradients(
        self,
        experience: Experience,
        old_BR: Tensor,
        minibatch: list[Tensor],
        trains_policy: bool,
        value_loss: Tensor | None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of one minibatch. → sums of the step, every token's ratio N"""
        totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        ratios = [torch.ones(1, device=self.device)]
        rows_B = torch.cat(minibatch)
        tokens, states = experience.episodes.response_B[rows_B].sum(), experience.states_B[rows_B].sum()
        totals["value_loss"] += 0.0 if value_loss is None else value_loss
        with self._copies():
            for rows in self.ranks.own_share(minibatch):
                part = experience.episodes.select(rows)
                if value_loss is None:
                    totals["value_loss"] += self.value_backward(
                        self._value_loss(experience, part, rows) / states
                    )
                if trains_policy:
                    loss, log_ratio_N = self._policy_loss(experience, old_BR, part, rows)
                    (loss / tokens).backward()
                    ratio_N = log_ratio_N.exp()
                    ratios.append(ratio_N)
                    totals["policy_loss"] += loss.detach() / tokens
                    totals["clip_fraction"] += ((ratio_N - 1).abs() > self.options.clip).sum() / tokens
                    totals["approx_kl"] += (torch.expm1(log_ratio_N) - log_ratio_N).sum() / tokens
            for rows in self.ranks.padding(minibatch):
                self._empty_step(experience, old_BR, rows[:1], trains_policy)
        return totals, torch.cat(ratios)

    def _empty_step(self, experience: Experience, old_BR: Tensor, rows: Tensor, trains_policy: bool) -> None:
        """A pass without effect while others have one more micro-batch: a sharded model needs all of them."""
        part = experience.episodes.select(rows)
        (0 * self._value_loss(experience, part, rows)).backward()
        if trains_policy:
            (0 * self._policy_loss(experience, old_BR, part, rows)[0]).backward()

    def value_backward(self, value_loss: Tensor) -> Tensor:
        """Add to the gradient of the value model, and of the policy where they share a trunk. → the loss"""
        # Each operation goes back in the dtype that it came in, whatever context this is.
        with torch.autocast(self.device.type, enabled=False):
            (value_loss * (self.options.shared_trunk_vf_coef or 1.0)).backward()
        return value_loss.detach()

    def _value_loss(self, experience: Experience, part: Episodes, rows: Tensor) -> Tensor:
        count_B = experience.states_B[rows]
        with self._precision():
            values_N = response_values(self.value, part, count_B)
        old_N, returns_N = flat_states(rows, count_B, experience.value, experience.returns)
        return numerics.value_loss(values_N, old_N, returns_N, self.options.value_clip).sum()

    def _policy_loss(
        self, experience: Experience, old_BR: Tensor, part: Episodes, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The policy's loss summed over a micro-batch's tokens, and each token's log-ratio to the old policy.
        → (), N"""
        o, e = self.options, experience
        log_prob_N = self._log_probs(part, o.temperature)
        if part.final_BRD is not None:
            # The weights are still the sampler's, but this pass rounds otherwise than the decode loop does:
            # with its own numbers as the old ones the first ratio is exactly 1.
            row_N, step_N = part.mask_BR.nonzero(as_tuple=True)
            old_BR[rows[row_N], step_N] = log_prob_N.detach()
        of_batch = (old_BR, e.sampler_log_prob, e.reference, e.advantage)
        old_N, sampler_N, reference_N, advantages_N = flat_states(rows, part.response_B, *of_batch)
        loss_N = numerics.policy_loss(log_prob_N, old_N, advantages_N, o.clip, o.dual_clip)
        if o.importance_cap is not None:
            loss_N = loss_N * (old_N - sampler_N).exp().clamp(max=o.importance_cap)
        if o.kl_in == "loss":
            loss_N = loss_N + self.kl.coef * numerics.kl_estimate(log_prob_N, reference_N, o.kl_estimator)
        return loss_N.sum(), (log_prob_N - old_N).detach()

    def _log_probs(self, part: Episodes, temperature: float) -> Tensor:
        """The policy's log-probability of each response token, with a gradient. → N"""

        def read() -> Tensor:
            with self._precision():
                final = response_final(self.policy, part)
            return token_log_probs(final, part.tokens(), temperature)

        return run_in_forward(self.policy, read)

    def ptx_backward(self, pretraining: Pretraining, step: int) -> Tensor:
        """Add the gradient of γ times the loss on pre-training text (arXiv 2203.02155, eq. 2). → that loss"""
        parts = pretraining.parts(step, self.options.micro_batch, self.device)
        tokens, total = sum(part.response_B.sum() for part in parts), torch.zeros((), device=self.device)
        for part in self.ranks.own_share(parts):
            loss = -self._log_probs(part, 1.0).sum() / tokens
            (pretraining.coef * loss).backward()
            total += loss.detach()
        for part in self.ranks.padding(parts):
            (0 * self._log_probs(part, 1.0).sum()).backward()
        self.ranks.all_reduce(total)
        return total

    def use_average(self) -> None:
        """Put the average of the weights, where one is kept, in their place: the end of a training."""
        use_average(self.policy, self.average)

    def _clip(self, model: Any) -> Tensor:
        return full_tensor(torch.nn.utils.clip_grad_norm_(model.parameters(), self.options.max_grad_norm))

    def _apply(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
