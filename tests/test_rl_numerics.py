"""PPO's formulas: against numbers worked by hand, an independent fp64 reference, and finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlaif.rl import numerics


def t(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def mask_of(lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def test_gae_by_hand():
    rewards, values, mask = t([0.0, 1.0, 9.0]), t([0.5, 0.2, 7.0]), mask_of([2], 3)
    advantages, returns = numerics.gae(rewards, values, mask, gamma=1.0, lam=0.5)
    # last step: 1 − 0.2 = 0.8; first: (0 + 0.2 − 0.5) + 0.5 · 0.8 = 0.1; the pad's 9 and 7 count for nothing
    torch.testing.assert_close(advantages, t([0.1, 0.8, 0.0]))
    torch.testing.assert_close(returns, t([0.6, 1.0, 0.0]))


def test_gae_passes_over_masked_positions_in_the_middle():
    mask = torch.tensor([[True, False, True]])
    advantages, returns = numerics.gae(t([0.0, 5.0, 1.0]), t([0.5, 3.0, 0.2]), mask, gamma=1.0, lam=0.5)
    torch.testing.assert_close(advantages, t([0.1, 0.0, 0.8]))
    torch.testing.assert_close(returns, t([0.6, 0.0, 1.0]))


def reference_gae(rewards, values, lengths, gamma, lam):
    """Advantages as the explicit sum over future one-step errors, episode by episode."""
    advantages, returns = np.zeros_like(rewards), np.zeros_like(rewards)
    for b, n in enumerate(lengths):
        after = np.append(values[b, 1:n], 0.0)
        deltas = rewards[b, :n] + gamma * after - values[b, :n]
        for s in range(n):
            advantages[b, s] = sum((gamma * lam) ** (k - s) * deltas[k] for k in range(s, n))
        returns[b, :n] = advantages[b, :n] + values[b, :n]
    return advantages, returns


@given(
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from([1.0, 0.9]),
    st.sampled_from([0.0, 0.95, 1.0]),
)
def test_gae_equals_an_independent_reference(seed, batch, width, gamma, lam):
    random = np.random.default_rng(seed)
    rewards, values = random.normal(size=(2, batch, width))
    lengths = random.integers(1, width + 1, batch)
    expected = reference_gae(rewards, values, lengths, gamma, lam)
    found = numerics.gae(
        torch.tensor(rewards), torch.tensor(values), mask_of(lengths, width), gamma=gamma, lam=lam
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


def test_returns_with_lambda_one_are_sums_of_rewards_to_come():
    _, returns = numerics.gae(t([1.0, 2.0, 3.0]), t([0.3, -0.7, 4.0]), mask_of([3], 3), lam=1.0)
    torch.testing.assert_close(returns, t([6.0, 5.0, 3.0]))


def test_whitening_by_hand_ignores_what_is_masked():
    white = numerics.masked_whiten(t([1.0, 3.0, 100.0]), mask_of([2], 3))
    # mean 2, unbiased variance 2
    torch.testing.assert_close(white, t([-1 / math.sqrt(2), 1 / math.sqrt(2), 0.0]))
    kept = numerics.masked_whiten(t([1.0, 3.0, 100.0]), mask_of([2], 3), shift_mean=False)
    torch.testing.assert_close(kept, t([2 - 1 / math.sqrt(2), 2 + 1 / math.sqrt(2), 0.0]))
    single = numerics.masked_whiten(t([4.0, 1.0]), mask_of([1], 2))
    assert single.tolist() == [[0.0, 0.0]]


def test_kl_estimates_by_hand():
    log_prob, reference = torch.log(t(0.6)), torch.log(t(0.3))  # a ratio of 2
    assert float(numerics.kl_estimate(log_prob, reference, "k1")) == pytest.approx(math.log(2))
    assert float(numerics.kl_estimate(log_prob, reference, "k2")) == pytest.approx(math.log(2) ** 2 / 2)
    assert float(numerics.kl_estimate(log_prob, reference, "k3")) == pytest.approx(0.5 - 1 + math.log(2))


def test_unbiased_estimates_average_to_the_exact_kl():
    policy, reference = torch.log(t([0.7, 0.2, 0.1])), torch.log(t([0.3, 0.3, 0.4]))
    exact = float(numerics.exact_kl(policy, reference, policy.exp()))
    assert exact == pytest.approx(0.7 * math.log(7 / 3) + 0.2 * math.log(2 / 3) + 0.1 * math.log(1 / 4))
    for kind in ("k1", "k3"):
        assert float((policy.exp() * numerics.kl_estimate(policy, reference, kind)).sum()) == pytest.approx(
            exact
        )
    assert (numerics.kl_estimate(policy, reference, "k3") >= 0).all()


def test_entropy_and_log_probs_are_computed_in_fp32():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    log_probs = logits.float().log_softmax(-1)
    assert log_probs.dtype == torch.float32
    assert float(numerics.entropy(log_probs, log_probs.exp())) == pytest.approx(math.log(4))
    assert float(numerics.gather_log_probs(log_probs, torch.tensor([2]))) == pytest.approx(-math.log(4))


def test_the_score_stands_at_the_last_real_token():
    kl = t([0.1, 0.2, 0.0], [0.5, 0.0, 0.0])
    rewards = numerics.token_rewards(kl, t(1.0, -2.0), mask_of([2, 1], 3), kl_coef=2.0)
    torch.testing.assert_close(rewards, t([-0.2, -0.4 + 1.0, 0.0], [-1.0 - 2.0, 0.0, 0.0]))


def test_policy_loss_by_hand():
    ratio, advantages = t(2.0, 2.0, 0.5, 0.5, 1.1), t(1.0, -1.0, 1.0, -1.0, 3.0)
    loss = numerics.policy_loss(ratio.log(), torch.zeros(5), advantages, clip=0.2)
    # good and already likelier: held at 1.2; bad and likelier: in full; good and rarer: in full; bad and
    # rarer: held at 0.8
    torch.testing.assert_close(loss, -t(1.2, -2.0, 0.5, -0.8, 3.3))


def test_a_clipped_ratio_has_no_gradient():
    log_prob = torch.tensor([math.log(2.0), math.log(0.5)], requires_grad=True)
    numerics.policy_loss(log_prob, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2).sum().backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [0.0, 0.0]


def test_value_loss_by_hand():
    loss = numerics.value_loss(t(1.0, 0.1), t(0.0, 0.0), t(2.0, 2.0), clip=0.2)
    # 1.0 is held at 0.2, whose error is the worse one; 0.1 is inside
    torch.testing.assert_close(loss, t(0.5 * 1.8**2, 0.5 * 1.9**2))


def test_explained_variance():
    mask = mask_of([3], 4)
    returns = t([1.0, 2.0, 3.0, 50.0])
    assert numerics.explained_variance(returns, returns, mask) == 1.0
    assert numerics.explained_variance(t([2.0, 2.0, 2.0, 0.0]), returns, mask) == 0.0
    assert numerics.explained_variance(returns, t([5.0, 5.0, 5.0, 5.0]), mask) == 0.0


def test_adaptive_kl_by_hand():
    fixed = numerics.KlController(0.1)
    fixed.update(100.0, 1000)
    assert fixed.coef == 0.1
    control = numerics.KlController(0.1, target=6.0, horizon=1000)
    control.update(60.0, 100)  # the error is held at 0.2: 0.1 · (1 + 0.2 · 100/1000)
    assert control.coef == pytest.approx(0.102)
    control.update(5.4, 100)  # error −0.1
    assert control.coef == pytest.approx(0.102 * 0.99)


def test_gradients_agree_with_finite_differences_on_a_two_token_toy():
    """Whole objective of a two-step, two-token policy and its value table, in fp64."""
    old = t([0.1, -0.3], [0.2, 0.4]).log_softmax(-1)
    tokens, mask = torch.tensor([0, 1]), mask_of([2], 2)

    def objective(logits, values):
        log_prob = numerics.gather_log_probs(logits.log_softmax(-1), tokens)
        rewards = numerics.token_rewards(torch.zeros(1, 2, dtype=torch.float64), t(1.0)[:1], mask, 0.1)
        with torch.no_grad():
            advantages, returns = numerics.gae(rewards, t([0.3, 0.1]), mask)
        policy = numerics.policy_loss(log_prob, numerics.gather_log_probs(old, tokens), advantages[0], 0.2)
        return policy.sum() + numerics.value_loss(values, t(0.3, 0.1), returns[0], 0.2).sum()

    logits = t([0.2, -0.1], [0.0, 0.3]).requires_grad_()
    values = t(0.35, 0.05).requires_grad_()
    assert torch.autograd.gradcheck(objective, (logits, values), eps=1e-6, atol=1e-6)


def test_a_linear_schedule_rises_and_falls_and_never_learns_at_zero():
    shares = [numerics.rate_share(step, 10, 4, "linear") for step in range(1, 11)]
    assert shares == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert [numerics.rate_share(step, 3, 0, "linear") for step in (1, 2, 3)] == pytest.approx(
        [1, 2 / 3, 1 / 3]
    )
    assert {numerics.rate_share(step, 10, 0, "constant") for step in (1, 5, 10)} == {1.0}
    assert (
        min(numerics.rate_share(step, 3, 9, "linear") for step in (1, 2, 3)) > 0
    )  # a warm-up that never ends
