"""configs/hf_local.yaml on a real instruct model at small size: `make test-real`, or RLAIF_REAL_MODEL=FILE
pytest.

Prompts with system turns and several turns are among them. The model is a poor judge, so the card does not
bar it from labelling; that a run with the card ends in a report that says so is tested, too.
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from rlaif import pipeline
from rlaif.config import ASSETS
from rlaif.errors import UserError
from rlaif.report.compare import compare
from rlaif.report.report import summarise

MODEL = os.environ.get("RLAIF_REAL_MODEL")
pytestmark = [
    pytest.mark.skipif(not MODEL, reason="RLAIF_REAL_MODEL names no model; make test-real fetches one"),
    pytest.mark.timeout(7200),
]
LEARNS = {"epochs": 1, "batch_size": 4, "micro_batch": 2, "max_length": 512}
ONLINE = {"updates": 1, "batch_size": 4, "micro_batch": 2, "max_tokens": 16}
ARMS = {
    "ppo": [{"stage": "ppo", "warmup": 0, "critic_warmup": 0, "learning_rate": 1.0e-6, **ONLINE}],
    "dpo": [{"stage": "dpo", **LEARNS}],
    "rloo": [{"stage": "rloo", "group_size": 2, **ONLINE}],
    "grpo": [{"stage": "grpo", "group_size": 2, **ONLINE}],
    "best_of_n": [{"stage": "best_of_n", "n": 2, "max_tokens": 16}],
    "rejection": [{"stage": "rejection", **LEARNS}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config for each arm, and 16 prompts: plain, with a system turn, with earlier turns."""
    folder = tmp_path_factory.mktemp("real")
    rows = [json.loads(line) for line in (ASSETS / "prompts/starter.jsonl").read_text().splitlines()]
    by_roles: dict[tuple, list] = {}
    for row in rows:
        by_roles.setdefault(tuple(m["role"] for m in row["messages"]), []).append(row)
    assert len(by_roles) == 4
    kept = [row for same in by_roles.values() for row in same[:4]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    for name, arm in ARMS.items():
        config = {
            "extends": str(ASSETS / "configs/hf_local.yaml"),
            "name": name,
            "threads": 1,
            "prompts": "prompts.jsonl",
            "policy": {"model": MODEL},
            "feedback": {"model": MODEL},
            "judge_card": {"num_pairs": 4, "enforce": False},
            "stages": {
                "sample": {"max_tokens": 24},
                "sample[1]": {"k": 2},
                "critique": {"rounds": 1, "few_shot": 0, "max_tokens": 48, "critique": False},
                "sft": [],
                "pair": {"per_prompt": 1, "revisions": False},
                "label": {"principles": ["no-contempt", "truthful"]},
                "reward": LEARNS,
                "ppo": arm,
                "evaluate": {"num_prompts": 3, "max_tokens": 16},
            },
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    config["stages"] = {**config["stages"], "sft": LEARNS}
    (folder / "sft.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    """The whole loop with PPO."""
    pipeline.run(folder / "ppo.yaml", folder / "ppo", tell=print)
    return folder / "ppo"


def test_the_whole_loop_and_its_report(first: Path):
    shown = summarise(first)
    assert shown["status"] == "done"
    for stage in shown["stages"]:
        assert stage["in"] == stage["kept"] + sum(stage["dropped"].values()), stage["name"]
    page = (first / "report.html").read_text()
    assert "What to try next" in page, "this judge is not to be believed, and the report says what to do"


def test_it_learns_from_its_revisions_or_says_why_none_is_left(folder: Path, first: Path):
    """So small a model hardly revises: it repeats the question, the rule or the instruction."""
    critique = next(stage for stage in summarise(first)["stages"] if stage["name"] == "critique")
    ask = {"until": "sft", "tell": print, "source": first, "at": "sft"}
    if critique["kept"] >= 2:
        pipeline.run(folder / "sft.yaml", folder / "sft", **ask)
        assert (folder / "sft" / "03_sft" / "policy" / "config.json").exists()
    else:
        with pytest.raises(UserError, match="revisions can be trained on"):
            pipeline.run(folder / "sft.yaml", folder / "sft", **ask)
        assert "The run is not finished: stage 3 of" in (folder / "sft" / "report.html").read_text()


@pytest.mark.parametrize("arm", [name for name in ARMS if name != "ppo"])
def test_every_arm_from_the_same_reward_model(folder: Path, first: Path, arm: str):
    pipeline.run(folder / f"{arm}.yaml", folder / arm, tell=print, source=first, at=arm)
    assert summarise(folder / arm)["status"] == "done"
    found = compare([first, folder / arm], folder / f"{arm}.html")
    assert found["prompts"]
    assert (folder / f"{arm}.html").exists()


def test_a_judge_whose_card_fails_ends_in_a_report_that_says_what_to_do(folder: Path, first: Path):
    with pytest.raises(UserError, match="the judge's card fails"):
        pipeline.run(None, folder / "gated", ["judge_card.enforce=true"], source=first, at="label")
    page = (folder / "gated" / "report.html").read_text()
    assert "The judge was refused before it labelled" in page
    assert "as feedback.model" in page
