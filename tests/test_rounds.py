"""A second round starts from what the first one made: its policy samples, is labelled, and is trained."""

import json
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.config import ModelConfig
from rlaif.engines import loading, open_engine
from rlaif.records import Comparison, Label, Preference, Response
from rlaif.runs.rows import Rows
from tests.tiny_models import tiny_policy

CONFIG = """name: twice
rounds: 2
constitution: constitution.yaml
prompts: prompts.jsonl
heldout: 0.25
templates: brief
threads: 1
policy: {{model: {model}, device: cpu}}
feedback: {{engine: scripted, model: "tests.scripts:feedback"}}
stages:
  - {{stage: sample, num_prompts: 6, k: 2, max_tokens: 6}}
  - {{stage: pair}}
  - {{stage: label}}
  - {{stage: reward, batch_size: 4, learning_rate: 1.0e-3}}
  - {{stage: ppo, updates: 1, batch_size: 4, max_tokens: 6, learning_rate: 1.0e-3, warmup: 0, \
num_watched_prompts: 0}}
"""


def fingerprint(model: Path) -> str:
    return open_engine(ModelConfig(model=str(model), device="cpu")).fingerprint


def rows(folder: Path, stage: str, name: str, record):
    return list(Rows(folder / stage / f"{name}.jsonl", record))


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def rounds(project, monkeypatch):
    """The run, and the folders of language and reward models that its second round loaded."""
    base = tiny_policy(project / "model")
    config = project / "config.yaml"
    config.write_text(CONFIG.format(model=base))
    pipeline.run(config, project / "run", until="ppo")
    loaded: dict[str, set[Path]] = {"load_causal_lm": set(), "load_reward_model": set()}
    for name, seen in loaded.items():
        original = getattr(loading, name)

        def load(source, *args, original=original, seen=seen, **options):
            seen.add(Path(source))
            return original(source, *args, **options)

        monkeypatch.setattr(loading, name, load)
    return pipeline.run(config, project / "run"), base, loaded


def test_the_second_round_goes_on_from_the_first_ones_policy(rounds):
    this, base, loaded = rounds
    run, first = this.path, this.path / "05_ppo" / "policy"
    assert [stage.round for stage in this.stages] == [1] * 5 + [2] * 5
    assert list(this.policies) == ["base", "ppo@1", "ppo"]

    before, after = (rows(run, name, "responses", Response) for name in ("01_sample", "06_sample"))
    assert len(before) == len(after) == 12
    assert {row.model for row in before} == {fingerprint(base)}
    assert {row.model for row in after} == {fingerprint(first)}
    assert fingerprint(first) != fingerprint(base)

    pairs = rows(run, "07_pair", "comparisons", Comparison)
    assert pairs
    assert {i for pair in pairs for i in (pair.a, pair.b)} <= {row.id for row in after}
    labels = rows(run, "08_label", "labels", Label)
    assert {label.comparison_id for label in labels} == {pair.id for pair in pairs}
    preferred = rows(run, "08_label", "preferences", Preference)
    assert {row.comparison_id for row in preferred} == {pair.id for pair in pairs}

    measured = json.loads((run / "09_reward" / "reward_model" / "calibration.json").read_text())
    assert measured["n_train"] + measured["n_heldout"] == len(preferred)
    old, new = (run / name / "reward_model" for name in ("04_reward", "09_reward"))
    assert weights(old) != weights(new)
    # What is trained, its reference and what rewards it: none is the base policy or round 1's reward model.
    assert loaded == {"load_causal_lm": {first}, "load_reward_model": {first, new}}
    assert weights(run / "10_ppo" / "policy") not in (weights(first), weights(base))
