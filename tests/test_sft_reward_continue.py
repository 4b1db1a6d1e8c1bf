"""Killed in the middle and started again, the trainings end where the uninterrupted ones do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlaif.stages import dpo, pretrain, reward, sft
from tests.test_arms import run_of
from tests.tiny_models import hand_made_run, preference, prompts_of, response, revision, tiny_policy

STAGES = {
    "pretrain": {"stage": "pretrain", "epochs": 4, "learning_rate": 1e-3, "batch_size": 4, "block_size": 8},
    "sft": {"stage": "sft", "epochs": 4, "learning_rate": 1e-3, "batch_size": 4, "micro_batch": 2},
    "reward": {"stage": "reward", "epochs": 4, "learning_rate": 1e-3, "batch_size": 4},
    "dpo": {"stage": "dpo", "epochs": 4, "learning_rate": 1e-3, "batch_size": 4},
}
CHILD = """
import sys, time
from pathlib import Path
from rlaif.training import loop as training
from tests.test_sft_reward_continue import start
training.SAVE_SECONDS, training.SAVE_SHARE = 0.0, 1e9
step_end = training.CurveCallback.on_step_end
def slow(self, args, state, control, **rest):
    time.sleep(0.1)
    step_end(self, args, state, control, **rest)
training.CurveCallback.on_step_end = slow
start(*sys.argv[1:])
"""


def pretraining(folder: Path, policy: Path):
    """Random weights that are to learn a text."""
    text = policy.with_suffix(".txt")
    text.write_text("tell me about the weather today please now " * 25)
    sizes = {"layers": 1, "width": 16, "inner": 16, "heads": 1}
    return run_of(folder, policy, {**STAGES["pretrain"], "text": str(text), "architecture": sizes}).stages[0]


def on_rows(folder: str, policy: str, name: str):
    """A stage that trains on what earlier stages left it."""
    stage = hand_made_run(Path(folder), Path(policy), STAGES[name], prompts=20)
    for prompt in prompts_of(stage):
        old, new = response(stage, prompt, "rude"), response(stage, prompt, "thanks it is good", 1)
        revision(stage, old, new)
        preference(stage, old, new, 0.2)
    return stage


def start(folder: str, policy: str, name: str):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stage = pretraining(Path(folder), Path(policy)) if name == "pretrain" else on_rows(folder, policy, name)
    {"pretrain": pretrain, "sft": sft, "reward": reward, "dpo": dpo}[name].run(stage)
    torch.set_num_threads(threads)
    return stage


def curve(folder: Path) -> list[dict]:
    (path,) = folder.glob("*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path, name):
    policy = tiny_policy(tmp_path / "policy")
    whole = start(str(tmp_path / "whole"), str(policy), name)
    folder = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(policy), name],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    checkpoints = folder / whole.dir.name / "checkpoints"
    while (
        len(curves := list(folder.glob("*/metrics.jsonl"))) == 0
        or len(curves[0].read_bytes().splitlines()) < 8
    ):
        assert child.poll() is None, child.stderr.read().decode() if child.stderr else ""
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(checkpoints.glob("checkpoint-*/whole"))
    assert len(curve(folder)) < len(curve(tmp_path / "whole"))
    torn = checkpoints / "checkpoint-999"  # as a process killed while writing one leaves it
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    continued = start(str(folder), str(policy), name)
    assert curve(folder) == curve(tmp_path / "whole")
    assert continued.metrics == whole.metrics
    made = "reward_model" if name == "reward" else "policy"
    weights = [(stage.dir / made / "model.safetensors").read_bytes() for stage in (whole, continued)]
    assert weights[0] == weights[1]
    assert not checkpoints.exists()
