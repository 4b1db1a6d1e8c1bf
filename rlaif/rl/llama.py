"""Llama-type decoders, read no further than PPO needs: the last layer computes the states asked for and no
others.

The model's own embedding, norms and linear layers are called, so adapters and autocast work as they do in its
forward; what happens between them is computed here. A state is cast once for all the products it goes into,
short sequences on a CPU attend by plain products, and decoding neither copies keys and values nor lays out
the same weights at every step.

B rows · T positions read · C positions so far · P places for them · R of a row's positions wanted · H query
heads, K key heads of width W · D hidden width.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from rlaif.engines.decoding import positions
from rlaif.rl.cpu import PackedLayers, to_working_dtype, working_dtype

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
_DIFFERENCES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # of each model, once it has been compared
LAYERS = {f"{family}DecoderLayer" for family in FAMILIES}
SHORT = (
    512  # tokens up to which bf16 on a CPU attends by plain products: the flash kernel there is far slower
)
GROWTH = 32  # positions by which a cache grows: a product with a part of a buffer would copy it first


class KVCache:
    """Every layer's keys and values [B, K, P, W] of the positions so far, and zeros in the places after them.

    `linear` calls the model's linear layers, as long as its weights stay as they are.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.used = 0
        self.linear = PackedLayers()

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new positions, those after `used`. → its keys and values, whole"""
        end = self.used + keys.shape[2]
        places = -(-end // GROWTH) * GROWTH
        if layer == len(self.layers):
            self.layers.append((keys[:, :, :0], values[:, :, :0]))
        more = places - self.layers[layer][0].shape[2]
        if more:
            old_keys, old_values = self.layers[layer]
            self.layers[layer] = F.pad(old_keys, (0, 0, 0, more)), F.pad(old_values, (0, 0, 0, more))
        for whole, new in zip(self.layers[layer], (keys, values), strict=True):
            whole[:, :, self.used : end] = new
        return self.layers[layer]

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep some rows of the batch."""
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]


@dataclass(frozen=True)
class LastQueries:
    """The states that the last layer goes on with. `flat` of all B·T, in `shape` B × R; what they may not
    see."""

    flat: Tensor
    shape: tuple[int, int]
    rope: tuple[Tensor, Tensor]
    bias: Tensor


def supports(model: Any) -> bool:
    """Whether a model is read in this way: a Llama-type decoder, whole here, whose own forward gives the same
    states.

    Compared once a model. With RLAIF_PLAIN_FORWARD=1 in the environment no model is.
    """
    return has_known_layers(model) and not difference(model) and not os.environ.get("RLAIF_PLAIN_FORWARD")


def has_known_layers(model: Any) -> bool:
    """Whether every layer is transformers' own, as Llama's are, sees all positions before it, and is not
    sharded."""
    base = model.base_model
    config, layers = base.config.get_text_config(), getattr(base, "layers", [])
    known = len(layers) > 0 and {type(layer).__name__ for layer in layers} <= LAYERS
    return known and getattr(config, "sliding_window", None) is None


def difference(model: Any) -> str:
    """How the states of a model with known layers differ from its own forward's, in words; empty where they
    do not."""
    base = model.base_model  # a value model on the policy's trunk has the same
    if base not in _DIFFERENCES:
        _DIFFERENCES[base] = _probe(model)
    return _DIFFERENCES[base]


