"""Trainings on two processes (gloo, CPU), whole models or shares of them: the weights and curves of one process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from rlaif.stages import dpo, rejection, reward, sft
from tests.tiny_models import hand_made_run, preference, prompts_of, reply, revision, tiny_policy

ROOT = Path(__file__).parent.parent
CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); from tests.test_training_sharded import main; main(*sys.argv[2:])"
)
RUN = {"sft": sft, "reward": reward, "dpo": dpo, "rejection": rejection}


def length(conversations, texts):
    """Rewards of a rejection stage."""
    return [float(len(text)) for text in texts]


def stage_of(folder: Path, policy: Path, name: str, **options):
    """The stage on 16 prompts of which 4 are held out, its rows written by the first that asks."""
    written = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    more = {"rewards": [{"source": f"{__name__}:length"}]} if name == "rejection" else {"heldout": 0.25}
    last = {"stage": name, "epochs": 2, "learning_rate": 1e-3, "batch_size": 4, **more, **options}
    stage = hand_made_run(folder, policy, last, prompts=16)
    for prompt in () if written else prompts_of(stage):
        old, new = reply(stage, prompt, "rude"), reply(stage, prompt, "thanks it is good", 1)
        revision(stage, old, new)
        preference(stage, old, new, 0.2)
    return stage


def run(stage):
    torch.set_num_threads(1)
    RUN[stage.name].run(stage)
    return stage


def main(folder: str, policy: str, jobs: str) -> None:
    """One of two processes; the second works in copies of the first's folders."""
    dist.init_process_group("gloo")
    first = dist.get_rank() == 0
    for name, options in json.loads(jobs).items():
        mine = Path(folder) / name
        if not first:
            mine = Path(shutil.copytree(mine, Path(folder) / f"{name}-copy", dirs_exist_ok=True))
        dist.barrier()
        run(stage_of(mine, Path(policy), name, **options))
        dist.barrier()
    dist.destroy_process_group()


def run_on_two(folder: Path, policy: Path, sharded: bool, jobs: dict[str, dict]) -> None:
    for name, options in jobs.items():
        stage_of(folder / name, policy, name, **options)
    script = folder / "rank.py"
    script.write_text(CHILD)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": "true" if sharded else "false"}
    done = subprocess.run([*launch, str(ROOT), str(folder), str(policy), json.dumps(jobs)], cwd=ROOT,
                          env=environment, capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr


def curve(stage) -> list[dict]:
    return [json.loads(line) for line in (stage.dir / "metrics.jsonl").read_text().splitlines()]


JOBS = {
    "sft": {"micro_batch": 1},
    "reward": {"members": 2},
    "dpo": {},
    "rejection": {},
}


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_end_where_one_does(tmp_path, sharded):
    policy = tiny_policy(tmp_path / "policy")
    run_on_two(tmp_path, policy, sharded, JOBS)
    for name, options in JOBS.items():
        one = run(stage_of(tmp_path / "one" / name, policy, name, **options))
        two = stage_of(tmp_path / name, policy, name, **options)
        for row, other in zip(curve(one), curve(two), strict=True):
            assert other == pytest.approx(row, rel=1e-4)
        made = "reward_model" if name == "reward" else "policy"
        a, b = (load_file(stage.dir / made / "model.safetensors") for stage in (one, two))
        assert a.keys() == b.keys()
        for key, weight in a.items():
            torch.testing.assert_close(b[key], weight, atol=1e-5, rtol=1e-4)
        for file in ("config.json", "generation_config.json", "calibration.json"):
            print(file)
            if (one.dir / made / file).exists():
                read = [json.loads((stage.dir / made / file).read_text()) for stage in (one, two)]
                if read[0] != read[1]: print(*read)
        assert not list((tmp_path / f"{name}-copy").glob("05*/*/model.safetensors"))
