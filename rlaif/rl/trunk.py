"""A value head on the policy's own trunk: less memory, and another algorithm, for the value loss then moves
the policy."""

from __future__ import annotations

from typing import Any

import torch


class SharedTrunk(torch.nn.Module):
    """What PPO takes for a value model: a `score` of its own, starting at 0, on the trunk of `policy`."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self._policy = (policy,)  # a tuple, so that its weights do not count as this module's
        self.score = torch.nn.Linear(policy.config.get_text_config().hidden_size, 1, device=policy.device)
        for parameter in self.score.parameters():
            torch.nn.init.zeros_(parameter)

    @property
    def base_model(self) -> Any:
        """The policy's trunk."""
        return self._policy[0].base_model
