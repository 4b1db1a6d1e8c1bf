"""Large models compute activations again in the backward pass, to the same gradient; frozen ones are kept in
bf16."""

from contextlib import nullcontext

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import GPT2Config, LlamaConfig

from rlaif.rl import forward
from rlaif.rl.cpu import LinearLayers
from tests.test_ppo import prompts, trainer, weights
from tests.test_rl_llama import SIZES, batch, made

CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=3, n_head=4, n_positions=64),
}
MODES = {
    "fp32": nullcontext,
    "oneDNN": LinearLayers,
    "bf16": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CONFIGS)
def test_recomputed_layers_keep_less_and_give_the_same_gradient(name, mode, inside, monkeypatch):
    model, kept, found = made(CONFIGS[name]), [], []
    monkeypatch.setattr(forward, "LARGE", 0)

    def keep(tensor):
        kept[-1] += tensor.numel()
        return tensor

    for again in (True, False):
        if not again:
            monkeypatch.setattr(forward, "recomputing", lambda _: nullcontext())
        kept.append(0)
        model.zero_grad()
        with MODES[mode](), saved_tensors_hooks(keep, lambda tensor: tensor):
            states = forward.states_at(model, *batch())
        # A step's backward pass is outside the mode; where values learn as they are first read, it is inside.
        with MODES[mode]() if inside and mode != "bf16" else nullcontext():
            states.float().cos().sum().backward()
        found.append((states.detach(), [w.grad.clone() for w in model.base_model.parameters()]))
    (states, grads), (expected, expected_grads) = found
    assert torch.equal(states, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads, strict=True))
    assert kept[0] < kept[1] / 2
    assert all("forward" not in vars(module) for module in model.modules())


def test_where_nothing_is_learned_nothing_is_kept_for_it(monkeypatch):
    monkeypatch.setattr(forward, "LARGE", 0)
    monkeypatch.setattr(forward, "checkpoint", lambda *_, **__: pytest.fail("recomputed"))
    with torch.no_grad():
        forward.states_at(made(CONFIGS["llama"]), *batch())


@pytest.mark.parametrize("minibatches", [1, 2])
def test_an_update_of_a_large_model_is_a_small_ones(minibatches, monkeypatch):
    rows, after = [], []
    for large in (forward.LARGE, 0):
        monkeypatch.setattr(forward, "LARGE", large)
        ppo = trainer(minibatches=minibatches)
        rows.append(ppo.update(1, prompts())[0])
        after.append(weights(ppo.policy))
    assert rows[1]["ratio_first"] == 1
    torch.testing.assert_close(after[1], after[0], rtol=1e-4, atol=1e-6)
    for row in rows:
        del row["seconds"]
    assert rows[1] == pytest.approx(rows[0], rel=1e-3, abs=1e-5)


def test_a_lowered_model_reads_as_autocast_would_and_looks_up_in_fp32():
    model = made(LlamaConfig(**SIZES, tie_word_embeddings=True))
    ids = batch()[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = model(input_ids=ids).logits
        forward.to_bf16(model)
        assert torch.equal(model(input_ids=ids).logits, before)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.get_input_embeddings().weight.dtype == torch.float32