@torch.no_grad()
def _probe(model: Any) -> str:
    base = model.base_model
    draw = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(base.embed_tokens.num_embeddings, (2, 5), generator=draw).to(base.device)
    rows_N, columns_N = torch.ones_like(ids_BT).nonzero(as_tuple=True)
    dtypes = {weight.dtype for weight in base.parameters()}
    try:
        # A reference kept in bf16 has norms in fp32, and is read under autocast.
        with torch.autocast(base.device.type, torch.bfloat16, enabled=len(dtypes) > 1):
            expected_ND = base(input_ids=ids_BT, use_cache=False).last_hidden_state[rows_N, columns_N].float()
            found_ND = states_at(model, ids_BT, rows_N, columns_N).float()
    except Exception as error:  # a model that only looks alike fails in its own way
        return f"{type(base).__name__} does not take it ({type(error).__name__})"
    gap = float((found_ND - expected_ND).norm() / expected_ND.norm())
    allowed = 1e-3 if dtypes == {torch.float32} else 0.05
    return "" if gap <= allowed else f"{type(base).__name__}'s states differ by {gap:.2g} of their norm"


def states_at(model: Any, ids_BT: Tensor, rows_N: Tensor, columns_N: Tensor) -> Tensor:
    """The last hidden states at some positions, row by row, of sequences padded on the right. → ND"""
    base, (rows, length) = model.base_model, ids_BT.shape
    x_BTD = base.embed_tokens(ids_BT)
    place_T = torch.arange(length, device=ids_BT.device)
    rope = _rope(base, x_BTD, place_T[None])
    for layer in base.layers[:-1]:
        x_BTD = _layer(layer, x_BTD, rope)
    count_B = torch.bincount(rows_N, minlength=rows)
    most = int(count_B.max())
    taken_BR = torch.arange(most, device=ids_BT.device) < count_B[:, None]
    columns_BR = columns_N.new_zeros(taken_BR.shape)
    columns_BR[taken_BR] = columns_N
    first_B1 = length * torch.arange(rows, device=ids_BT.device)[:, None]
    cos, sin = (x[0][columns_BR] for x in rope)
    unseen_B1RT = (place_T > columns_BR[..., None])[:, None]
    wanted = LastQueries(
        (first_B1 + columns_BR).flatten(), (rows, most), (cos, sin), _bias(unseen_B1RT, x_BTD)
    )
    return base.norm(_layer(base.layers[-1], x_BTD, rope, wanted=wanted)[taken_BR])


def next_states(model: Any, ids_BT: Tensor, mask_BC: Tensor, cache: KVCache) -> Tensor:
    """The last hidden state at the last position, of sequences padded on the left. → BD

    `ids_BT` are the positions that `cache` does not have yet, `mask_BC` covers all of them.
    """
    base, (rows, new) = model.base_model, ids_BT.shape
    x_BTD = base.embed_tokens(ids_BT)
    rope = _rope(base, x_BTD, positions(mask_BC)[:, -new:])
    real_BP = F.pad(mask_BC, (0, -mask_BC.shape[1] % GROWTH))
    place_P = torch.arange(real_BP.shape[1], device=ids_BT.device)
    place_T = place_P[cache.used : cache.used + new]
    bias = _bias((place_P > place_T[:, None]) | ~real_BP.bool()[:, None, None], x_BTD)
    for layer in base.layers[:-1]:
        x_BTD = _layer(layer, x_BTD, rope, bias, cache)
    last_B = torch.arange(1, rows + 1, device=ids_BT.device) * new - 1
    cos, sin = (x[:, -1:] for x in rope)
    wanted = LastQueries(last_B, (rows, 1), (cos, sin), bias[:, :, -1:])
    x_B1D = _layer(base.layers[-1], x_BTD, rope, bias, cache, wanted)
    cache.used += new
    return base.norm(x_B1D[:, 0])


