"""The ppo stage on two processes that share the weights out (FSDP2 on gloo, CPU): saved whole, continued by
any number."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from rlaif.errors import UserError
from rlaif.rl import forward
from rlaif.rl import ppo_checkpoint as checkpoint
from rlaif.rl.ranks import Ranks
from rlaif.runs.folder import Stage
from rlaif.stages import ppo
from tests.launching import on_two
from tests.test_ppo_stage import rows_of, run_on_one_thread, stage_of
from tests.tiny_models import few_reference_samples, tiny_policy


def train_and_keep_checkpoints(stage: Stage, name: str, train: Callable[[], None]) -> None:
    """In the place of `train_once`: a stage that is published already goes on, as its options now say."""
    train()


def main(folder: str, policy: str, options: str) -> None:
    """One of two processes; each works in a folder of its own, the second one's is a copy of the first's."""
    dist.init_process_group("gloo")
    forward.LARGE = 0  # activations are recomputed
    ppo.train_once = train_and_keep_checkpoints
    first = Ranks.current().rank == 0
    torch.set_num_threads(1)
    if first:
        stage_of(Path(folder), Path(policy))
    dist.barrier()
    mine = Path(folder) if first else Path(shutil.copytree(folder, f"{folder}-copy", dirs_exist_ok=True))
    dist.barrier()
    with few_reference_samples():
        ppo.run(stage_of(mine, Path(policy), **json.loads(options)))
    dist.barrier()
    dist.destroy_process_group()


def run_on_two(folder: Path, policy: Path, options: dict) -> None:
    done = on_two(folder.parent, __name__, str(folder), str(policy), json.dumps(options), sharded=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sharded_and_continued_it_ends_where_one_process_does(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "train_once", train_and_keep_checkpoints)
    policy = tiny_policy(tmp_path / "policy")
    (tmp_path / "text.txt").write_text("the weather today is good and warm " * 20)
    options = {
        "checkpoint_every": 1,
        "epochs": 2,
        "micro_batch": 3,
        "ema_decay": 0.9,
        "kl_target": 0.05,
        "warmup": 0,
        "ptx": {"file": str(tmp_path / "text.txt"), "batch_size": 3, "block_size": 16, "coef": 0.1},
    }
    whole = run_on_one_thread(stage_of(tmp_path / "whole", policy, updates=5, **options))
    folder = tmp_path / "sharded"
    run_on_two(folder, policy, {**options, "updates": 1})
    for updates in (3, 5):  # continued by two, then by one
        if updates == 3:
            run_on_two(folder, policy, {**options, "updates": updates})
        else:
            run_on_one_thread(stage_of(folder, policy, updates=updates, **options))
    stage = stage_of(folder, policy, updates=5, **options)
    for one, other in zip(rows_of(whole), rows_of(stage), strict=True):
        for row in (one, other):  # a source's own mean is of the process's share
            del row["score/reward_model"]
        assert other.pop("alarms", None) == one.pop("alarms", None)
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    last = [checkpoint.latest(s.dir / "checkpoints") for s in (whole, stage)]
    for name in (
        "policy/model",
        *(f"checkpoints/{last[0].name}/{n}" for n in ("policy", "value", "average")),
    ):
        one, other = (load_file(s.dir / f"{name}.safetensors") for s in (whole, stage))
        assert one.keys() == other.keys()
        for key, weight in one.items():
            torch.testing.assert_close(other[key], weight, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_sharded_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Ranks, "current", classmethod(lambda cls: Ranks(0, 2, sharded=True)))
    policy = tiny_policy(tmp_path / "policy")
    with pytest.raises(UserError, match=r"FSDP.*shared_trunk_vf_coef(?s:.*)ddp\.yaml"):
        ppo.run(stage_of(tmp_path / "run", policy, shared_trunk_vf_coef=0.1))
