"""Models cut up among the processes by torch's FSDP2: each holds its share of every weight, its gradient and its moments.

The weights of a decoder layer are put together where the layer is used, all others where the model is. All processes
do that at once, so they have to make the same passes, forth and back, in the same order. Gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from rlaif.rl.ranks import Ranks

T = TypeVar("T")


@torch.no_grad()
def cut(model: Any, ranks: Ranks) -> Any:
    """The transformers model, cut up in place where `ranks` are sharded: each decoder layer, then what is left."""
    if not ranks.sharded:
        return model
    mesh = init_device_mesh(model.device.type, (ranks.count,))
    kinds = set(model._no_split_modules or ())
    for layer in [module for module in model.modules() if type(module).__name__ in kinds]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for part in _parts(model):
        # The losses of micro-batches are shares of the whole batch's; and gloo has nothing but sums.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    model.within = lambda work: work()
    register_fsdp_forward_method(model, "within")
    model.within(lambda: None)  # the first pass decides which module is the root
    return model


def is_cut(model: Any) -> bool:
    """Whether the model's weights are cut up."""
    return isinstance(model, FSDPModule)


def within(model: Any, work: Callable[[], T]) -> T:
    """`work()` as a forward pass of the model: what is cut up is whole in it, and learns from the tensors it returns."""
    return model.within(work) if is_cut(model) else work()


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """All weights on every process, for passes that learn nothing and of which the processes make different numbers."""
    parts = _parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from all processes' shares; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collected(tensors: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The tensors as they are; of sharded ones all of each, on the first process and in its main memory."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach()).contiguous()
        if not ranks.sharded:
            found[name] = full
        elif ranks.rank == 0:
            found[name] = full.cpu()
    return found


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor that all have, cut as `like` is; all of it where that is whole."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _parts(model: Any) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)] if is_cut(model) else []
