"""Checkpoints that are known to be whole, and the model they lead to, after which they are removed.

A checkpoint carries the digests of its files and of the rows written before it. From a damaged one training
is not continued: it goes on from the older one beside it, or from the beginning, and the stage notes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.runs.folder import Stage
from rlaif.runs.storage import digest, find_damage, move_into_place, read_json, sync, sync_and_digest

WHOLE = "whole"  # the file that marks a checkpoint of trl's as written to its end


def seal_checkpoint(folder: Path) -> dict[str, Any]:
    """What a checkpoint rests on, now on disk: its own files, and the rows written so far beside its parent
    folder."""
    journals = sorted(folder.parent.parent.glob("*.jsonl"))
    for path in journals:
        sync(path)
    return {"files": sync_and_digest(folder), "rows": {path.name: digest(path) for path in journals}}


def damage_of_checkpoint(folder: Path, sealed: Mapping[str, Any]) -> list[str]:
    """Why a checkpoint cannot be gone on from, in words: its files, or rows from before it, are not what they
    were."""
    rows = folder.parent.parent
    lost = []
    for name, then in sealed.get("rows", {}).items():
        path = rows / name
        if not path.is_file() or digest(path, then["bytes"])["sha256"] != then["sha256"]:
            lost.append(f"{path}: rows written before {folder.name} are missing or changed")
    return find_damage(folder, sealed.get("files", {})) + lost


def last_checkpoint(stage: Stage) -> Path | None:
    """The stage's last checkpoint that was written to its end and is undamaged."""
    return next((path for path in reversed(_all(stage)) if not _damage(path)), None)


def _all(stage: Stage) -> list[Path]:
    """Its checkpoints, torn ones too, oldest first."""
    found = (stage.dir / "checkpoints").glob("checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _damage(path: Path) -> list[str]:
    """What is wrong with a checkpoint, in words; one that an earlier version marked as whole is believed."""
    mark = path / WHOLE
    if not mark.exists():
        return ["it was not written to its end"]
    try:
        return damage_of_checkpoint(path, read_json(mark)) if mark.stat().st_size else []
    except UserError as error:
        return [error.found]


def remove_damaged(stage: Stage) -> Path | None:
    """The checkpoint to go on from; torn and damaged ones are removed, and what is more than a kill's trace
    is noted."""
    last = last_checkpoint(stage)
    for path in _all(stage):
        why = _damage(path)
        if why and (path / WHOLE).exists():
            stage.notes.append(
                f"{path.name} is damaged ({why[0]}): went on from {last.name if last else 'the beginning'}"
            )
        if why:
            shutil.rmtree(path)
    return last


def train_once(stage: Stage, name: str, train: Callable[[], None]) -> None:
    """Have `train` publish the stage's model folder `name` unless it is there already, then remove its
    checkpoints.

    They are removed in both cases: a kill may have come between the two.
    """
    if not (stage.dir / name).exists():
        train()
    shutil.rmtree(stage.dir / "checkpoints", ignore_errors=True)


def publish(stage: Stage, name: str, write: Callable[[Path], None]) -> None:
    """Have `write` fill the stage's folder `name`, which gets its name once it is complete and on disk."""
    partial, final = stage.dir / f"{name}.partial", stage.dir / name
    for folder in (partial, final):
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir()
    write(partial)
    move_into_place(partial, final)


def write_model(model: Any, tokenizer: Any, folder: Path, like: str | Path | None) -> None:
    """Save model and tokenizer in the dtype of the weights `like` (None: fp32, as training itself is).

    Of several processes the first one writes; where the model is sharded, all of them have to call this.
    """
    import torch

    from rlaif.engines.loading import load_model_config
    from rlaif.rl.ranks import Ranks
    from rlaif.rl.sharding import gather_full

    stored = getattr(load_model_config(like), "dtype", None) if like else None
    ranks = Ranks.current()
    weights = gather_full(model.to(stored or torch.float32).state_dict(keep_vars=True), ranks)
    if ranks.rank == 0:
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
