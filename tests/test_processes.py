"""A run on two processes (CPU, gloo), as torchrun starts them: written once, done by both, no worse than
one's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from rlaif.errors import UserError
from rlaif.options import GrpoOptions, RlooOptions
from rlaif.report.summary import summarise
from rlaif.runs import processes

ROOT = Path(__file__).parent.parent
SMALL = [
    "threads=1",
    "sample[0].num_prompts=24",
    "sample[1].num_prompts=24",
    "sft.epochs=1",
    "ppo.updates=2",
    "ppo.batch_size=16",
    "ppo.checkpoint_every=1",
]


def test_alone_there_is_nothing_to_wait_for(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes.init_distributed("cpu"):
        assert processes.world_size() == 1
        assert processes.is_rank0()


def test_the_older_fsdp_is_refused_with_what_to_use_instead(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match=r"FSDP 1(?s:.*)fsdp\.yaml"), processes.init_distributed("cpu"):
        pass


def test_fsdp_is_refused_for_a_stage_that_all_do_with_whole_models(monkeypatch):
    stages = [SimpleNamespace(name=name, dir=Path(f"0_{name}")) for name in ("sample", "sft", "other", "ppo")]
    says = {"sft": ("SHARED", "SHARDED"), "other": ("SHARED",), "ppo": ("SHARED", "SHARDED")}
    monkeypatch.setattr(processes, "_declares", lambda stage, what: what in says.get(stage.name, ()))
    processes.check_fsdp(stages)  # one process: nothing to share out
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes.check_fsdp(stages)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"0_other.*FSDP(?s:.*)ddp\.yaml.*--until"):
        processes.check_fsdp(stages)
    processes.check_fsdp([stage for stage in stages if stage.name != "other"])


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "rejection", "ppo"])
def test_stages_that_train_can_be_shared_and_sharded(name):
    stage = SimpleNamespace(name=name)
    assert processes._declares(stage, "SHARED")
    assert processes._declares(stage, "SHARDED")


def launched(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """`rlaif run` of the quickstart on two processes."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        "-m",
        "rlaif.cli",
        "run",
        "configs/quickstart.yaml",
        *words,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.parametrize("found", ["not empty and not a run folder", "no such stage"])
def test_the_first_processs_message_is_the_only_one(tmp_path, found):
    (tmp_path / "note").touch()  # the one mistake is seen by the first process, the other by all
    until = ["--until", "smaple"] if "stage" in found else []
    done = launched("--out", str(tmp_path), *until)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if "Error: " in line and "Child" not in line] == [
        line for line in done.stderr.splitlines() if found in line
    ]
    assert done.stderr.count(found) == 1
    assert done.stderr.count("Traceback") == 1  # torchrun's own
    assert "ChildFailedError" in done.stderr


@pytest.mark.parametrize("kind", [RlooOptions, GrpoOptions])
def test_a_step_that_cannot_be_shared_out_evenly_is_refused_before_anything_runs(monkeypatch, kind):
    (name,) = get_args(kind.model_fields["stage"].annotation)

    def stage(**options):
        made = kind.model_validate({"stage": name, "batch_size": 24, "group_size": 4, **options})
        return SimpleNamespace(name=name, dir=Path(f"7_{name}"), options=made)

    processes.check_even_shares([stage(minibatches=8)])
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes.check_even_shares([stage(minibatches=4), SimpleNamespace(options=None)])
    with pytest.raises(
        UserError, match=rf"7_{name}: 3 responses an optimiser step(?s:.*)-s {name}\.batch_size"
    ):
        processes.check_even_shares([stage(minibatches=4), stage(minibatches=8)])


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}])
def test_two_processes_run_the_loop_and_write_it_once(tmp_path, environment):
    words = ["--out", str(tmp_path / "run"), "--until", "ppo", *(w for o in SMALL for w in ("-s", o))]
    launched(*words, **environment).check_returncode()
    shown = summarise(tmp_path / "run")
    assert [s["status"] for s in shown["stages"]][:8] == ["done"] * 8
    rows = [json.loads(line) for line in (tmp_path / "run" / "08_ppo" / "metrics.jsonl").open()]
    assert [row["update"] for row in rows] == [1, 2]
    assert [row["episodes"] for row in rows] == [16, 32]
    assert [row["ratio_first"] for row in rows] == [1.0, 1.0]
    curve = [json.loads(line) for line in (tmp_path / "run" / "03_sft" / "metrics.jsonl").open()]
    steps = [row["step"] for row in curve if "loss" in row]
    assert steps == sorted(set(steps))
    launched(*words, **environment).check_returncode()  # all done
