"""Our forward pass of a Llama-type decoder: the states and gradients of transformers' own, cached or not, in
both precisions."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlaif.rl import cpu, forward, llama
from rlaif.rl.cpu import PackedLayers

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "every head its keys": LlamaConfig(**{**SIZES, "num_key_value_heads": 4}, tie_word_embeddings=True),
    "biases and a scaled rope": LlamaConfig(
        **SIZES, attention_bias=True, mlp_bias=True, rope_parameters=SCALED
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None, head_dim=12),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    return made(CONFIGS[request.param])


def made(config):
    torch.manual_seed(0)
    found = AutoModelForCausalLM.from_config(config).eval()
    for name, weight in found.named_parameters():
        if weight.ndim == 1:  # biases start at 0 and norms at 1, where a mistake would not show
            torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.3)
    return found


def batch(rows=4, length=11):
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 40, (rows, length), generator=draw)
    wanted = torch.rand(rows, length, generator=draw) < 0.4
    wanted[0] = False
    wanted[0, 2] = True  # one state of the first row, several of the others
    return ids, *wanted.nonzero(as_tuple=True)


def read(model, ids, rows, columns, own):
    if own:
        return llama.states_at(model, ids, rows, columns)
    return model.base_model(input_ids=ids, use_cache=False).last_hidden_state[rows, columns]


def test_a_model_that_is_read_otherwise_falls_back_to_its_own_forward(monkeypatch):
    batched = batch()
    model = made(CONFIGS["llama"])
    rope = llama._rope
    monkeypatch.setattr(llama, "_rope", lambda base, x, positions: rope(base, x, positions + positions))
    assert "LlamaModel's states differ by" in llama.difference(model)
    assert torch.equal(forward.states_at(model, *batched), read(model, *batched, own=False))
    assert isinstance(forward.new_cache(model), DynamicCache)
    monkeypatch.undo()
    assert llama.supports(made(CONFIGS["llama"]))


def test_it_can_be_switched_off(monkeypatch):
    model = made(CONFIGS["llama"])
    assert llama.supports(model)
    monkeypatch.setenv("RLAIF_PLAIN_FORWARD", "1")
    assert isinstance(forward.new_cache(model), DynamicCache)


def test_states_and_gradients_are_the_models_own(model):
    assert llama.supports(model)
    found = []
    for own in (True, False):
        model.zero_grad()
        states = read(model, *batch(), own)
        (states * torch.arange(states.numel()).view(states.shape).cos()).sum().backward()
        grads = {name: w.grad.clone() for name, w in model.base_model.named_parameters()}
        found.append((states.detach(), grads))
    (states, grads), (expected, expected_grads) = found
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in expected_grads.items():
        assert (grads[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert all(gradient.norm() > 0 for gradient in expected_grads.values())


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_several_batches_add_up_as_the_models_own_do(tied):
    model = made(LlamaConfig(**SIZES, tie_word_embeddings=tied, pad_token_id=7))
    draw = torch.Generator().manual_seed(2)
    parts = torch.randint(0, 40, (3, 4, 11), generator=draw)
    parts[:, 0, :3] = 7  # which learns nothing as a word
    found = []
    for own in (True, False):
        model.zero_grad()
        for ids in parts:
            states = read(model, ids, *batch()[1:], own)
            (model.lm_head(states) * torch.arange(40).cos()).sum().backward()
        found.append({name: w.grad.clone() for name, w in model.named_parameters()})
    for name, gradient in found[1].items():
        assert (found[0][name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert tied or not found[0]["model.embed_tokens.weight"][7].any()


@pytest.mark.parametrize("short", [0, 512])
def test_in_bf16_states_are_as_near_to_fp32_as_the_models_own(model, short, monkeypatch):
    monkeypatch.setattr(llama, "SHORT", short)
    with torch.no_grad():
        exact = read(model, *batch(), own=False)
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = (read(model, *batch(), own) for own in (True, False))
    gap, usual = ((x.float() - exact).norm() / exact.norm() for x in (ours, theirs))
    assert 0 < gap < 1.5 * usual + 1e-3


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("room", [4, 64])
def test_decoding_goes_on_from_what_is_kept(model, room, bf16, monkeypatch):
    monkeypatch.setattr(llama, "GROWTH", room)
    ids, _, _ = batch(4, 14)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    mask[2, :5] = 0
    rows, past = torch.arange(4), llama.KVCache()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for start, end in [(0, 6), *((n, n + 1) for n in range(6, 14))]:
            if start == 9:  # two rows have ended
                keep = torch.tensor([0, 2])
                rows = rows[keep]
                past.batch_select_indices(keep)
            states = llama.next_states(model, ids[rows, start:end], mask[rows, :end], past)
            for row, state in zip(rows, states, strict=True):
                alone = ids[row, :end][mask[row, :end] == 1][None]
                expected = model.base_model(input_ids=alone, use_cache=False).last_hidden_state[0, -1]
                gap = (state.float() - expected.float()).norm() / expected.float().norm()
                assert gap < (0.05 if bf16 else 1e-5)
    assert past.used == 14
    assert past.layers[0][0].shape[2] % room == 0


def test_the_last_layer_computes_the_states_asked_for_and_no_others(model):
    assert llama.supports(model)  # compared before what it reads is counted
    read_rows = []
    for layer in model.base_model.layers:
        layer.mlp.down_proj.register_forward_hook(
            lambda _, inputs, __: read_rows.append(inputs[0].shape[0] * inputs[0].shape[1])
        )
    ids, rows, columns = batch()
    forward.states_at(model, ids, rows, columns)
    assert read_rows == [ids.numel(), ids.numel(), len(ids) * int(torch.bincount(rows).max())]
    assert read_rows[-1] < ids.numel()


def test_decoding_keeps_what_the_model_is_made_for(model):
    assert isinstance(forward.new_cache(model), llama.KVCache)
    other = made(GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=4))
    assert isinstance(forward.new_cache(other), DynamicCache)


def test_what_is_made_otherwise_is_left_to_transformers():
    assert not llama.supports(made(GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=4)))
    assert not llama.supports(made(MistralConfig(**SIZES, sliding_window=8)))
    cut_up = made(CONFIGS["llama"])
    layer = cut_up.base_model.layers[1]
    layer.__class__ = type("FSDPLlamaDecoderLayer", (type(layer),), {})  # as torch marks a sharded layer
    assert not llama.supports(cut_up)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_packed_layer_gives_what_the_layer_gives(bias, bf16):
    torch.manual_seed(0)
    layer, linear = torch.nn.Linear(48, 32, bias=bias), PackedLayers()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for rows in (3, 64):
            x = torch.randn(rows, 2, 48)
            found, expected = linear(layer, x), layer(x)
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert list(linear.kept) == ([layer] if cpu.can_pack(torch.bfloat16 if bf16 else torch.float32) else [])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_dtype_that_the_processor_does_not_multiply_packed_goes_through_the_layer(dtype, monkeypatch):
    monkeypatch.setattr(cpu, "can_pack", lambda wanted: wanted == torch.float32)
    layer, linear = torch.nn.Linear(8, 4).to(dtype), PackedLayers()
    x = torch.randn(3, 8, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(linear(layer, x), layer(x))
    assert linear.kept == {}


def test_only_fp32_and_bf16_are_packed():
    assert not cpu.can_pack(torch.float64)
    assert not cpu.can_pack(torch.float16)


def test_a_layer_of_another_kind_is_called_as_it_is():
    linear, layer = PackedLayers(), torch.nn.Sequential(torch.nn.Linear(4, 4))
    x = torch.randn(2, 4)
    assert torch.equal(linear(layer, x), layer(x))
    assert linear.kept == {}
