"""Pre-training text beside PPO's episodes, so that the policy does not forget (arXiv 2203.02155, appendix
C.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlaif.rl.episodes import Episodes, join
from rlaif.runs.seeds import in_rounds


@dataclass(frozen=True)
class Pretraining:
    """Blocks of tokens, each of at least two, and how many go into an optimiser step with what weight."""

    blocks: Sequence[list[int]]
    size: int
    coef: float
    seed: int

    def parts(self, step: int, micro_batch: int, device: torch.device) -> list[Episodes]:
        """The blocks of the `step`-th optimiser step in micro-batches: a block's first token as prompt, the
        others as response."""
        drawn = in_rounds(self.blocks, step, self.size, self.seed)
        cut = [drawn[at : at + micro_batch] for at in range(0, len(drawn), micro_batch)]
        return [
            join(
                [b[:1] for b in part],
                [b[1:] for b in part],
                torch.ones(len(part), dtype=torch.bool, device=device),
                0,
            )
            for part in cut
        ]
