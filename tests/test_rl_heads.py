"""Head, log-softmax and gradient in blocks: what a plain log-softmax over everything gives, however it is
cut."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rlaif.rl import heads
from rlaif.rl.episodes import join
from rlaif.rl.forward import has_plain_head, response_final
from rlaif.rl.heads import HeadInputs, block_log_probs, blocks, compare, pieces, token_log_probs
from rlaif.rl.numerics import entropy, exact_kl, gather_log_probs

N, D, V = 11, 6, 17


def drawn(dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    states, weight = (
        torch.randn(*s, generator=draw, dtype=torch.float64).to(dtype) for s in ((N, D), (V, D))
    )
    return states, weight, torch.randint(V, (N,), generator=draw), torch.randn(N, generator=draw)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(heads, "BLOCK_BYTES", 4 * V * 4)  # four rows a block: 4 + 4 + 3
    monkeypatch.setattr(heads, "PIECE_BYTES", 3 * V * 4)  # three a piece: 3 + 1, 3 + 1, 3


def test_blocks_cover_every_row_once():
    assert [(at.start, at.stop) for at in blocks(N, V)] == [(0, 4), (4, 8), (8, 11)]
    assert [at.stop for at in blocks(3, 10**6)] == [1, 2, 3]  # a row larger than a block is one
    assert [(at.start, at.stop) for at in pieces(torch.empty(4, V))] == [(0, 3), (3, 4)]
    assert pieces(torch.empty(4, V, device="meta")) == [slice(0, 4)]  # whole, where it is not on a CPU


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_values_and_gradients_are_those_of_a_plain_log_softmax(temperature):
    states, weight, tokens, upstream = drawn(torch.float32)
    found = []
    for ours in (True, False):
        h, w = states.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            value = token_log_probs(HeadInputs(h, w), tokens, temperature)
        else:
            value = gather_log_probs((h @ w.t() / temperature).log_softmax(-1), tokens)
        (value.exp() * upstream).sum().backward()  # a gradient that differs from token to token
        found.append((value.detach(), h.grad, w.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_bf16_states_give_fp32_log_probabilities_and_gradients_near_those_of_fp32():
    states, weight, tokens, upstream = drawn(torch.float32)
    low = [x.bfloat16().requires_grad_() for x in (states, weight)]
    high = [x.detach().float().requires_grad_() for x in low]
    for h, w in (low, high):
        (token_log_probs(HeadInputs(h, w), tokens) * upstream).sum().backward()
    assert token_log_probs(HeadInputs(*low), tokens).dtype == torch.float32
    for one, other in zip(low, high, strict=True):
        assert one.grad.dtype == torch.bfloat16
        assert (one.grad.float() - other.grad).norm() < 0.02 * other.grad.norm()


def test_a_frozen_head_gets_no_gradient():
    states, weight, tokens, _ = drawn(torch.float32)
    states.requires_grad_()
    token_log_probs(HeadInputs(states, weight), tokens).sum().backward()
    assert states.grad is not None
    assert weight.grad is None


def test_compare_gives_the_same_bits_as_training_and_the_formulas_of_numerics():
    states, weight, tokens, _ = drawn(torch.float32)
    other, policy = drawn(torch.float32, seed=1)[0], HeadInputs(states, weight)
    found = compare(policy, HeadInputs(other, weight), tokens, 0.7)
    assert torch.equal(found["log_prob"], token_log_probs(policy, tokens, 0.7))
    policy_NV, reference_NV = (block_log_probs(h @ weight.t(), 0.7) for h in (states, other))
    expected = {
        "log_prob": gather_log_probs(policy_NV, tokens),
        "reference": gather_log_probs(reference_NV, tokens),
        "exact_kl": exact_kl(policy_NV, reference_NV, policy_NV.exp()),
        "entropy": entropy(policy_NV, policy_NV.exp()),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)
    assert compare(policy, policy, tokens)["exact_kl"].abs().max() == 0


@pytest.mark.parametrize("changed", [False, True])
def test_a_model_whose_head_is_no_plain_product_gives_its_own_logits(changed):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    ).eval()
    if changed:
        model.lm_head = torch.nn.Linear(16, V, bias=True)
    episodes = join([[5, 6], [7]], [[8, 9], [10, 11, 12]], torch.tensor([True, True]), 0)
    final = response_final(model, episodes)
    assert has_plain_head(model) == (final.weight_VD is not None) == (not changed)
    alone = model(input_ids=torch.tensor([[7, 10, 11, 12]])).logits[0, :3].log_softmax(-1)
    expected = alone.gather(-1, torch.tensor([[10], [11], [12]]))[:, 0]
    torch.testing.assert_close(token_log_probs(final, episodes.tokens())[2:], expected, atol=1e-5, rtol=1e-5)


def test_under_autocast_products_are_in_bf16():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2, n_positions=16)).eval()
    episodes = join([[5, 6]], [[8, 9]], torch.tensor([True]), 0)
    with torch.autocast("cpu", torch.bfloat16):
        final = response_final(model, episodes)
    assert final.states_ND.dtype == final.weight_VD.dtype == torch.bfloat16
    token_log_probs(final, episodes.tokens()).sum().backward()
    assert model.lm_head.weight.grad.dtype == torch.float32
