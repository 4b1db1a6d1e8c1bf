"""The algorithm on random models of a few thousand parameters: exact where it must be exact, and it
learns."""

import copy
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlaif.options import PpoOptions
from rlaif.rl import cpu
from rlaif.rl.episodes import PromptTokens
from rlaif.rl.experience import episode_ends, estimate_advantages
from rlaif.rl.forward import choose_attention
from rlaif.rl.numerics import UpdateNotFinite
from rlaif.rl.ppo import PPO
from rlaif.rl.trunk import SharedTrunk

EOS, PAD, WANTED = 1, 0, 7
SIZES = {
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "attention_dropout": 0.5,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": None,
    "initializer_range": 0.1,
}


def wanted_share(episodes, sources):
    """Reward: the share of the response's tokens that are the wanted one."""
    return torch.tensor([r.count(WANTED) / len(r) for r in episodes.responses()])


def options(**changes):
    small = {
        "stage": "ppo",
        "batch_size": 16,
        "micro_batch": 8,
        "max_tokens": 6,
        "learning_rate": 1e-3,
        "warmup": 0,
    }
    return PpoOptions.model_validate({**small, **changes})


def trainer(reward=wanted_share, **changes):
    torch.manual_seed(0)
    policy = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).eval()
    value = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1)).eval()
    return PPO(policy, copy.deepcopy(policy), value, reward, options(**changes), (EOS,), PAD, seed=1)


