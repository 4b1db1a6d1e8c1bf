"""A whole batch through PPO's arithmetic against two references: loops in fp64, and TRL 1.12's formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlaif.rl import numerics
from rlaif.rl.episodes import Episodes, length_mask
from rlaif.rl.experience import episode_ends, rewards_and_returns
from tests.test_ppo import trainer

WIDTH = 7  # tokens a response may have


def batch(seed, count=6, dtype=torch.float64):
    """Episodes of random lengths, and random numbers in place of what models would say of them: [B,
    WIDTH]."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, WIDTH + 1, count)
    ended = (lengths < WIDTH) | (random.random(count) < 0.5)
    episodes = Episodes(
        torch.zeros(count, 3 + WIDTH, dtype=torch.long),
        torch.full((count,), 3),
        torch.tensor(lengths),
        torch.tensor(ended),
    )
    log_prob, reference = -random.random((2, count, WIDTH)) * 3
    values, scores = random.normal(size=(count, WIDTH + 1)), random.normal(size=count)
    return episodes, *(torch.tensor(x, dtype=dtype) for x in (log_prob, reference, values, scores))


def ours(episodes, log_prob, reference, values, scores, **options):
    """(rewards, advantages, returns, mask of the states) as `PPO` computes them."""
    ppo = trainer(max_tokens=WIDTH, **options)
    ends, tokens = episode_ends(ppo.options, episodes, scores), episodes.mask_BR
    width, width_R = int(ends.num_values_B.max()), tokens.shape[1]
    values = torch.where(length_mask(ends.num_values_B, width), values[:, :width], 0)
    seen = {
        "log_prob": torch.where(tokens, log_prob[:, :width_R], 0),
        "reference": torch.where(tokens, reference[:, :width_R], 0),
        "value": values,
    }
    rewards, advantages, returns = rewards_and_returns(ppo.options, ppo.kl.coef, ends, seen)
    return (
        rewards,
        numerics.masked_whiten(advantages[:, :width_R], tokens),
        returns,
        length_mask(ends.states_B, width),
    )


def by_loops(episodes, log_prob, reference, values, scores, *, kl, coef, penalty, bootstrap, gamma, lam):
    """The same, episode by episode and token by token."""
    rewards, advantages, returns = np.zeros((3, *log_prob.shape))
    for b, (n, ended) in enumerate(zip(episodes.response_B.tolist(), episodes.ended_B.tolist(), strict=True)):
        for t in range(n):
            k1 = log_prob[b, t] - reference[b, t]
            rewards[b, t] = -coef * {"k1": k1, "k2": k1**2 / 2, "k3": math.exp(-k1) - 1 + k1}[kl]
        rewards[b, n - 1] += scores[b] if ended else 0 if bootstrap else scores[b] - penalty
        after = [*values[b, 1:n], values[b, n] if bootstrap and not ended else 0.0]
        for t in range(n):
            advantages[b, t] = sum(
                (gamma * lam) ** (k - t) * (rewards[b, k] + gamma * after[k] - values[b, k])
                for k in range(t, n)
            )
            returns[b, t] = advantages[b, t] + values[b, t]
    flat = np.concatenate([advantages[b, :n] for b, n in enumerate(episodes.response_B.tolist())])
    for b, n in enumerate(episodes.response_B.tolist()):
        advantages[b, :n] = (advantages[b, :n] - flat.mean()) / math.sqrt(flat.var(ddof=1) + 1e-8)
    return rewards, advantages, returns


@given(st.integers(0, 2**31), st.sampled_from(["k1", "k2", "k3"]), st.booleans(), st.sampled_from([1.0, 0.9]))
def test_a_batch_equals_a_reference_in_loops(seed, kl, bootstrap, gamma):
    episodes, *numbers = batch(seed)
    found = ours(
        episodes,
        *numbers,
        kl_estimator=kl,
        kl_coef=0.1,
        missing_eos_penalty=2.0,
        gamma=gamma,
        lam=0.9,
        missing_eos="bootstrap" if bootstrap else "penalty",
    )[:3]
    expected = by_loops(
        episodes,
        *(x.numpy() for x in numbers),
        kl=kl,
        coef=0.1,
        penalty=2.0,
        bootstrap=bootstrap,
        gamma=gamma,
        lam=0.9,
    )
    width = episodes.mask_BR.shape[1]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine[:, :width].numpy(), theirs[:, :width], atol=1e-10)


