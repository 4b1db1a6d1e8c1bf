"""A run killed twenty times at random moments ends as the unharmed one, to the last bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlaif.rl import ppo_checkpoint as checkpoint
from tests.test_ppo_stage import rows_of, run_on_one_thread, stage_of
from tests.tiny_models import tiny_policy

UPDATES, KILLS = 40, 20
CHILD = """
import json, sys
from pathlib import Path
from tests.test_ppo_stage import run_on_one_thread, stage_of
run_on_one_thread(stage_of(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3])))
"""


def started(folder: Path, policy: Path, options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(policy), options],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def updates_done(folder: Path) -> int:
    path = folder / "02_ppo" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_moments_leave_no_trace(tmp_path):
    policy = tiny_policy(tmp_path / "policy")
    (tmp_path / "text.txt").write_text("the weather today is good and warm " * 20)
    options = {
        "updates": UPDATES,
        "checkpoint_every": 1,
        "ema_decay": 0.9,
        "kl_target": 0.05,
        "epochs": 2,
        "kl_estimator": "k3",
        "ptx": {"file": str(tmp_path / "text.txt"), "batch_size": 2, "block_size": 16, "coef": 0.1},
    }
    whole = run_on_one_thread(stage_of(tmp_path / "whole", policy, **options))
    folder, moments = tmp_path / "killed", random.Random(0)
    stage_of(folder, policy, **options)  # its reward model, as the child would make it
    for _ in range(KILLS):
        child = started(folder, policy, json.dumps(options))
        before = updates_done(folder)
        if moments.random() < 0.2:  # while it is still opening its models
            time.sleep(moments.random() * 3)
        else:
            while updates_done(folder) <= before:
                assert child.poll() is None, child.stderr.read().decode() if child.stderr else ""
                time.sleep(0.005)
            time.sleep(moments.random() * 0.1)  # anywhere in the next update or its checkpoint
        child.send_signal(signal.SIGKILL)
        child.wait()
        last = checkpoint.latest(folder / "02_ppo" / "checkpoints")
        assert (int(last.name) if last else 0) >= updates_done(folder) - 1  # one update is lost at most
    assert updates_done(folder) < UPDATES, "it was done before the last kill"
    child = started(folder, policy, json.dumps(options))
    _, errors = child.communicate()
    assert child.returncode == 0, errors.decode()
    again = stage_of(folder, policy, **options)
    assert rows_of(again) == rows_of(whole)
    assert rows_of(again, "samples") == rows_of(whole, "samples")
    weights = [(stage.dir / "policy" / "model.safetensors").read_bytes() for stage in (whole, again)]
    assert weights[0] == weights[1]
