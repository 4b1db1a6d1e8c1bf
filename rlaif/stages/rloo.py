"""rloo: REINFORCE with the mean reward of a prompt's other responses as baseline (arXiv 2402.14740), by trl.

The KL to the starting policy is taken off the reward, −β·Σ log π/π_ref, as in PPO. There is no value model, a
whole response is one action, and its ratio is clipped as one.
"""

from __future__ import annotations

from rlaif.options import RlooOptions
from rlaif.runs.folder import Stage

SHARED = True  # several processes can do it together


def run(stage: Stage[RlooOptions]) -> None:
    """Write policy/, metrics.jsonl (one row an update) and samples.jsonl."""
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    from rlaif.training.groups import train_in_groups

    train_in_groups(stage, RLOOTrainer, RLOOConfig)
