"""The output head and what PPO computes from it: products over blocks of tokens, everything else over pieces
of a block.

The only place with an axis as long as the vocabulary. Where nothing is learned, no more than a block of it is
held; where something is, the logits of one micro-batch, which the backward pass turns into their own gradient
in place. On a CPU a piece stays in the cache of the core that walks through it again and again; a product
that small does not pay.

N tokens · n tokens of a block or a piece · D hidden width · V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlaif.rl.cpu import by_torch, product
from rlaif.rl.numerics import entropy, exact_kl, gather_log_probs

BLOCK_BYTES, PIECE_BYTES = 128 * 2**20, 2 * 2**20  # of fp32 logits
COMPARED = ("log_prob", "reference", "exact_kl", "entropy")


@dataclass(frozen=True)
class HeadInputs:
    """The last hidden states and the head's weight; or the logits, and no weight, where a head is no plain
    product."""

    states_ND: Tensor
    weight_VD: Tensor | None

    @property
    def width(self) -> int:
        """The size of the vocabulary."""
        return self.states_ND.shape[1] if self.weight_VD is None else len(self.weight_VD)

    def logits(self, at: slice, into: Tensor | None = None) -> Tensor:
        """Logits of a block, in memory of their own or in `into`. → nV"""
        states_nD = self.states_ND[at]
        if self.weight_VD is None:
            return states_nD
        if into is not None and by_torch(states_nD, self.weight_VD):
            return torch.mm(states_nD, self.weight_VD.t(), out=into)
        logits_nV = product(states_nD, self.weight_VD)
        return logits_nV if into is None else into.copy_(logits_nV)


def blocks(count: int, width: int) -> list[slice]:
    """`count` rows of `width` fp32 numbers, cut into blocks of BLOCK_BYTES."""
    return _cut(count, BLOCK_BYTES // (4 * width))


def pieces(logits_nV: Tensor) -> list[slice]:
    """A block cut into pieces of PIECE_BYTES, or whole where it is not on a CPU."""
    count, width = logits_nV.shape
    return _cut(count, PIECE_BYTES // (4 * width) if logits_nV.device.type == "cpu" else count)


def _cut(count: int, rows: int) -> list[slice]:
    step = max(1, rows)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def scaled(logits_nV: Tensor, temperature: float) -> Tensor:
    """Logits in fp32, divided by the temperature. → nV"""
    wide_nV = logits_nV.float()
    return wide_nV if temperature == 1 else wide_nV / temperature


def block_log_probs(logits_nV: Tensor, temperature: float) -> Tensor:
    """Log-softmax in fp32 of logits in any dtype. → nV"""
    return scaled(logits_nV, temperature).log_softmax(-1)


def token_log_probs(final: HeadInputs, tokens_N: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability, in fp32 and with a gradient, of each position's token. → N"""
    if final.weight_VD is None:
        return gather_log_probs(block_log_probs(final.states_ND, temperature), tokens_N)
    found: Any = _TokenLogProbs.apply(final.states_ND, final.weight_VD, tokens_N, temperature)
    return found


class _TokenLogProbs(torch.autograd.Function):
    """The log-probabilities of `token_log_probs`; their backward pass can be run once."""

    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, weight_VD: Tensor, tokens_N: Tensor, temperature: float
    ) -> Tensor:
        final, found_N = (
            HeadInputs(states_ND, weight_VD),
            states_ND.new_empty(len(states_ND), dtype=torch.float32),
        )
        logits_NV = states_ND.new_empty(len(states_ND), final.width)
        for at in blocks(*logits_NV.shape):
            # A product of its own for every block, as `compare` makes it: the same bits, so a ratio of
            # exactly 1.
            logits_nV = final.logits(at, into=logits_NV[at])
            for part in pieces(logits_nV):
                log_probs_nV = block_log_probs(logits_nV[part], temperature)
                found_N[at][part] = gather_log_probs(log_probs_nV, tokens_N[at][part])
        ctx.save_for_backward(states_ND, weight_VD, tokens_N)
        ctx.logits, ctx.temperature = logits_NV, temperature
        return found_N

    @staticmethod
    def backward(ctx: Any, gradient_N: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        states_ND, weight_VD, tokens_N = ctx.saved_tensors
        logits_NV, ctx.logits = ctx.logits, None
        states_gradient_ND = torch.empty_like(states_ND)
        for at in blocks(*logits_NV.shape):
            logits_nV = logits_NV[at]
            for part in pieces(logits_nV):
                # d log p(token) / d logits = (one-hot − probabilities) / temperature, written over the
                # logits.
                scale_n1 = gradient_N[at][part, None] / ctx.temperature
                wide_nV = scaled(logits_nV[part], ctx.temperature).softmax(-1).mul_(-scale_n1)
                logits_nV[part] = wide_nV.scatter_add_(-1, tokens_N[at][part, None], scale_n1)
            states_gradient_ND[at] = torch.mm(logits_nV, weight_VD)
        learns = ctx.needs_input_grad[1]
        return states_gradient_ND, torch.mm(logits_NV.t(), states_ND) if learns else None, None, None


@torch.no_grad()
def compare(
    policy: HeadInputs, reference: HeadInputs, tokens_N: Tensor, temperature: float = 1.0
) -> dict[str, Tensor]:
    """Both models' log-probability of each token, and KL and entropy over the whole vocabulary. → each N"""
    found = {name: torch.empty(len(tokens_N), device=tokens_N.device) for name in COMPARED}
    for at in blocks(len(tokens_N), policy.width):
        own_nV, other_nV = policy.logits(at), reference.logits(at)
        for part in pieces(own_nV):
            policy_nV = block_log_probs(own_nV[part], temperature)
            reference_nV = block_log_probs(other_nV[part], temperature)
            probs_nV, tokens_n = policy_nV.exp(), tokens_N[at][part]
            read = (
                gather_log_probs(policy_nV, tokens_n),
                gather_log_probs(reference_nV, tokens_n),
                exact_kl(policy_nV, reference_nV, probs_nV),
                entropy(policy_nV, probs_nV),
            )
            for name, values_n in zip(COMPARED, read, strict=True):
                found[name][at][part] = values_n
    return found