def _rope(base: Any, x_BTD: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The model's cosines and sines, [B or 1, T, 1, W], the first half of the sines negative."""
    cos, sin = base.rotary_emb(x_BTD, position_ids=positions)
    low, high = sin.chunk(2, -1)
    return cos[:, :, None], torch.cat([-low, high], -1)[:, :, None]


def _bias(unseen: Tensor, x_BTD: Tensor) -> Tensor:
    """What is added to the scores of attention: the least number where a position is not to be seen, or else
    0."""
    dtype = working_dtype(x_BTD)
    bias = torch.zeros(unseen.shape, dtype=dtype, device=unseen.device)
    return bias.masked_fill_(unseen, torch.finfo(dtype).min)


def _rotated(x_BTHW: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864, eq. 34), computed in the dtype of the cosines. → BHTW in that of
    x"""
    rotated = torch.addcmul(x_BTHW * cos, x_BTHW.roll(x_BTHW.shape[-1] // 2, -1), sin)
    return rotated.transpose(1, 2).to(x_BTHW.dtype, memory_format=torch.contiguous_format)


def _layer(
    layer: Any,
    x_BTD: Tensor,
    rope: tuple[Tensor, Tensor],
    bias: Tensor | None = None,
    cache: KVCache | None = None,
    wanted: LastQueries | None = None,
) -> Tensor:
    """One layer, its keys and values put into the `cache` where there is one. → BTD, or BRD where some are
    `wanted`

    Without a `bias` a position sees those before it and itself.
    """
    attention, mlp = layer.self_attn, layer.mlp
    linear = cache.linear if cache is not None else _call

    def heads(kind: str, h: Tensor) -> Tensor:
        """Queries, keys or values, normed where the model does that: [B, T, H or K, W]."""
        found = linear(getattr(attention, f"{kind}_proj"), h).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{kind}_norm", None)
        return found if norm is None else to_working_dtype(norm(found))

    h_BTD = to_working_dtype(layer.input_layernorm(x_BTD))
    keys = _rotated(heads("k", h_BTD), *rope)
    values = heads("v", h_BTD).transpose(1, 2).contiguous()
    if cache is not None:
        keys, values = cache.append(attention.layer_idx, keys, values)
    if wanted is not None:
        h_BTD, x_BTD = (
            y.flatten(0, 1).index_select(0, wanted.flat).unflatten(0, wanted.shape) for y in (h_BTD, x_BTD)
        )
        rope, bias = wanted.rope, wanted.bias
    cos, sin = (attention.scaling * x for x in rope)
    queries = _rotated(heads("q", h_BTD), cos, sin)
    x_BTD = x_BTD + linear(attention.o_proj, _attend(queries, keys, values, bias))
    h_BTD = to_working_dtype(layer.post_attention_layernorm(x_BTD))
    gated = mlp.act_fn(linear(mlp.gate_proj, h_BTD)) * linear(mlp.up_proj, h_BTD)
    return x_BTD + linear(mlp.down_proj, gated)


def _call(layer: Any, x: Tensor) -> Tensor:
    return layer(x)


def _attend(q_BHTW: Tensor, k_BKPW: Tensor, v_BKPW: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of queries that are scaled already. → [B, T, H·W]"""
    (rows, heads, new, width), (kept, places) = q_BHTW.shape, k_BKPW.shape[1:3]
    short = q_BHTW.device.type == "cpu" and q_BHTW.dtype == torch.bfloat16 and places <= SHORT
    if short or new == 1:
        if bias is None:
            bias = _bias(torch.ones(new, places, dtype=torch.bool, device=q_BHTW.device).triu(1), q_BHTW)
        # Queries that share a key head are laid one after another: keys and values stay as they are.
        q = q_BHTW.reshape(rows, kept, -1, width)
        scores_BHTP = (q @ k_BKPW.transpose(-1, -2)).view(rows, heads, new, places).add_(bias)
        out_BHTW = (scores_BHTP.softmax(-1).view(rows, kept, -1, places) @ v_BKPW).view(q_BHTW.shape)
    else:  # a kernel that takes a mask and heads that share keys is not on every device
        k, v = (x if kept == heads else x.repeat_interleave(heads // kept, 1) for x in (k_BKPW, v_BKPW))
        out_BHTW = F.scaled_dot_product_attention(q_BHTW, k, v, bias, is_causal=bias is None, scale=1.0)
    return out_BHTW.transpose(1, 2).flatten(2)
