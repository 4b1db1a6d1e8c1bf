"""RLOO and GRPO on two processes (gloo, CPU): trl trains on both, and what is written is of the whole batch,
once."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlaif.runs import processes
from rlaif.runs.folder import Run
from rlaif.training import rewards
from tests.launching import on_two
from tests.test_groups import SMALL, curve, run_of
from tests.tiny_models import tiny_policy

KILLED = 3  # updates before the first launch is killed, where it is


def main(folder: str, killed: str) -> None:
    """One of two processes of a run whose only stage is in the folder's config; in the second one rewards are
    noted."""
    from rlaif.training import loop as training

    torch.set_num_threads(1)
    rewards.REFERENCE_SAMPLES = 16
    training.SAVE_SECONDS, training.SAVE_SHARE = 0.0, 1e9
    _note_scores(Path(folder).parent / f"scores-{os.environ['RANK']}.jsonl")
    if killed == "yes":
        _die_after(KILLED)
    with processes.init_distributed("cpu"):
        if not processes.is_rank0():
            processes.worker_loop(Path(folder))
            return
        stage = Run.load(Path(folder)).stages[0]
        processes.check_even_shares([stage])
        stage.begin()
        with processes.join_stage(stage):
            processes.module(stage).run(stage)
        stage.save("done")


def _note_scores(path: Path) -> None:
    """Keep what each process scored on its own."""
    from rlaif.training import groups

    keep = groups.Scorer._keep

    def noted(self, share):
        keep(self, share)
        with path.open("a") as file:
            file.write(json.dumps([row["score"] for _, _, row in share]) + "\n")

    groups.Scorer._keep = noted


def _die_after(updates: int) -> None:
    from rlaif.training import groups

    begin = groups.GroupTrainer._generate_and_score_completions

    def dying(self, inputs):
        if self.state.global_step >= updates * SMALL["minibatches"]:
            os._exit(9)
        return begin(self, inputs)

    groups.GroupTrainer._generate_and_score_completions = dying


def launch(folder: Path, killed: str = "no") -> int:
    done = on_two(folder.parent, __name__, str(folder), killed)
    assert killed == "yes" or done.returncode == 0, done.stderr
    return done.returncode


def prepared(folder: Path, policy: Path, name: str, **options) -> Path:
    own = {
        "stage": name,
        "rewards": [{"source": "tests.test_groups:characters"}],
        **SMALL,
        "micro_batch": 2,
        **options,
    }
    folder.parent.mkdir()
    return run_of(folder, policy, own, prompts=48).path


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.mark.parametrize("name", ["rloo", pytest.param("grpo", marks=pytest.mark.slow)])
def test_both_train_and_one_writes(tmp_path, policy, name):
    # Nine held-out prompts: a part for both processes and one that is too small to be shared out.
    folder = prepared(
        tmp_path / "two" / "run", policy, name, num_watched_prompts=9, judge_watched_prompts=True
    )
    launch(folder)
    rows, samples = curve(folder), curve(folder, "samples")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert [row["update"] for row in samples] == [1] * 4 + [2] * 4 + [4] * 4
    shares = [
        [json.loads(line) for line in (folder.parent / f"scores-{rank}.jsonl").open()] for rank in (0, 1)
    ]
    for row, *halves in zip(rows, *shares, strict=True):
        assert [len(half) for half in halves] == [4, 4]
        assert halves[0] != halves[1]
        assert row["score"] == pytest.approx(sum(halves[0] + halves[1]) / 8)
    assert rows[0]["exact_kl"] == pytest.approx(0, abs=1e-6)
    assert rows[3]["exact_kl"] > 1e-5
    assert rows[3]["heldout"] == 9
    assert "heldout_judge" in rows[3]
    moved, start = (load_file(p / "model.safetensors") for p in (next(folder.glob("01_*/policy")), policy))
    assert any(not torch.equal(moved[key], start[key]) for key in start)
    assert not list(folder.glob("01_*/checkpoints"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_killed_and_continued_on_two_it_ends_as_if_it_had_not_been(tmp_path, policy, name):
    whole = prepared(tmp_path / "whole" / "run", policy, name)
    folder = prepared(tmp_path / "killed" / "run", policy, name)
    launch(whole)
    assert launch(folder, "yes")
    assert len(curve(folder)) == KILLED
    launch(folder)
    assert curve(folder) == curve(whole)
    assert curve(folder, "samples") == curve(whole, "samples")
    ends = [load_file(next(path.glob("01_*/policy")) / "model.safetensors") for path in (folder, whole)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
