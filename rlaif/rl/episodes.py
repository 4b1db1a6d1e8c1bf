"""A batch of prompts with their sampled responses, and where in it the response tokens are.

B episodes · L longest prompt + response · R longest response · N response tokens of the batch, flat, row by
row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FORWARD_COST = 256  # tokens of padding that are worth another forward pass


@dataclass(frozen=True)
class Episodes:
    """Prompt and response side by side, padded on the right alone, so positions count from 0 and causality
    masks pads.

    `ids_BL`; lengths `prompt_B` and `response_B` in tokens (the EOS included); `ended_B`: the last token is
    an EOS. Masks come from the lengths, never from token values: a model may sample its own pad token.
    `behaviour_BR`: the sampler's own log-probability of each response token, where it is known. `final_BRD`:
    the policy's last hidden state that each was drawn from, where it was kept.
    """

    ids_BL: Tensor
    prompt_B: Tensor
    response_B: Tensor
    ended_B: Tensor
    behaviour_BR: Tensor | None = None
    final_BRD: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids_BL)

    @property
    def length_B(self) -> Tensor:
        """Tokens of prompt and response together."""
        return self.prompt_B + self.response_B

    @property
    def mask_BR(self) -> Tensor:
        """True at real response positions."""
        return length_mask(self.response_B)

    def select(self, rows: Tensor) -> Episodes:
        """Some of the episodes, trimmed to the longest of them."""
        length, steps = int(self.length_B[rows].max()), int(self.response_B[rows].max())
        behaviour, final = (
            None if x is None else x[rows, :steps] for x in (self.behaviour_BR, self.final_BRD)
        )
        return Episodes(
            self.ids_BL[rows, :length],
            self.prompt_B[rows],
            self.response_B[rows],
            self.ended_B[rows],
            behaviour,
            final,
        )

    def states(self, count_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(row, column) of the position before each response token, where it is predicted and valued. → N, N

        `count_B` asks for that many positions of each episode; one more than it has tokens is the one after
        its last.
        """
        rows_N, steps_N = length_mask(self.response_B if count_B is None else count_B).nonzero(as_tuple=True)
        return rows_N, self.prompt_B[rows_N] - 1 + steps_N

    def tokens(self) -> Tensor:
        """The response tokens, flat. → N"""
        rows_N, columns_N = self.states()
        return self.ids_BL[rows_N, columns_N + 1]

    def responses(self) -> list[list[int]]:
        """Each episode's response tokens."""
        starts, ends = self.prompt_B.tolist(), self.length_B.tolist()
        return [row[start:end] for row, start, end in zip(self.ids_BL.tolist(), starts, ends, strict=True)]


def length_mask(count_B: Tensor, width: int | None = None) -> Tensor:
    """True at the first `count_B` steps of each row. → B × `width`, omitted: the largest count"""
    return (
        torch.arange(int(count_B.max()) if width is None else width, device=count_B.device) < count_B[:, None]
    )


def join(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    ended_B: Tensor,
    pad: int,
    behaviour_BR: Tensor | None = None,
    final_BRD: Tensor | None = None,
) -> Episodes:
    """Token lists as one batch on the device of `ended_B`."""
    both = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    width = max(map(len, both))
    device = ended_B.device
    return Episodes(
        torch.tensor([row + [pad] * (width - len(row)) for row in both], device=device),
        torch.tensor([len(p) for p in prompts], device=device),
        torch.tensor([len(r) for r in responses], device=device),
        ended_B,
        behaviour_BR,
        final_BRD,
    )


def micro_batches(rows: Tensor, length_B: Tensor, limit: int) -> list[Tensor]:
    """The rows in groups of at most `limit`, of similar length, that cost least in padding and forward
    passes.

    Sorted by length, the best cuts are found by going through the rows once, each time over the last `limit`
    cuts.
    """
    ordered = rows[length_B[rows].argsort(stable=True)]
    lengths = length_B[ordered].tolist()
    cost, cut = [0], [0]  # of the first n rows: least cost, and where its last group starts
    for end, longest in enumerate(lengths, 1):
        starts = range(max(0, end - limit), end)
        best = min(starts, key=lambda start: cost[start] - longest * start)
        cost.append(cost[best] + longest * (end - best) + FORWARD_COST)
        cut.append(best)
    groups, end = [], len(lengths)
    while end:
        groups.append(ordered[cut[end] : end])
        end = cut[end]
    return groups[::-1]


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the policy reads it, and whatever the reward function wants to know of it."""

    ids: list[int]
    source: Any = None


def flat_states(rows: Tensor, count_B: Tensor, *whole: Tensor) -> tuple[Tensor, ...]:
    """The first `count_B` entries of some rows, in the order of `Episodes.states`. → each N"""
    row_N, step_N = length_mask(count_B).nonzero(as_tuple=True)
    return tuple(x[rows[row_N], step_N] for x in whole)