def as_trl(episodes, log_prob, reference, values, scores, *, kl_coef, estimator, penalty, whiten, lam=0.95):
    """TRL 1.12's steps 3 to 6, written from its formulas: the score stands at the position after the EOS.

    Rows are WIDTH long; `last` is the index of the last token, `last + 1` counts as a state where it is
    inside.
    """
    last = (episodes.response_B - 1)[:, None]
    steps = torch.arange(WIDTH)[None]
    no_token, no_state = steps > last, steps > last + 1
    scores = scores - penalty * (~episodes.ended_B).to(scores)
    log_prob, reference = log_prob.masked_fill(no_token, 1.0), reference.masked_fill(no_token, 1.0)
    values = values[:, :WIDTH].masked_fill(no_state, 0.0)
    log_ratio = reference - log_prob
    kl = -log_ratio if estimator == "k1" else (log_ratio.exp() - 1) - log_ratio
    rewards = -kl_coef * kl
    place = torch.where(last + 1 < WIDTH, last + 1, last)
    # a response of full length that ended and one that did not are the same to it
    rewards = rewards.scatter_add(1, place, scores[:, None])

    def whitened(x, mask, shift=True):
        mean = (x * mask).sum() / mask.sum()
        variance = ((x - mean) ** 2 * mask).sum() / mask.sum() * (mask.sum() / (mask.sum() - 1))
        return (x - mean) * torch.rsqrt(variance + 1e-8) + (0.0 if shift else mean)

    plain = rewards
    if whiten:
        rewards = whitened(rewards, ~no_state, shift=False).masked_fill(no_state, 0.0)
    carried, found = torch.zeros(len(scores)).to(scores), []
    for t in reversed(range(WIDTH)):
        after = values[:, t + 1] if t < WIDTH - 1 else 0.0
        carried = rewards[:, t] + after - values[:, t] + lam * carried
        found.append(carried)
    advantages = torch.stack(found[::-1], 1)
    returns = advantages + values
    return plain, whitened(advantages, ~no_token).masked_fill(no_token, 0.0), returns, no_token, no_state


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_flag_gives_trls_numbers(estimator, whiten):
    for seed in range(20):
        episodes, *numbers = batch(seed, count=8, dtype=torch.float32)
        found = ours(
            episodes,
            *numbers,
            score_at="after_eos",
            kl_estimator=estimator,
            kl_coef=0.05,
            missing_eos_penalty=1.0,
            whiten_rewards=whiten,
        )
        rewards, advantages, returns, _, no_state = as_trl(
            episodes, *numbers, kl_coef=0.05, estimator=estimator, penalty=1.0, whiten=whiten
        )
        states = found[3]
        width, tokens = states.shape[1], found[1].shape[1]
        assert torch.equal(~no_state[:, :width], states)
        torch.testing.assert_close(found[0], rewards[:, :width].masked_fill(~states, 0), atol=1e-6, rtol=0)
        torch.testing.assert_close(found[1], advantages[:, :tokens], atol=1e-6, rtol=0)
        torch.testing.assert_close(found[2], returns[:, :width].masked_fill(~states, 0), atol=1e-6, rtol=0)


def test_without_the_flag_the_score_stands_one_place_earlier():
    episodes, *numbers = batch(3)
    mine, *_ = ours(episodes, *numbers, kl_coef=0.0, missing_eos_penalty=0.0)
    late, *_ = ours(episodes, *numbers, kl_coef=0.0, missing_eos_penalty=0.0, score_at="after_eos")
    for b, (n, ended) in enumerate(zip(episodes.response_B.tolist(), episodes.ended_B.tolist(), strict=True)):
        assert mine[b].nonzero().flatten().tolist() == [n - 1]
        assert late[b].nonzero().flatten().tolist() == [n if ended and n < WIDTH else n - 1]


def test_losses_equal_trls():
    random = np.random.default_rng(0)
    new, old, advantages, values, old_values, returns = (
        torch.tensor(x) for x in random.normal(size=(6, 5, WIDTH))
    )
    mask = torch.arange(WIDTH) < torch.tensor([1, 3, 7, 7, 5])[:, None]
    ratio = (new - old).exp()
    policy = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
    clipped = torch.clamp(values, old_values - 0.2, old_values + 0.2)
    value = 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2)
    mine = (
        numerics.policy_loss(new[mask], old[mask], advantages[mask], 0.2).mean(),
        numerics.value_loss(values[mask], old_values[mask], returns[mask], 0.2).mean(),
    )
    for found, theirs in zip(mine, (policy, value), strict=True):
        assert float(found) == pytest.approx(float((theirs * mask).sum() / mask.sum()), abs=1e-12)


def test_kl_and_dual_clip_in_the_loss_agree_with_finite_differences():
    """The objective of a two-token toy with everything the loss can hold, in fp64."""
    tokens = torch.tensor([0, 1])
    old, reference = (
        torch.tensor(x, dtype=torch.float64).log_softmax(-1)
        for x in ([[0.1, -0.3], [2.0, -1.0]], [[0.0, 0.1], [0.3, 0.0]])
    )

    def objective(logits):
        log_prob = numerics.gather_log_probs(logits.log_softmax(-1), tokens)
        loss = numerics.policy_loss(
            log_prob, numerics.gather_log_probs(old, tokens), torch.tensor([1.0, -2.0]).double(), 0.2, 3.0
        )
        kl = [
            numerics.kl_estimate(log_prob, numerics.gather_log_probs(reference, tokens), kind)
            for kind in ("k2", "k3")
        ]
        return (loss + 0.3 * kl[0] + 0.7 * kl[1]).sum()

    logits = torch.tensor([[0.15, -0.2], [0.0, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(objective, (logits,), eps=1e-6, atol=1e-6)


def test_dual_clip_by_hand():
    ratio, advantages = torch.tensor([5.0, 5.0, 2.0, 0.5]), torch.tensor([1.0, -1.0, -1.0, -1.0])
    loss = numerics.policy_loss(ratio.log(), torch.zeros(4), advantages, 0.2, dual_clip=3.0)
    # good: held at 1.2; bad and five times likelier: 3, not 5; bad within the bound: 2; bad and rarer: 0.8
    torch.testing.assert_close(loss, torch.tensor([-1.2, 3.0, 2.0, 0.8]))
