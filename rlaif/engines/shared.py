"""Shared-prefix scoring: a long prefix is read once, and many short suffixes attend to its keys and values.

Two passes over packed tokens (one row, no padding in any linear layer). The first reads the prefixes and keeps each
layer's keys and values; the second reads all suffixes, each attending to itself and to its own prefix. The two parts
of an attention are softmaxed apart and merged by their log-sum-exp, so nothing is copied for every suffix. It hangs
on transformers' attention interface; `exact_limit` says for which models, and up to which length, this is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from rlaif.engines.decoding import left_pad, positions
from rlaif.engines.loading import UNBOUNDED

NAME = "rlaif_shared_prefix"
Rows = Sequence[Sequence[int]]


@dataclass
class Block:
    """How packed tokens [T] fall into rows: `take` [N, S] token of each place, `put` [T] place of each token."""

    take: Tensor
    put: Tensor
    valid: Tensor | None  # [N, S], None where no row is padded

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Block:
        """Consecutive rows of these lengths, padded on the right."""
        size = torch.tensor(lengths)
        width = int(size.max())
        valid = torch.arange(width) < size[:, None]
        start = size.cumsum(0) - size
        take = torch.where(valid, start[:, None] + torch.arange(width), 0)
        put = valid.flatten().nonzero()[:, 0]
        whole = bool(valid.all())
        return cls(take.to(device), put.to(device), None if whole else valid.to(device))

    def rows(self, packed: Tensor) -> Tensor:
        """[T, …] → [N, S, …]."""
        return (packed if self.valid is None else packed[self.take.flatten()]).unflatten(0, self.take.shape)

    def pack(self, rows: Tensor) -> Tensor:
        """[N, S, …] → [T, …]."""
        flat = rows.flatten(0, 1)
        return flat if self.valid is None else flat[self.put]


@dataclass
class Shared:
    """What a pass's attention needs: rows that attend to themselves and, in the second pass, to stored prefixes."""

    own: Block
    prefix: Block | None = None
    group: Block | None = None  # all suffix tokens of one request as one row
    store: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict
    )  # layer → keys, values [B, Hkv, P, D]


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None,
    rlaif_shared: Shared | None = None, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over packed tokens, in the form transformers calls: query [1, H, T, D] → output [1, T, H, D]."""
    odd = {name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None}
    if rlaif_shared is None or odd or query.shape[0] != 1:
        raise NotImplementedError(
            f"shared-prefix attention: {', '.join(odd) or 'not told how tokens fall into rows'}"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    own, groups = rlaif_shared.own, q.shape[1] // k.shape[1]
    keys, values = (own.rows(x).transpose(1, 2) for x in (k, v))
    if rlaif_shared.prefix is None:
        rlaif_shared.store[module.layer_idx] = (keys, values)
    rows = own.rows(q).transpose(1, 2)
    wide_keys, wide_values = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (keys, values))
    out, total = attend(rows, wide_keys, wide_values, scale, causal=True)
    out, total = own.pack(out.transpose(1, 2)), own.pack(total.transpose(1, 2))
    if rlaif_shared.prefix is not None:
        far, far_total = _prefix_part(q, rlaif_shared, module.layer_idx, scale)
        out = torch.lerp(out, far, (far_total - total).sigmoid()[..., None].to(out.dtype))
    return out[None], None


def _prefix_part(q: Tensor, shared: Shared, layer: int, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of suffix tokens q [T, H, D] to their prefixes: (output [T, H, D], log-sum-exp [T, H])."""
    assert shared.prefix is not None
    assert shared.group is not None
    keys, values = shared.store[layer]
    heads = keys.shape[1]
    # Query heads that share a key head are laid one after another as more queries: no copy of keys or values.
    rows = shared.group.rows(q).unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4)
    b, h, g, m, d = rows.shape
    valid = shared.prefix.valid
    mask = None if valid is None else valid[:, None, None, :]
    out, total = attend(rows.reshape(b, h, g * m, d), keys, values, scale, mask=mask)
    out = out.reshape(b, h, g, m, d).permute(0, 3, 1, 2, 4).flatten(2, 3)
    return shared.group.pack(out), shared.group.pack(
        total.reshape(b, h, g, m).permute(0, 3, 1, 2).flatten(2, 3)
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(output [N, H, S, D], log-sum-exp [N, H, S] in fp32) of attention; `mask` is true where a key may be seen."""
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.inf)
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scale
        )
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if causal:
        seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    scores = scores if bias is None else scores + bias
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(v.dtype) @ v, total


AttentionInterface.register(NAME, attention)


@contextmanager
def _packed(model: Any) -> Iterator[None]:
    """With our attention in place of the model's own."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


@torch.inference_mode()
def score_shared(
    model: Any, prefixes: Sequence[Sequence[int]], suffixes: Sequence[Sequence[Sequence[int]]]
) -> Tensor:
    """Log-probabilities [N, V] in fp32 of the token after each prefix + suffix; N counts suffixes, request by request."""
    device = model.device
    first = Shared(Block.of([len(p) for p in prefixes], device))
    lengths = [len(s) for row in suffixes for s in row]
    second = Shared(Block.of(lengths, device), first.own, Block.of([sum(map(len, row)) for row in suffixes], device),
                    first.store)  # fmt: skip
    places = [range(len(p)) for p in prefixes]
    after = [range(len(p), len(p) + len(s)) for p, row in zip(prefixes, suffixes, strict=True) for s in row]
    ends = torch.tensor(lengths, device=device).cumsum(0) - 1
    with _packed(model):
        _pass(model.base_model, prefixes, places, first, device)
        flat = [s for row in suffixes for s in row]
        logits = _pass(model, flat, after, second, device, logits_to_keep=ends).logits[0]
    return logits.float().log_softmax(-1)


def _pass(model: Any, rows: Any, places: Any, shared: Shared, device: torch.device, **options: Any) -> Any:
    ids = torch.tensor([token for row in rows for token in row], device=device)
    position = torch.tensor([place for row in places for place in row], device=device)
    return model(
        input_ids=ids[None], position_ids=position[None], use_cache=False, rlaif_shared=shared, **options
    )


@torch.inference_mode()
def score_plain(model: Any, prefixes: Rows, suffixes: Sequence[Rows], budget: int = 16384) -> Tensor:
    """What `score_shared` returns, by ordinary left-padded forwards of whole rows, `budget` tokens at a time."""
    rows = [[*p, *s] for p, group in zip(prefixes, suffixes, strict=True) for s in group]
    count = max(1, budget // max(map(len, rows)))
    tables = []
    for start in range(0, len(rows), count):
        ids, mask = left_pad(rows[start : start + count], 0, model.device)
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False,
                    logits_to_keep=1)  # fmt: skip
        tables.append(out.logits[:, -1].float().log_softmax(-1))
    return torch.cat(tables)


def exact_limit(model: Any) -> tuple[int, str]:
    """(tokens up to which shared-prefix scoring equals a plain forward, what limits it); 0 where it never does.

    A window or a length-dependent rope limits it; anything else unusual is found by comparing both on random tokens.
    """
    config = model.config.get_text_config()
    limits = [(UNBOUNDED, "")]
    for name, words in (
        ("sliding_window", "its sliding window"),
        ("attention_chunk_size", "its attention chunks"),
    ):
        if getattr(config, name, None):
            limits.append((int(getattr(config, name)), words))
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(p for p in rope.values() if isinstance(p, dict))):
        if part.get("rope_type") in ("dynamic", "longrope"):
            original = part.get("original_max_position_embeddings") or config.max_position_embeddings
            limits.append((int(original), f"its {part['rope_type']} rope"))
    reason = _probe(model)
    return (0, reason) if reason else min(limits)


def _probe(model: Any) -> str:
    """Why shared-prefix scoring is wrong for this model; empty where it is right."""
    draw = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size

    def tokens(n: int) -> list[int]:
        return torch.randint(size, (n,), generator=draw).tolist()

    prefixes, suffixes = [tokens(7), tokens(11)], [[tokens(3), tokens(5)], [tokens(4)]]
    try:
        gap = float(
            (score_shared(model, prefixes, suffixes) - score_plain(model, prefixes, suffixes)).abs().max()
        )
    except Exception as error:  # architectures that do not take our attention fail in their own ways
        return f"{type(model).__name__} does not take it ({type(error).__name__})"
    allowed = 1e-3 if model.dtype == torch.float32 else 0.25
    return "" if gap <= allowed else f"{type(model).__name__} differs from a plain forward by {gap:.2g} nats"
