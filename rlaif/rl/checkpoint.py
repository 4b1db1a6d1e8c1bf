"""PPO's state on disk: written beside, then renamed, so a checkpoint that has its name is whole.

The weights that are trained, their average, both optimisers and β; all else follows from the update's number.

Weights are safetensors; optimiser state is a torch file that is read with `weights_only`, so nothing in it can run.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlaif.rl.ppo import PPO, trained

KEPT = 2


def save(folder: Path, ppo: PPO, update: int) -> None:
    """Write the checkpoint after `update` into `folder` and remove all but the last two."""
    partial, final = folder / "partial", folder / f"{update:06d}"
    if final.exists():
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, weights in _weights(ppo).items():
        save_file(
            {key: weight.detach().contiguous() for key, weight in weights.items()},
            partial / f"{name}.safetensors",
        )
    optimizers = {"policy": ppo.optimizer.state_dict(), "value": ppo.value_optimizer.state_dict()}
    torch.save(optimizers, partial / "optimizers.pt")
    (partial / "state.json").write_text(json.dumps({"update": update, "kl_coef": ppo.kl.coef}))
    os.replace(partial, final)
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, None where there is none."""
    return next(reversed(_all(folder)), None)


def load(path: Path, ppo: PPO) -> int:
    """Put a checkpoint's state into `ppo`; → the update it was written after."""
    device = str(ppo.device)
    for name, weights in _weights(ppo).items():
        saved = load_file(path / f"{name}.safetensors", device=device)
        with torch.no_grad():
            for key, weight in weights.items():
                weight.copy_(saved[key])
    optimizers = torch.load(path / "optimizers.pt", map_location=device, weights_only=True)
    ppo.optimizer.load_state_dict(optimizers["policy"])
    ppo.value_optimizer.load_state_dict(optimizers["value"])
    state = json.loads((path / "state.json").read_text())
    ppo.kl.coef = state["kl_coef"]
    return int(state["update"])


def _weights(ppo: PPO) -> dict[str, dict[str, Tensor]]:
    found = {"policy": trained(ppo.policy), "value": trained(ppo.value)}
    return found | ({"average": ppo.average} if ppo.average else {})


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name.isdigit())
