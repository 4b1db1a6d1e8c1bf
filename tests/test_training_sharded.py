"""Trainings on two processes (gloo, CPU), with whole models or shares of them: the curves and weights of one
process."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from rlaif.runs.storage import read_json
from rlaif.stages import dpo, pretrain, rejection, reward, sft
from tests.launching import on_two
from tests.tiny_models import hand_made_run, preference, prompts_of, response, revision, tiny_policy

RUN = {"pretrain": pretrain, "sft": sft, "reward": reward, "dpo": dpo, "rejection": rejection}
JOBS = {
    "pretrain": {"block_size": 8},
    "sft": {"micro_batch": 1},
    "reward": {"members": 2},
    "dpo": {"by_prompt": True},
    "rejection": {"rewards": [{"source": "tests.test_training_sharded:length"}]},
}
STEPS = 3  # checkpoints until a training is stopped


class Stopped(Exception):
    pass


def held(model) -> float:
    """The share of the weights that this process holds."""
    own = [w.to_local() if isinstance(w, DTensor) else w for w in model.parameters()]
    return sum(w.numel() for w in own) / model.num_parameters()


def length(conversations, texts):
    """Rewards of the rejection stage; asked by the first process alone."""
    assert not dist.is_initialized() or dist.get_rank() == 0
    return [float(len(text)) for text in texts]


def stage_of(folder: Path, policy: Path, name: str):
    """The stage on 16 prompts, of which 4 are held out."""
    written = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    last = {"stage": name, "epochs": 2, "learning_rate": 1e-3, "batch_size": 4, "heldout": 0.25, **JOBS[name]}
    if name == "pretrain":
        (folder / "text.txt").write_text(
            "tell me about the weather today please now " * 16
        )  # 12 blocks that train, 4 a step
        last["text"] = str(folder / "text.txt")
    stage = hand_made_run(folder, policy, last, prompts=16)
    for prompt in () if written else prompts_of(stage):
        old, new, third = (
            response(stage, prompt, text, n) for n, text in enumerate(("rude", "it is good", "bad"))
        )
        revision(stage, old, new)
        for a, b, p_a in ((old, new, 0.2), (new, third, 0.7)):
            preference(stage, a, b, p_a)
    return stage


def run(stage):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        RUN[stage.name].run(stage)
    finally:
        torch.set_num_threads(threads)
    return stage


def stop_early(patch=setattr) -> None:
    """Let trainings write a checkpoint a step and stop at the last of STEPS."""
    from rlaif.training import loop as training

    patch(training, "SAVE_SECONDS", 0.0)
    patch(training, "SAVE_SHARE", 1e9)
    saved = training.CurveCallback.on_save

    def stop(self, args, state, control, **rest):
        saved(self, args, state, control, **rest)
        if state.global_step == STEPS:
            raise Stopped(held(rest["model"]))

    patch(training.CurveCallback, "on_save", stop)


def main(folder: str, policy: str, stops: str) -> None:
    """One of two processes; the second works in copies of the first's folders."""
    from rlaif.rl import forward

    sharded = os.environ["ACCELERATE_USE_FSDP"] == "true"
    dist.init_process_group("gloo")
    forward.LARGE = 0  # activations are recomputed
    if stops:
        stop_early()
    for name in JOBS:
        mine = Path(folder) / name
        if dist.get_rank():
            mine = Path(folder) / f"{name}-copy"
            shutil.rmtree(mine, ignore_errors=True)
            shutil.copytree(Path(folder) / name, mine)
        dist.barrier()
        stage = stage_of(mine, Path(policy), name)
        if stops:
            with pytest.raises(Stopped) as stopped:
                run(stage)
            assert stopped.value.args[0] == pytest.approx(0.5 if sharded else 1.0, abs=0.1)
        else:
            run(stage)
        dist.barrier()
    dist.destroy_process_group()


def run_on_two(folder: Path, policy: Path, sharded: bool, stops: str = "") -> None:
    for name in JOBS:
        stage_of(folder / name, policy, name)
    done = on_two(folder, __name__, str(folder), str(policy), stops, sharded=sharded)
    assert done.returncode == 0, done.stderr


