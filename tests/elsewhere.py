"""A second device for tests on machines that have one: tensors that say they are elsewhere, compute here, and
do not mix.

What runs on a GPU has to put every tensor there itself. Without a GPU tests run it on the device `THERE`,
whose tensors hold their numbers in a tensor on the CPU. An operation on tensors from both sides is refused,
as it is with CUDA; single numbers, copies and indices from here are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

THERE, HERE = torch.device("meta"), torch.device("cpu")
COPIES = ("aten::copy_", "aten::_to_copy", "aten::to")
INDEXED = ("aten::index", "aten::index_put_", "aten::_index_put_impl_")


class Far(Tensor):
    """A tensor on `THERE`; the one that it holds is on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Far:
        with torch.inference_mode(False):
            made = Tensor._make_wrapper_subclass(
                cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=THERE
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation, on what its tensors hold; its results are on the device that it names, or else on
    theirs."""
    leaves, name = tree_leaves((args, kwargs)), func._schema.name
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    named = [x for x in leaves if isinstance(x, torch.device)]
    refuse_mixed(name, args, tensors)
    first = name in (*COPIES, *INDEXED)
    there = (
        named[0] == THERE if named else any(isinstance(x, Far) for x in (tensors[:1] if first else tensors))
    )

    def held(x: Any) -> Any:
        return x.held if isinstance(x, Far) else HERE if isinstance(x, torch.device) else x

    out = func(*tree_map(held, args), **tree_map(held, kwargs))
    known = {
        id(x.held): x for x in tensors if isinstance(x, Far)
    }  # what is changed in place is given back itself

    def far(x: Any) -> Any:
        return known[id(x)] if id(x) in known else Far(x) if there and isinstance(x, Tensor) else x

    return tree_map(far, out)


def refuse_mixed(name: str, args: Any, tensors: list[Tensor]) -> None:
    """Raise where tensors that an operation takes together are not on one device."""
    whole = [x for x in tensors if x.dim() > 0]
    if name in INDEXED:
        indices = [x for x in args[1] if x is not None]
        assert isinstance(args[0], Far) or not any(isinstance(x, Far) for x in indices), (
            f"{name}: indices elsewhere"
        )
        whole = [x for x in whole if not any(x is index for index in indices)]
    mixed = len({isinstance(x, Far) for x in whole}) > 1
    assert not mixed or name in COPIES, f"{name}: {[(x.device.type, tuple(x.shape)) for x in whole]}"


class Operations(TorchDispatchMode):
    """Takes over operations that make tensors on `THERE` from nothing, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """Functions that torch does not break down into operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = torch.device(kwargs.get("device") or "cpu")
        generator = kwargs.get("generator")
        assert generator is None or generator.place == device.type, (
            f"{func}: a generator of {generator.place}"
        )
        if func in (torch.tensor, torch.as_tensor) and device == THERE:
            return func(*args, **{**kwargs, "device": HERE}).to(THERE)
        if func is Tensor.tolist and isinstance(args[0], Far):
            return args[0].held.tolist()
        if func is Tensor.__getitem__ and isinstance(args[0], Far):
            args = args[0], _listed(args[1])
        return func(*args, **kwargs)


def _listed(key: Any) -> Any:
    """An index whose lists are tensors."""
    if isinstance(key, tuple):
        return tuple(map(_listed, key))
    return torch.tensor(key) if isinstance(key, list) else key


class Generator(torch.Generator):
    """Random numbers for a device of either kind, which are the same."""

    place: str

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, HERE)
        made.place = torch.device(device).type
        return made


class Adam(torch.optim.Adam):
    """Without its one kernel for all weights, which is for devices that torch knows."""

    def __init__(self, *args: Any, fused: bool = False, **options: Any) -> None:
        super().__init__(*args, foreach=False, **options)


def matmul(a: Any, b: Any, own: Any = Tensor.__matmul__) -> Any:
    """`a @ b`; torch would change the shape of a row's product in place, of which a `Far` hears nothing."""
    return own(a[None], b)[0] if isinstance(a, Far) and a.dim() == 1 < b.dim() else own(a, b)


@contextmanager
def second_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Within it there is a device beside the CPU: `THERE`."""
    enabled, autocast = torch.is_autocast_enabled, torch.autocast
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.optim, "Adam", Adam)
    monkeypatch.setattr(Tensor, "__matmul__", matmul)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *kind: kind != ("meta",) and enabled(*kind))
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else autocast(kind, *a, **k)
    )
    with Calls(), Operations():
        yield THERE
