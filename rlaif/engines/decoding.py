"""Writing text: a decode loop over one left-padded batch, with one random stream per row.

A row's draws depend on its request's seed and the step alone, so a text does not depend on what it is batched
with (up to rounding of the logits). Finished rows leave the batch, keys and values with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlaif.engines import GenerateRequest

# How often texts are searched for a stop string: a step costs a forward pass, a search decodes every row's
# end.
SEARCH_EVERY = 8


class LogitsNotFinite(ArithmeticError):
    """The model's logits are NaN or infinite, so there is nothing to draw from."""


@dataclass
class Draws:
    """How each row of a batch is sampled: temperature [B], top_p [B], uniform numbers [B, steps]."""

    temperature: Tensor
    top_p: Tensor
    uniform: Tensor

    @classmethod
    def of(cls, requests: Sequence[GenerateRequest], device: torch.device) -> Draws:
        """The settings of a batch of requests; the numbers come from each request's seed, the same on any
        device."""
        steps = max(r.max_tokens for r in requests)
        streams = [torch.Generator().manual_seed(r.seed & (2**63 - 1)) for r in requests]
        rows = [torch.rand(steps, dtype=torch.float64, generator=stream) for stream in streams]
        settings = torch.tensor([[r.temperature, r.top_p] for r in requests], device=device)
        return cls(settings[:, 0], settings[:, 1], torch.stack(rows).to(_cdf_dtype(device)).to(device))

    def select(self, rows: Tensor) -> Draws:
        """The settings of some rows [b]."""
        return Draws(self.temperature[rows], self.top_p[rows], self.uniform[rows])


def _cdf_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which rare tokens keep their share of the CDF; Apple's GPUs have no fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """One token a row [B] from logits [B, V]: inverse CDF at `uniform` [B], exactly at temperature and top_p
    [B].

    Temperature 0 takes the likeliest token. The nucleus is the smallest set of likeliest tokens that holds
    top_p.
    """
    greedy = temperature == 0
    probs = (logits.float() / torch.where(greedy, 1.0, temperature)[:, None]).softmax(-1)
    if bool((top_p < 1).any()):
        probs = _nucleus(probs, top_p)
    wide = _cdf_dtype(logits.device)
    cdf = probs.cumsum(-1, dtype=wide)
    drawn = torch.searchsorted(cdf, uniform[:, None].to(wide) * cdf[:, -1:], right=True)[:, 0]
    # Rounding may put the draw on the total: then it belongs to the last token that has any mass.
    last = (cdf < cdf[:, -1:]).sum(-1)
    return torch.where(greedy, logits.argmax(-1), torch.minimum(drawn, last))


def _nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities [B, V] with all outside the nucleus set to zero; rows with top_p = 1 are untouched."""
    ordered, index = torch.sort(probs, stable=True, dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    outside = (before >= top_p[:, None]) & (top_p < 1)[:, None]
    return probs.masked_fill(outside.scatter(-1, index, outside), 0.0)


def left_pad(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids [B, T], mask [B, T], true at real tokens) of token rows padded on the left."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) >= width - lengths[:, None]


def positions(mask: Tensor) -> Tensor:
    """Position ids [B, T] of left-padded rows: the first real token stands at 0."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[GenerateRequest],
    eos: Sequence[int],
    pad: int,
    stopped: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Continuations of one batch of prompts, each up to and with its end token, or max_tokens long.

    `stopped` is asked now and then whether the tokens so far already hold a stop string. Raises
    LogitsNotFinite.
    """
    device = model.device
    ids, mask = left_pad(prompts, pad, device)
    padded = not bool(mask.all())
    draws = Draws.of(requests, device)
    ends = torch.tensor(list(eos), device=device)
    limits = torch.tensor([r.max_tokens for r in requests], device=device)
    written: list[list[int]] = [[] for _ in requests]
    live = torch.arange(len(requests), device=device)
    position, cache, step = positions(mask), None, 0
    while True:
        out = model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        if not bool(out.logits[:, -1].amax(-1).isfinite().all()):
            raise LogitsNotFinite
        token = sample(out.logits[:, -1], draws.temperature, draws.top_p, draws.uniform[:, step])
        step += 1
        for row, value in zip(live.tolist(), token.tolist(), strict=True):
            written[row].append(value)
        done = torch.isin(token, ends) | (limits[live] <= step)
        if stopped and step % SEARCH_EVERY == 0:
            found = [stopped(written[row]) for row in live.tolist()]
            done |= torch.tensor(found, device=device)
        keep = (~done).nonzero()[:, 0]
        if len(keep) == 0:
            return written
        if len(keep) < len(live):
            cache.batch_select_indices(keep)
            live, draws, mask, token = live[keep], draws.select(keep), mask[keep], token[keep]
            position = position[keep]
        ids = token[:, None]
        position = position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], 1)
