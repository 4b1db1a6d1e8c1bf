"""The output head and what PPO reads off it, in blocks of tokens small enough to stay in the processor's cache.

The only place with an axis as long as the vocabulary. Where nothing is learned, no more than a block of it is held;
where something is, the logits of one micro-batch, which the backward pass turns into their own gradient in place.
A large tensor takes longer to allocate and to walk through again and again than its product took to compute.

N tokens · n tokens of a block · D hidden width · V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlaif.rl.cpu import by_torch, product
from rlaif.rl.numerics import entropy, exact_kl, picked

BLOCK_BYTES = 32 * 2**20
COMPARED = ("log_prob", "reference", "exact_kl", "entropy")


@dataclass(frozen=True)
class Final:
    """The last hidden states and the head's weight; or the logits, and no weight, where a head is no plain product."""

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
    """`count` rows of `width` fp32 numbers, cut into pieces of BLOCK_BYTES."""
    rows = max(1, BLOCK_BYTES // (4 * width))
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def scaled(logits_nV: Tensor, temperature: float) -> Tensor:
    """Logits in fp32, divided by the temperature. → nV"""
    wide_nV = logits_nV.float()
    return wide_nV if temperature == 1 else wide_nV / temperature


def block_log_probs(logits_nV: Tensor, temperature: float) -> Tensor:
    """Log-softmax in fp32 of logits in any dtype. → nV"""
    return scaled(logits_nV, temperature).log_softmax(-1)


def token_log_probs(final: Final, tokens_N: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability, in fp32 and with a gradient, of each position's token. → N"""
    if final.weight_VD is None:
        return picked(block_log_probs(final.states_ND, temperature), tokens_N)
    found: Any = _TokenLogProbs.apply(final.states_ND, final.weight_VD, tokens_N, temperature)
    return found


class _TokenLogProbs(torch.autograd.Function):
    """The log-probabilities of `token_log_probs`; their backward pass can be run once."""

    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, weight_VD: Tensor, tokens_N: Tensor, temperature: float
    ) -> Tensor:
        final, found_N = Final(states_ND, weight_VD), states_ND.new_empty(len(states_ND), dtype=torch.float32)
        logits_NV = states_ND.new_empty(len(states_ND), final.width)
        for at in blocks(*logits_NV.shape):
            # A product of its own for every block, as `compare` makes it: the same bits, so a ratio of exactly 1.
            logits_nV = final.logits(at, into=logits_NV[at])
            found_N[at] = picked(block_log_probs(logits_nV, temperature), tokens_N[at])
        ctx.save_for_backward(states_ND, weight_VD, tokens_N)
        ctx.logits, ctx.temperature = logits_NV, temperature
        return found_N

    @staticmethod
    def backward(ctx: Any, gradient_N: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        states_ND, weight_VD, tokens_N = ctx.saved_tensors
        logits_NV, ctx.logits = ctx.logits, None
        states_gradient_ND = torch.empty_like(states_ND)
        for at in blocks(*logits_NV.shape):
            # d log p(token) / d logits = (one-hot − probabilities) / temperature, written over the logits.
            scale_n1 = gradient_N[at, None] / ctx.temperature
            wide_nV = scaled(logits_NV[at], ctx.temperature).softmax(-1).mul_(-scale_n1)
            logits_NV[at] = wide_nV.scatter_add_(-1, tokens_N[at, None], scale_n1)
            states_gradient_ND[at] = torch.mm(logits_NV[at], weight_VD)
        learns = ctx.needs_input_grad[1]
        return states_gradient_ND, torch.mm(logits_NV.t(), states_ND) if learns else None, None, None


@torch.no_grad()
def compare(policy: Final, reference: Final, tokens_N: Tensor, temperature: float = 1.0) -> dict[str, Tensor]:
    """Both models' log-probability of each token, and KL and entropy over the whole vocabulary. → each N"""
    found = {name: torch.empty(len(tokens_N), device=tokens_N.device) for name in COMPARED}
    for at in blocks(len(tokens_N), policy.width):
        policy_nV = block_log_probs(policy.logits(at), temperature)
        reference_nV = block_log_probs(reference.logits(at), temperature)
        found["log_prob"][at] = picked(policy_nV, tokens_N[at])
        found["reference"][at] = picked(reference_nV, tokens_N[at])
        probs_nV = policy_nV.exp()
        found["exact_kl"][at] = exact_kl(policy_nV, reference_nV, probs_nV)
        found["entropy"][at] = entropy(policy_nV, probs_nV)
    return found
