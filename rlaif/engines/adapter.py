"""A LoRA adapter (arXiv 2106.09685) on a loaded model, while that is asked about a pair.

The weights and their names are those of peft, which trains them (`rl.lora`). Forward hooks add what peft's
own layers would: nothing of it stays in the model, whose other questions are answered without, and who only
uses an adapter needs no peft.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

PREFIX, LOW, HIGH = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@contextmanager
def adapted(model: Any, weights: Mapping[str, NDArray[np.float32]], alpha: float) -> Iterator[None]:
    """The model with an adapter: lora_A [r, in] and lora_B [out, r] beside each layer that is named."""
    with ExitStack() as hooks:
        for name, low in weights.items():
            if name.endswith(LOW):
                layer = model.get_submodule(name.removeprefix(PREFIX).removesuffix(LOW))
                high = weights[name.removesuffix(LOW) + HIGH]
                a, b = (torch.from_numpy(x).to(layer.weight.device) for x in (low, high))
                hook = layer.register_forward_hook(partial(_add, a, b, alpha / len(low)))
                hooks.callback(hook.remove)
        yield


def _add(a: Tensor, b: Tensor, scale: float, layer: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    """A layer's output [..., out] with the adapter's added, in the adapter's number format meanwhile."""
    return (out + linear(linear(given[0].to(a.dtype), a), b) * scale).to(out.dtype)
