"""The weights that training changes, and their moving average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def trainable_weights(model: Any) -> dict[str, Tensor]:
    """The weights that training changes, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def use_average(model: Any, average: dict[str, Tensor]) -> None:
    """Put the average of the weights, where one is kept, in their place."""
    weights = trainable_weights(model)
    for name, mean in average.items():
        weights[name].copy_(mean)


@torch.no_grad()
def update_average(model: Any, average: dict[str, Tensor], decay: float) -> None:
    """Move the average of the weights, where one is kept, towards them by 1 − `decay`."""
    weights = trainable_weights(model)
    for name, mean in average.items():
        mean.lerp_(weights[name], 1 - decay)
