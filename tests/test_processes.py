"""A run on two processes (CPU, gloo), as torchrun starts them: written once, done by both, no worse than one's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlaif import processes
from rlaif.comparing.summary import summarise
from rlaif.errors import UserError
from rlaif.options import Grpo, Rloo

ROOT = Path(__file__).parent.parent
SMALL = ["threads=1", "sample[0].prompts=24", "sample[1].prompts=24", "sft.epochs=1", "ppo.updates=2",
         "ppo.batch_size=16", "ppo.checkpoint_every=1"]  # fmt: skip


def test_alone_there_is_nothing_to_wait_for(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes.company("cpu"):
        assert processes.count() == 1
        assert processes.is_first()


def test_the_older_fsdp_is_refused_with_what_to_use_instead(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match=r"FSDP 1(?s:.*)fsdp\.yaml"), processes.company("cpu"):
        pass


def test_fsdp_is_refused_for_stages_that_hold_whole_models(monkeypatch):
    stages = {
        name: SimpleNamespace(name=name, dir=Path(f"0_{name}")) for name in ("sample", "sft", "reward", "ppo")
    }
    processes.suit(stages.values())  # one process: nothing to share out
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes.suit(stages.values())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"0_sft.*FSDP(?s:.*)ddp\.yaml and --until reward"):
        processes.suit(stages.values())
    processes.suit([stages["sample"], stages["ppo"], stages["sft"]])  # sft is refused when it is reached


@pytest.mark.parametrize("kind", [Rloo, Grpo])
def test_a_step_that_cannot_be_shared_out_evenly_is_refused_before_anything_runs(monkeypatch, kind):
    name = kind.__name__.lower()

    def stage(**options):
        made = kind.model_validate({"stage": name, "batch_size": 24, "group": 4, **options})
        return SimpleNamespace(name=name, dir=Path(f"7_{name}"), options=made)

    processes.share_evenly([stage(minibatches=8)])
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes.share_evenly([stage(minibatches=4), SimpleNamespace(options=None)])
    with pytest.raises(
        UserError, match=rf"7_{name}: 3 responses an optimiser step(?s:.*)-s {name}\.batch_size"
    ):
        processes.share_evenly([stage(minibatches=4), stage(minibatches=8)])


@pytest.mark.slow
def test_two_processes_run_the_loop_and_write_it_once(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "rlaif.cli",
               "run", "configs/quickstart.yaml", "--out", str(tmp_path / "run"), "--until", "ppo"]  # fmt: skip
    command += [word for override in SMALL for word in ("-s", override)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment, stderr=subprocess.DEVNULL, timeout=900)
    shown = summarise(tmp_path / "run")
    assert [s["status"] for s in shown["stages"]][:8] == ["done"] * 8
    rows = [json.loads(line) for line in (tmp_path / "run" / "08_ppo" / "metrics.jsonl").open()]
    assert [row["update"] for row in rows] == [1, 2]
    assert [row["episodes"] for row in rows] == [16, 32]
    assert [row["ratio_first"] for row in rows] == [1.0, 1.0]
    curve = [json.loads(line) for line in (tmp_path / "run" / "03_sft" / "metrics.jsonl").open()]
    steps = [row["step"] for row in curve if "loss" in row]
    assert steps == sorted(set(steps))
    subprocess.run(
        command, cwd=ROOT, check=True, env=environment, stderr=subprocess.DEVNULL, timeout=900
    )  # all done
