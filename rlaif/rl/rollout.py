"""The decode loop of PPO: sampling at a temperature and nothing else, so that what is scored is what was
sampled.

Prompts are padded on the left with positions counted from the mask; only the last position's logits are
computed; rows that have ended leave the batch once they are a quarter of it. A base model without a token
that ends its turn ends it where it goes on with the next speaker's: the tokens up to there are its response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlaif.engines.decoding import SEARCH_EVERY, left_pad
from rlaif.rl.episodes import Episodes, join
from rlaif.rl.forward import new_cache, next_logits
from rlaif.rl.ranks import SINGLE_PROCESS, Ranks

Stops = Callable[
    [list[int]], int | None
]  # a response's tokens → how many there are up to its end, if it has one
SPAN = 128  # vocabulary entries that sampling first takes together
DROP_SHARE = 0.25  # of the rows decoded that must have ended before the others move to a smaller batch


def draw(logits_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(logits), by inverting its distribution function, and its log-probability.
    → B, B

    Takes one random number a row, where `multinomial` takes one a vocabulary entry. The function is summed in
    fp64, over spans of the vocabulary (C of W entries) and then inside the span that the number falls into.
    """
    rows, width = logits_BV.shape
    probs_BV = logits_BV.float().softmax(-1)
    spans_BV = F.pad(probs_BV, (0, -width % SPAN)) if width % SPAN else probs_BV  # which copies in any case
    probs_BCW = spans_BV.view(rows, -1, SPAN)
    cdf_BC = probs_BCW.sum(-1).double().cumsum(-1)
    wanted_B1 = uniform_B[:, None] * cdf_BC[:, -1:]
    span_B1 = torch.searchsorted(cdf_BC, wanted_B1, right=True).clamp(max=cdf_BC.shape[1] - 1)
    below_B1 = torch.where(span_B1 > 0, cdf_BC.gather(1, (span_B1 - 1).clamp(min=0)), 0)
    inside_BW = probs_BCW[torch.arange(rows, device=span_B1.device), span_B1[:, 0]].double().cumsum(-1)
    place_B1 = torch.searchsorted(inside_BW, wanted_B1 - below_B1, right=True)
    # Rounding may put the draw on the span's total: then it belongs to the last token that has any mass.
    place_B1 = place_B1.minimum((inside_BW < inside_BW[:, -1:]).sum(-1, keepdim=True))
    tokens_B1 = (span_B1 * SPAN + place_B1).clamp(max=width - 1)
    return tokens_B1[:, 0], probs_BV.gather(1, tokens_B1).clamp(min=1e-30).log()[:, 0]


@torch.no_grad()
def rollout(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    temperature: float,
    eos: Sequence[int],
    pad: int,
    generator: torch.Generator,
    stops: Stops | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    keep_final: bool = False,
) -> Episodes:
    """One response to each prompt (token ids), ended by any of `eos`, by what `stops` finds, or after
    `max_tokens`.

    Of several processes each samples its share. A row's random numbers do not depend on the process that
    samples it. `keep_final` gives the episodes their `final_BRD`, for one process and a model whose head is a
    plain product.
    """
    device = model.device
    shape = len(prompts), max_tokens
    uniform_BR = ranks.own_share(torch.rand(shape, dtype=torch.float64, device=device, generator=generator))
    prompts = ranks.own_share(prompts)
    ids, mask = left_pad(prompts, pad, device)
    eos_ids = torch.tensor(list(eos), device=device)
    sampled_BR = torch.full((len(prompts), max_tokens), pad, device=device)
    behaviour_BR = torch.zeros(len(prompts), max_tokens, device=device)
    response_B = torch.full((len(prompts),), max_tokens, device=device)
    ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    rows = torch.arange(len(prompts), device=device)  # the prompt of each decoded row
    final_BRD: Tensor | None = None
    cache = new_cache(model)
    for step in range(max_tokens):
        logits_BV, hidden_BD = next_logits(model, ids, mask, cache)
        token, log_prob = draw(
            logits_BV / temperature if temperature != 1 else logits_BV, uniform_BR[rows, step]
        )
        if keep_final and hidden_BD is not None:
            if final_BRD is None:
                final_BRD = hidden_BD.new_zeros(*shape, hidden_BD.shape[-1])
            final_BRD[rows, step] = hidden_BD
        live = ~ended_B[rows]
        sampled_BR[rows, step] = torch.where(live, token, pad)
        behaviour_BR[rows, step] = torch.where(live, log_prob, 0)
        stopped = rows[live & torch.isin(token, eos_ids)]
        response_B[stopped], ended_B[stopped] = step + 1, True
        if stops and (
            step % SEARCH_EVERY == SEARCH_EVERY - 1 or step == max_tokens - 1 or bool(ended_B.all())
        ):
            _stop(stops, sampled_BR, response_B, ended_B, step + 1)
        live = ~ended_B[rows]
        count = int(live.sum())
        if count == 0:
            break
        ids, mask = token[:, None], torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        if len(rows) - count > DROP_SHARE * len(rows):
            rows, ids, mask = rows[live], ids[live], mask[live]
            cache.batch_select_indices(live.nonzero()[:, 0])
    return _episodes(prompts, sampled_BR, response_B, ended_B, pad, behaviour_BR, final_BRD)


def _episodes(
    prompts: Sequence[Sequence[int]],
    sampled_BR: Tensor,
    response_B: Tensor,
    ended_B: Tensor,
    pad: int,
    behaviour_BR: Tensor,
    final_BRD: Tensor | None,
) -> Episodes:
    """Responses of `response_B` tokens each, no wider than the longest."""
    lengths = response_B.tolist()
    responses = [row[:n] for row, n in zip(sampled_BR.tolist(), lengths, strict=True)]
    longest = max(lengths)
    final_BRD = None if final_BRD is None else final_BRD[:, :longest]
    return join(prompts, responses, ended_B, pad, behaviour_BR[:, :longest], final_BRD)


def _stop(stops: Stops, sampled_BR: Tensor, response_B: Tensor, ended_B: Tensor, written: int) -> None:
    """End the responses in which `stops` finds an end among the tokens `written` so far, an EOS after it or
    not."""
    for row, tokens in enumerate(sampled_BR[:, :written].tolist()):
        length = stops(tokens[: int(response_B[row])])
        if length is not None:
            response_B[row], ended_B[row] = length, True
