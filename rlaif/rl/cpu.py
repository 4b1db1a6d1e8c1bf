"""Faster PPO on a CPU: freed memory is kept, and fp32 linear layers run in oneDNN."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 2**30  # bytes of a tensor that need not come fresh from the system

WIDE = 256  # hidden units from which a model's products outweigh Python's part in passing them on

_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_PACK: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU let glibc keep what tensors give back: pages fresh from the system take a tenth of an update's
    time."""
    here = sys.platform == "linux" and device.type == "cpu"
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if here else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def working_dtype(x: Tensor) -> torch.dtype:
    """What products with `x` are computed in here: autocast's dtype, or its own where that is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def to_working_dtype(x: Tensor) -> Tensor:
    """In its `working_dtype`."""
    return x.to(working_dtype(x))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN lays out and multiplies weights of this dtype on this processor."""
    if _ONEDNN is None or _PACK is None:
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def by_torch(x: Tensor, weight_VD: Tensor) -> bool:
    """Whether `product` leaves the choice to torch."""
    return _ONEDNN is None or x.dtype != torch.float32 or weight_VD.dtype != x.dtype or x.device.type != "cpu"


def product(x: Tensor, weight_VD: Tensor) -> Tensor:
    """`x @ weight_VD.T`; fp32 on a CPU by oneDNN, which is faster there than torch's choice. → … × V"""
    if _ONEDNN is None or by_torch(x, weight_VD):
        return F.linear(x, weight_VD)
    if torch.is_grad_enabled() and (x.requires_grad or weight_VD.requires_grad):
        found: Any = _Product.apply(x, weight_VD)
        return found
    return _ONEDNN(x, weight_VD, None, "none", [], "")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_VD)
        return product(x, weight_VD)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight_VD = ctx.saved_tensors
        learns_x, learns_weight = ctx.needs_input_grad
        rows_NV = gradient.flatten(0, -2)
        return (
            gradient @ weight_VD if learns_x else None,
            rows_NV.t() @ x.flatten(0, -2) if learns_weight else None,
        )


def linear_layers(model: Any) -> AbstractContextManager[Any]:
    """Within it linear layers are computed by `product`, where `model` is on a CPU and gains by it."""
    wide = model.config.get_text_config().hidden_size >= WIDE
    return LinearLayers() if model.device.type == "cpu" and wide else nullcontext()


class LinearLayers(TorchFunctionMode):
    """Within it a model's linear layers without a bias are computed by `product`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch.overrides; called for every function of torch."""
        if func is F.linear and not kwargs and (len(args) == 2 or args[2] is None):
            return product(*args[:2])
        return func(*args, **(kwargs or {}))


class PackedLayers:
    """Calls linear layers, without gradients, whose weights stay as they are as long as this does.

    On a CPU each is laid out once as oneDNN multiplies it, and not for every product: with a few rows that is
    a quarter.
    """

    def __init__(self) -> None:
        self.kept: dict[Any, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, layer: Any, x: Tensor) -> Tensor:
        """What `layer(x)` gives."""
        plain = type(layer) is torch.nn.Linear and x.device.type == "cpu"
        if not plain or not can_pack(working_dtype(x)):
            return layer(x)
        x = to_working_dtype(x)
        if layer not in self.kept:
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            self.kept[layer] = _PACK(layer.weight.to(x.dtype), len(x)), bias
        weight, bias = self.kept[layer]
        return _ONEDNN(x, weight, bias, "none", [], "")