def prompts(count=16):
    return [PromptTokens([2 + n % 3, *range(3, 3 + n % 5)], n) for n in range(count)]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def test_the_first_update_starts_at_ratio_one_and_kl_zero():
    ppo = trainer(minibatches=2, epochs=2)
    metrics, experience = ppo.update(1, prompts())
    assert metrics["ratio_first"] == 1.0
    assert metrics["kl"] == 0.0
    assert metrics["exact_kl"] == 0.0
    assert torch.equal(experience.log_prob, experience.reference)
    assert metrics["reward"] == pytest.approx(
        metrics["score"] - metrics["truncated"] * ppo.options.missing_eos_penalty
    )
    for number in range(2, 5):
        metrics, _ = ppo.update(number, prompts())
        assert metrics["ratio_first"] == 1.0
        assert metrics["exact_kl"] > 0
    assert metrics["episodes"] == 64
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_first_step_on_the_whole_batch_reads_what_the_sampler_read():
    once, twice = trainer(epochs=2, learning_rate=1e-2), trainer(epochs=2, learning_rate=1e-2)
    twice.reuses_passes = False
    assert once.reuses_passes
    assert not trainer(minibatches=2).reuses_passes
    for number in (1, 2, 3):
        (ours, seen), (theirs, read) = (ppo.update(number, prompts()) for ppo in (once, twice))
        assert ours["ratio_first"] == theirs["ratio_first"] == 1.0
        assert {k: v for k, v in ours.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in theirs.items() if k != "seconds"}, rel=1e-3, abs=1e-5
        )
        torch.testing.assert_close(seen.log_prob, read.log_prob, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen.advantage, read.advantage, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"missing_eos": "bootstrap"}, {"score_at": "after_eos"}, {"shared_trunk_vf_coef": 0.5}]
)
@pytest.mark.parametrize("autocast", [False, True])
def test_the_pass_that_gives_the_values_learns_what_the_first_step_would(settings, autocast):
    ppo = trainer(**settings)
    if ppo.options.shared_trunk_vf_coef:
        ppo.value = SharedTrunk(ppo.policy)
        torch.nn.init.normal_(ppo.value.score.weight)
    ppo.autocast = autocast
    episodes = ppo.sample(prompts(), "rollout", 1)
    plan = ppo._plan(episodes, 1)
    ends = episode_ends(ppo.options, episodes, ppo.score(episodes, prompts()))
    measured, value_loss = ppo.measure_batch(episodes, plan, ends)
    seen = estimate_advantages(ppo.options, ppo.kl.coef, 1, episodes, ends, measured)
    models = (ppo.value, ppo.policy) if ppo.options.shared_trunk_vf_coef else (ppo.value,)
    early = [w.grad.clone() for m in models for w in m.parameters() if w.grad is not None]
    for model in models:
        model.zero_grad()
    apart = sum(
        ppo.value_backward(ppo._value_loss(seen, seen.episodes.select(rows), rows) / seen.states_B.sum())
        for rows in plan[0]
    )
    late = [w.grad for m in models for w in m.parameters() if w.grad is not None]
    assert len(early) == len(late) > 0
    assert max(float(g.abs().max()) for g in early) > 0
    torch.testing.assert_close(early, late, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(value_loss, apart)


def test_minibatches_hold_every_episode_once_and_differ_by_one_at_most():
    ppo = trainer(minibatches=4, micro_batch=2)
    plan = ppo._plan(ppo.sample(prompts(10), "rollout", 1), 1)
    assert sorted(sum(map(len, minibatch)) for minibatch in plan) == [2, 2, 3, 3]
    assert all(len(rows) <= 2 for minibatch in plan for rows in minibatch)
    assert sorted(torch.cat([rows for minibatch in plan for rows in minibatch]).tolist()) == list(range(10))


def test_values_of_returns_that_are_whitened_together_are_learnt_after_them():
    ppo = trainer(whiten_rewards=True)
    episodes = ppo.sample(prompts(), "rollout", 1)
    ends = episode_ends(ppo.options, episodes, ppo.score(episodes, prompts()))
    assert ppo.measure_batch(episodes, ppo._plan(episodes, 1), ends)[1] is None


def test_wide_models_products_change_no_more_than_rounding(monkeypatch):
    plain, wide = trainer(epochs=2, minibatches=2), trainer(epochs=2, minibatches=2)
    expected, _ = plain.update(1, prompts())
    monkeypatch.setattr(cpu, "WIDE", 0)
    found, _ = wide.update(1, prompts())
    assert found["ratio_first"] == 1.0
    assert {**found, "seconds": 0} == pytest.approx({**expected, "seconds": 0}, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(weights(wide.policy), weights(plain.policy), rtol=1e-4, atol=1e-5)


def test_in_bf16_too_the_first_ratio_is_one_and_weights_stay_fp32():
    ppo = trainer(minibatches=2, epochs=2)
    ppo.autocast = True
    metrics, _ = ppo.update(1, prompts())
    assert metrics["ratio_first"] == 1.0
    assert metrics["exact_kl"] == 0.0
    assert 0 < metrics["sampler_kl"] < 1e-3  # decoded and read back in bf16: not the same sums
    assert {p.dtype for p in ppo.policy.parameters()} == {torch.float32}
    assert ppo.policy.config._attn_implementation == "eager"
    choose_attention(ppo.policy, 600)
    assert ppo.policy.config._attn_implementation == "sdpa"


def test_a_reference_kept_in_bf16_says_what_autocast_would_make_it_say():
    ppo = trainer()
    ppo.autocast = True
    ppo.update(1, prompts())
    expected = ppo.update(2, prompts())[1]
    again = trainer()
    again = PPO(
        again.policy,
        again.reference,
        again.value,
        wanted_share,
        again.options,
        (EOS,),
        PAD,
        seed=1,
        autocast=True,
    )
    again.update(1, prompts())
    found = again.update(2, prompts())[1]
    layers = {name: w.dtype for name, w in again.reference.named_parameters()}
    assert layers["model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert layers["model.embed_tokens.weight"] == torch.float32  # which is the head's, too
    assert torch.equal(found.reference, expected.reference)
    assert torch.equal(found.exact_kl, expected.exact_kl)


def test_eight_micro_batches_of_one_equal_one_of_eight():
    results = []
    for micro in (8, 1):
        ppo = trainer(batch_size=8, micro_batch=micro, max_grad_norm=1e9, learning_rate=1.0)
        ppo.optimizer = torch.optim.SGD(ppo.policy.parameters(), 1.0)
        ppo.value_optimizer = torch.optim.SGD(ppo.value.parameters(), 1.0)
        before = weights(ppo.policy), weights(ppo.value)
        metrics, _ = ppo.update(1, prompts(8))
        moved = [weights(m) - b for m, b in zip((ppo.policy, ppo.value), before, strict=True)]
        results.append((*moved, metrics))
    (policy, value, metrics), (policy_1, value_1, metrics_1) = results
    assert policy.abs().max() > 1e-3
    torch.testing.assert_close(policy, policy_1, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(value, value_1, atol=1e-6, rtol=1e-4)
    for key in ("policy_loss", "value_loss", "clip_fraction", "grad_norm", "value_grad_norm"):
        assert metrics[key] == pytest.approx(metrics_1[key], rel=1e-4, abs=1e-6)


def test_a_truncated_response_pays_and_an_ended_one_does_not():
    ppo = trainer(missing_eos_penalty=3.0, kl_coef=0.0)
    _, seen = ppo.update(1, prompts())
    ended = seen.episodes.ended_B
    assert 0 < ended.float().mean() < 1
    torch.testing.assert_close(seen.reward_B[ended], seen.score_B[ended])
    torch.testing.assert_close(seen.reward_B[~ended], seen.score_B[~ended] - 3.0)


def test_kl_is_paid_for_in_the_reward():
    ppo = trainer(kl_coef=0.5, missing_eos_penalty=0.0, epochs=4, learning_rate=1e-2)
    ppo.update(1, prompts())
    _, seen = ppo.update(2, prompts())
    kl_B = (seen.log_prob - seen.reference).sum(1)
    assert kl_B.abs().max() > 0.01
    torch.testing.assert_close(seen.reward_B, seen.score_B - 0.5 * kl_B, atol=1e-5, rtol=1e-5)


def test_log_probabilities_are_those_of_the_sampling_temperature():
    ppo = trainer(temperature=0.5)
    _, seen = trainer(temperature=0.5).update(1, prompts())
    first, prompt = seen.episodes.responses()[0], prompts()[0].ids
    logits = ppo.policy(input_ids=torch.tensor([[*prompt, *first]])).logits[0, len(prompt) - 1 : -1]
    expected = (logits / 0.5).log_softmax(-1).gather(1, torch.tensor(first)[:, None])[:, 0]
    torch.testing.assert_close(seen.log_prob[0, : len(first)], expected.detach())


def test_advantages_are_white_over_the_real_tokens():
    _, seen = trainer().update(1, prompts())
    real = seen.advantage[seen.episodes.mask_BR]
    assert float(real.mean()) == pytest.approx(0, abs=1e-5)
    assert float(real.std()) == pytest.approx(1, abs=1e-4)
    assert seen.advantage[~seen.episodes.mask_BR].abs().sum() == 0


def test_critic_warm_up_moves_the_value_model_alone():
    ppo = trainer(critic_warmup=1)
    policy, value = weights(ppo.policy), weights(ppo.value)
    metrics, _ = ppo.update(1, prompts())
    assert torch.equal(weights(ppo.policy), policy)
    assert not torch.equal(weights(ppo.value), value)
    assert metrics["ratio_first"] is None
    ppo.update(2, prompts())
    assert not torch.equal(weights(ppo.policy), policy)


def test_the_rate_warms_up_and_then_stays():
    ppo = trainer(warmup=4, critic_warmup=2, value_learning_rate=1e-2)
    rates = []
    for number in (1, 2, 3, 6, 50):
        ppo._set_rates(number)
        rates.append([o.param_groups[0]["lr"] for o in (ppo.optimizer, ppo.value_optimizer)])
    assert [pair[1] for pair in rates] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert [pair[0] for pair in rates[2:]] == pytest.approx([0.00025, 0.001, 0.001])


def test_adaptive_kl_rises_above_its_target():
    ppo = trainer(kl_target=1e-4, kl_horizon=100, learning_rate=1e-2)
    coefs = [ppo.update(n, prompts())[0]["kl_coef"] for n in (1, 2, 3)]
    # KL 0 at first: held at −0.2 · 16/100; then far above the target
    assert coefs == pytest.approx([0.05, 0.05 * 0.968, 0.05 * 0.968 * 1.032])


def test_a_reward_that_is_not_finite_stops_before_any_step():
    ppo = trainer(lambda episodes, _: torch.full((len(episodes),), float("nan")))
    before = weights(ppo.policy)
    with pytest.raises(UpdateNotFinite, match="score is nan"):
        ppo.update(1, prompts())
    assert torch.equal(weights(ppo.policy), before)


def test_a_gradient_that_is_not_finite_stops_before_any_step():
    ppo = trainer()
    next(ppo.policy.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = weights(ppo.policy), weights(ppo.value)
    with pytest.raises(UpdateNotFinite, match="grad_norm"):
        ppo.update(1, prompts())
    assert torch.equal(weights(ppo.policy), before[0])
    assert torch.equal(weights(ppo.value), before[1])


def test_a_reward_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"\(3,\) for 16 episodes"):
        trainer(lambda *_: torch.zeros(3)).update(1, prompts())


def test_an_update_is_a_function_of_weights_and_number():
    one, other = trainer(epochs=2, minibatches=4), trainer(epochs=2, minibatches=4)
    torch.manual_seed(99)  # the global generator has no say
    rows = [[ppo.update(n, prompts())[0] for n in (1, 2)] for ppo in (one, other)]
    for a, b in zip(*rows, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert torch.equal(weights(one.policy), weights(other.policy))


def test_it_learns_to_write_the_wanted_token_and_then_to_stop():
    ppo = trainer(batch_size=32, micro_batch=32, learning_rate=3e-3, kl_coef=0.01, epochs=2, minibatches=2)
    rows = [ppo.update(number, prompts(32))[0] for number in range(1, 31)]
    first, last = rows[0], rows[-1]
    assert first["score"] < 0.2
    assert last["score"] > 0.6
    assert last["truncated"] < first["truncated"]
    assert last["exact_kl"] > 0.5
    assert last["explained_variance"] > 0.2
