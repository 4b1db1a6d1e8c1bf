"""PPO on several processes: samples and micro-batches are divided among them, and gradients summed.

What is sampled and measured is gathered on every process, so whitening, token counts, KL and metrics are
those of the whole batch without a formula knowing of it; gradients are added before they are clipped. The
processes thus hold the same weights after every step, or shards of them (`rlaif.rl.sharding`), and a single
process runs the same code with nothing to sum.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rlaif.rl.episodes import Episodes, join

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's number among `count`; `sharded`: each holds its share of the models and not all of
    them."""

    rank: int = 0
    count: int = 1
    sharded: bool = False

    @classmethod
    def current(cls) -> Ranks:
        """The processes of the default group, sharded where the launch asks for it, or one alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), os.environ.get("ACCELERATE_USE_FSDP") == "true")

    def own_share(self, items: Any) -> Any:
        """Every `count`-th item of a list or tensor, from this process's on; no two processes have one in
        common."""
        return items[self.rank :: self.count]

    def padding(self, items: Sequence[T]) -> Sequence[T]:
        """Where all have to make as many passes: the items that this process runs without effect while others
        have one more."""
        longest = -(-len(items) // self.count)
        return items[: longest - len(self.own_share(items))] if self.sharded else ()

    def all_reduce(self, *tensors: Tensor) -> None:
        """Each tensor becomes the sum of all processes' ones, the same to the last bit everywhere."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def gather(self, items: Sequence[T]) -> list[T]:
        """What each process has of a list that `own_share` has divided, in the list's order again."""
        if self.count == 1:
            return list(items)
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, list(items))
        longest = max(map(len, parts))
        return [part[i] for i in range(longest) for part in parts if i < len(part)]

    def on_rank0(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, sent to all others."""
        if self.count == 1:
            return make()
        made: list[Any] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(made, src=0)
        return made[0]

    def all_reduce_gradients(self, weights: Iterable[Tensor]) -> None:
        """The gradients of all processes' micro-batches together; a process may have had none.

        Those of sharded weights have been added up in the backward pass.
        """
        if self.count > 1 and not self.sharded:
            for weight in weights:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                self.all_reduce(weight.grad)


SINGLE_PROCESS = Ranks()


def gather_episodes(ranks: Ranks, prompts: Sequence[Sequence[int]], mine: Episodes, pad: int) -> Episodes:
    """The episodes of the whole batch, in the order of its prompts, from every process's share."""
    if ranks.count == 1:
        return mine
    log_prob_BR = torch.zeros(mine.mask_BR.shape) if mine.behaviour_BR is None else mine.behaviour_BR
    rows = ranks.gather(list(zip(mine.responses(), mine.ended_B.tolist(), log_prob_BR.tolist(), strict=True)))
    responses, ended, log_probs = zip(*rows, strict=True)
    width, device = max(map(len, responses)), mine.ids_BL.device
    behaviour = [[*row, *[0.0] * width][:width] for row in log_probs]
    return join(
        prompts, responses, torch.tensor(ended, device=device), pad, torch.tensor(behaviour, device=device)
    )
