"""A damaged checkpoint is not gone on from: the older one beside it is, and the end is the same to the
bit."""

import json
import shutil
from pathlib import Path

import pytest

from rlaif.rl import ppo_checkpoint as checkpoint
from rlaif.rl.checkpoints import last_checkpoint
from rlaif.runs.folder import Stage
from rlaif.stages import ppo
from rlaif.training import loop as training
from tests.test_groups import start as start_in_groups
from tests.test_ppo_stage import rows_of, run_on_one_thread, stage_of
from tests.test_sft_reward_continue import curve, start
from tests.tiny_models import tiny_policy


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


HARMS = {"cut": cut, "empty": lambda path: path.write_bytes(b""), "missing": Path.unlink, "flipped": flip}


def stopped(*_):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def unpublished(tmp_path_factory):
    """A policy, a PPO stage run to its end, and one stopped after its last checkpoint."""
    tmp = tmp_path_factory.mktemp("checkpoints")
    policy = tiny_policy(tmp / "policy")
    whole = run_on_one_thread(stage_of(tmp / "whole", policy))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ppo, "_publish", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_on_one_thread(stage_of(tmp / "stopped", policy))
    return policy, whole, tmp / "stopped"


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("policy.safetensors", "cut"),
        ("value.safetensors", "flipped"),
        ("optimizers.pt", "missing"),
        ("state.json", "empty"),
    ],
)
def test_ppo_goes_on_from_the_older_checkpoint(unpublished, tmp_path, name, harm):
    policy, whole, left = unpublished
    folder = Path(shutil.copytree(left, tmp_path / "run"))
    checkpoints = folder / "02_ppo" / "checkpoints"
    assert [path.name for path in checkpoint._all(checkpoints)] == ["000004", "000006"]
    HARMS[harm](checkpoints / "000006" / name)
    again = run_on_one_thread(stage_of(folder, policy))
    assert any("000006 is damaged" in note and "went on from 000004" in note for note in again.notes)
    assert rows_of(again) == rows_of(whole)
    weights = [(stage.dir / "policy" / "model.safetensors").read_bytes() for stage in (whole, again)]
    assert weights[0] == weights[1]


def test_ppo_keeps_its_last_two_checkpoints_until_the_policy_is_published(unpublished):
    _, whole, left = unpublished
    folder = left / "02_ppo" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["000004", "000006"]
    files = {"policy.safetensors", "value.safetensors", "optimizers.pt", "state.json"}
    assert {path.name for path in (folder / "000006").iterdir()} == files
    assert not (whole.dir / "checkpoints").exists()


@pytest.mark.parametrize("name", ["ppo", "rloo", "sft", "reward", "dpo"])
def test_killed_between_publishing_and_removing_checkpoints_a_stage_ends_right(tmp_path, name):
    """The model is there and its checkpoints are, too: they go, and nothing else changes."""
    policy = tiny_policy(tmp_path / "policy")

    def run() -> Stage:
        if name == "ppo":
            return run_on_one_thread(stage_of(tmp_path / "run", policy, updates=1))
        if name == "rloo":
            return start_in_groups(str(tmp_path / "run"), str(policy), name, updates=1)
        return start(str(tmp_path / "run"), str(policy), name)

    stage = run()
    model = stage.dir / ("reward_model" if name == "reward" else "policy") / "model.safetensors"
    before = model.read_bytes(), rows_of(stage), stage.metrics
    left = stage.dir / "checkpoints" / "checkpoint-1"
    left.mkdir(parents=True)
    (left / "optimizer.pt").write_text("of no use any more")
    again = run()
    assert not (stage.dir / "checkpoints").exists()
    assert (model.read_bytes(), rows_of(again), again.metrics) == before


def test_ppo_does_not_go_on_over_rows_that_are_gone(unpublished, tmp_path):
    policy, whole, left = unpublished
    folder = Path(shutil.copytree(left, tmp_path / "run"))
    metrics = folder / "02_ppo" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:4]))
    again = run_on_one_thread(stage_of(folder, policy))
    assert rows_of(again) == rows_of(whole)
    assert any("went on from 000004" in note for note in again.notes)


def test_with_no_whole_checkpoint_ppo_begins_again(unpublished, tmp_path):
    policy, whole, left = unpublished
    folder = Path(shutil.copytree(left, tmp_path / "run"))
    for path in (folder / "02_ppo" / "checkpoints").glob("*/policy.safetensors"):
        cut(path)
    again = run_on_one_thread(stage_of(folder, policy))
    assert rows_of(again) == rows_of(whole)
    assert any("went on from the beginning" in note for note in again.notes)


@pytest.mark.parametrize("harm", ["cut", "missing"])
def test_sft_goes_on_from_the_older_checkpoint(tmp_path, monkeypatch, harm):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training, "SAVE_SHARE", 1e9)
    policy = str(tiny_policy(tmp_path / "policy"))
    whole = start(str(tmp_path / "whole"), policy, "sft")
    with monkeypatch.context() as patched:
        patched.setattr(training, "publish", stopped)
        with pytest.raises(KeyboardInterrupt):
            start(str(tmp_path / "run"), policy, "sft")
    newest = sorted((tmp_path / "run" / "05_sft" / "checkpoints").iterdir(), key=lambda p: int(p.name[11:]))[
        -1
    ]
    HARMS[harm](newest / "optimizer.pt")
    again = start(str(tmp_path / "run"), policy, "sft")
    assert any(f"{newest.name} is damaged" in note for note in again.notes)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    weights = [(stage.dir / "policy" / "model.safetensors").read_bytes() for stage in (whole, again)]
    assert weights[0] == weights[1]
    assert last_checkpoint(again) is None


def test_a_checkpoint_of_an_earlier_version_is_believed(unpublished, tmp_path):
    policy, whole, left = unpublished
    folder = Path(shutil.copytree(left, tmp_path / "run"))
    state = folder / "02_ppo" / "checkpoints" / "000006" / "state.json"
    state.write_text(json.dumps({key: json.loads(state.read_text())[key] for key in ("update", "kl_coef")}))
    again = run_on_one_thread(stage_of(folder, policy))
    assert not any("damaged" in note for note in again.notes)
    assert rows_of(again) == rows_of(whole)