def curve(stage) -> list[dict]:
    return [json.loads(line) for line in (stage.dir / "metrics.jsonl").read_text().splitlines()]


def made(stage) -> Path:
    return stage.dir / ("reward_model" if stage.name == "reward" else "policy")


def check_equal(one, two) -> None:
    """The same curve, the same weights under the same names, the same config; but for the order of sums."""
    for row, other in zip(curve(one), curve(two), strict=True):
        assert other == pytest.approx(row, rel=1e-4)
    a, b = (load_file(made(stage) / "model.safetensors") for stage in (one, two))
    assert a.keys() == b.keys()
    for key, weight in a.items():
        torch.testing.assert_close(b[key], weight, atol=1e-5, rtol=1e-4)
    configs = [read_json(made(stage) / "config.json") for stage in (one, two)]
    assert configs[0] == configs[1]


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_killed_and_continued_end_where_one_does(tmp_path, sharded):
    policy = tiny_policy(tmp_path / "policy")
    run_on_two(tmp_path, policy, sharded, "stops")
    for name in JOBS:
        assert list((tmp_path / name).glob(f"05_*/checkpoints/checkpoint-{STEPS}/whole"))
    run_on_two(tmp_path, policy, sharded)
    for name in JOBS:
        one = run(stage_of(tmp_path / "one" / name, policy, name))
        two = stage_of(tmp_path / name, policy, name)
        check_equal(one, two)
        assert not list((tmp_path / f"{name}-copy").glob("05_*/*/model.safetensors"))  # written once
    figures = [
        read_json(next(tmp_path.glob(f"{at}reward/05_reward/reward_model/calibration.json")))
        for at in ("", "one/")
    ]
    assert figures[1].pop("reliability")
    assert figures[0].pop("reliability")
    for key in ("heldout_accuracy", "ece", "cross_entropy", "reward_mean", "reward_std", "temperature"):
        assert figures[0][key] == pytest.approx(figures[1][key], rel=1e-4)


@pytest.fixture
def a_company_of_one(monkeypatch):
    """One process that is asked to share its models out."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", JOBS)
def test_sharded_stopped_and_continued_it_ends_where_the_whole_model_does(
    tmp_path, monkeypatch, request, name
):
    policy = tiny_policy(tmp_path / "policy")
    one = run(stage_of(tmp_path / "one", policy, name))
    request.getfixturevalue("a_company_of_one")
    with monkeypatch.context() as patched:
        stop_early(patched.setattr)
        with pytest.raises(Stopped):
            run(stage_of(tmp_path / "two", policy, name))
    two = run(stage_of(tmp_path / "two", policy, name))
    check_equal(one, two)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"


def test_a_sharded_model_is_written_in_the_dtype_it_came_in(tmp_path, a_company_of_one):
    from transformers import AutoModelForCausalLM

    policy = tiny_policy(tmp_path / "policy")
    AutoModelForCausalLM.from_pretrained(policy, dtype=torch.bfloat16).save_pretrained(policy)
    stage = run(stage_of(tmp_path / "run", policy, "sft"))
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, made(stage)))
    assert {key: weight.dtype for key, weight in after.items()} == dict.fromkeys(before, torch.bfloat16)
    assert read_json(made(stage) / "config.json")["dtype"] == "bfloat16"
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["sft", "reward", "dpo"])
def test_what_large_models_and_gpus_get_goes_with_shares(tmp_path, monkeypatch, request, name):
    """Activations recomputed, and passes in bf16 beside weights in fp32."""
    from rlaif.rl import forward
    from rlaif.training import loop as training

    made_by = training.arguments
    monkeypatch.setattr(forward, "LARGE", 0)
    monkeypatch.setattr(training, "arguments", lambda *a, **options: made_by(*a, **options, bf16=True))
    policy = tiny_policy(tmp_path / "policy")
    one = run(stage_of(tmp_path / "one", policy, name))
    request.getfixturevalue("a_company_of_one")
    check_equal(one, run(stage_of(tmp_path / "two", policy, name)))
