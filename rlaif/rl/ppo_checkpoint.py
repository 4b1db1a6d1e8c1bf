"""PPO's state on disk: written beside, then renamed, so a checkpoint that has its name is whole.

The weights that are trained, their average, both optimisers and β; all else follows from the update's number.

Weights are safetensors; optimiser state is a torch file that is read with `weights_only`, so nothing in it
can run. Both are whole, however many processes hold shares of them: the first one writes, and any number of
them can go on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlaif.errors import UserError
from rlaif.rl.checkpoints import damage_of_checkpoint, seal_checkpoint
from rlaif.rl.ppo import PPO
from rlaif.rl.sharding import full_state, gather_full, local_shard, local_state
from rlaif.rl.weights import trainable_weights
from rlaif.runs.storage import move_into_place, read_json, write_json

KEPT = 2
STATE = "state.json"


def save(folder: Path, ppo: PPO, update: int) -> None:
    """Write the checkpoint after `update` into `folder` and remove all but the last two; sharded, all do it
    together."""
    partial, final = folder / "partial", folder / f"{update:06d}"
    if final.exists():
        return
    weights = {name: gather_full(found, ppo.ranks) for name, found in _weights(ppo).items()}
    optimizers = {
        "policy": full_state(ppo.optimizer, ppo.ranks),
        "value": full_state(ppo.value_optimizer, ppo.ranks),
    }
    if ppo.ranks.sharded and ppo.ranks.rank:
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, found in weights.items():
        save_file(found, partial / f"{name}.safetensors")
    torch.save(optimizers, partial / "optimizers.pt")
    write_json(partial / STATE, {"update": update, "kl_coef": ppo.kl.coef, **seal_checkpoint(partial)})
    move_into_place(partial, final)
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is undamaged and whose rows are there, None where there is none."""
    return next((path for path in reversed(_all(folder)) if not damage(path)), None)


def damage(path: Path) -> list[str]:
    """What is wrong with a checkpoint, in words; nothing is known of one that an earlier version wrote."""
    try:
        return damage_of_checkpoint(path, read_json(path / STATE))
    except (UserError, OSError) as error:
        return [str(error).split("\n")[0]]


def resume(folder: Path, ppo: PPO) -> tuple[int, list[str]]:
    """(update that was gone on from, 0 where there is no checkpoint; notes): damaged checkpoints are removed
    and noted."""
    notes = []
    last = latest(folder)
    for path in _all(folder):
        if last is None or path.name > last.name:
            notes.append(
                f"checkpoint {path.name} is damaged ({damage(path)[0]}): "
                f"went on from {'the beginning' if last is None else last.name}"
            )
            shutil.rmtree(path)
    return (load(last, ppo) if last else 0), notes


def load(path: Path, ppo: PPO) -> int:
    """Put a checkpoint's state into `ppo`; → the update it was written after."""
    device = "cpu" if ppo.ranks.sharded else str(ppo.device)
    for name, weights in _weights(ppo).items():
        saved = load_file(path / f"{name}.safetensors", device=device)
        with torch.no_grad():
            for key, weight in weights.items():
                weight.copy_(local_shard(saved[key], weight))
    optimizers = torch.load(path / "optimizers.pt", map_location=device, weights_only=True)
    for name, optimizer in (("policy", ppo.optimizer), ("value", ppo.value_optimizer)):
        optimizer.load_state_dict(local_state(optimizers[name], optimizer))
    state = read_json(path / STATE)
    ppo.kl.coef = state["kl_coef"]
    return int(state["update"])


def _weights(ppo: PPO) -> dict[str, dict[str, Tensor]]:
    found = {"policy": trainable_weights(ppo.policy), "value": trainable_weights(ppo.value)}
    return found | ({"average": ppo.average} if ppo.average else {})


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name.isdigit())
