"""Models sharded among the processes by torch's FSDP2: each holds its shard of every weight, gradient and
moment.

The weights of a decoder layer are put together where the layer is used, all others where the model is. All
processes do that at once, so they have to make the same passes, forth and back, in the same order.
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
def shard(model: Any, ranks: Ranks, divisor: float = 1.0) -> Any:
    """The transformers model, sharded in place where `ranks` are: each decoder layer, then what is left.

    Gradients are added up and divided by `divisor`: 1 where losses are shares of the whole batch's, the
    number of processes where each loss is a mean of its own.
    """
    if not ranks.sharded:
        return model
    mesh = init_device_mesh(model.device.type, (ranks.count,))
    kinds = set(model._no_split_modules or ())
    for layer in [module for module in model.modules() if type(module).__name__ in kinds]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for part in _parts(model):
        part.set_gradient_divide_factor(divisor)
        part.set_force_sum_reduction_for_comms(True)  # gloo has nothing but sums
    model.run_in_forward = lambda work: work()
    register_fsdp_forward_method(model, "run_in_forward")
    model.run_in_forward(lambda: None)  # the first pass decides which module is the root
    return model


def is_sharded(model: Any) -> bool:
    """Whether the model's weights are sharded."""
    return isinstance(model, FSDPModule)


def run_in_forward(model: Any, work: Callable[[], T]) -> T:
    """`work()` as a forward pass of the model: shards are gathered for it, and gradients flow from what it
    returns."""
    return model.run_in_forward(work) if is_sharded(model) else work()


@contextmanager
def unsharded(model: Any) -> Iterator[None]:
    """All weights on every process, for passes without gradients, of which each process may make another
    number."""
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


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_full(tensors: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The tensors as they are; of sharded ones all of each, on the first process and in its main memory.

    One that has two names is still one.
    """
    found: dict[int, Tensor] = {}
    for tensor in {id(tensor): tensor for tensor in tensors.values()}.values():
        full = full_tensor(tensor.detach()).contiguous()
        if not ranks.sharded:
            found[id(tensor)] = full
        elif ranks.rank == 0:
            found[id(tensor)] = full.cpu()
    return {name: found[id(tensor)] for name, tensor in tensors.items() if id(tensor) in found}


def local_shard(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a full tensor that all have, sharded as `like` is; all of it where that is
    not."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def full_state(optimizer: Any, ranks: Ranks) -> dict[str, Any]:
    """The optimiser's state with full tensors; where it is sharded, all processes have to call this and rank
    0 gets it."""
    state = optimizer.state_dict()
    return {**state, "state": {n: gather_full(entry, ranks) for n, entry in state["state"].items()}}


def local_state(saved: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """This process's shards of a state with full tensors."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    shares = {
        n: {key: local_shard(x, weights[n]) for key, x in entry.items()}
        for n, entry in saved["state"].items()
    }
    return {**saved, "state": shares}


def _parts(model: Any) -> list[FSDPModule]:
    return (
        [module for module in model.modules() if isinstance(module, FSDPModule)] if is_sharded(model) else []
    )
