"""grpo: rewards standardised within a prompt's responses in place of advantages (arXiv 2402.03300), by trl.

The KL to the starting policy is a term of the loss (k3), not of the reward. Loss normalisation is trl's
default; with `scale_rewards` none the rewards are only centred (Dr. GRPO, arXiv 2503.20783).
"""

from __future__ import annotations

from rlaif.options import GrpoOptions
from rlaif.runs.folder import Stage

SHARED = True  # several processes can do it together


def run(stage: Stage[GrpoOptions]) -> None:
    """Write policy/, metrics.jsonl (one row an update) and samples.jsonl."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from rlaif.training.groups import train_in_groups

    train_in_groups(stage, GRPOTrainer, GRPOConfig, scale_rewards=stage.options.scale_rewards)
