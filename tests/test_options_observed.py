"""Every option of every stage, and of a run, reaches something: at another value another thing is seen.

The table is driven from the fields of the options' classes, so that an option without a row fails. Its
rows stand in tests/observed, by where they are seen.
"""

from collections import Counter

import pytest

from rlaif import pipeline
from rlaif.config import Config, ModelConfig
from rlaif.options import STAGES, ArchitectureOptions, HumanOptions, JudgeCardOptions, LoraOptions, PtxOptions
from rlaif.options.base import BudgetOptions, PriceOptions
from rlaif.options.data import PromptSourceOptions
from rlaif.options.rewarded import RewardSourceOptions
from tests.observed import models, scripted, training
from tests.observed.elsewhere import ELSEWHERE
from tests.tiny_models import tiny_policy

PARTS = {
    "policy": None,
    "feedback": None,
    "stages": None,
    "judge_card": JudgeCardOptions,
    "budget": BudgetOptions,
    "prices": PriceOptions,
    "human": HumanOptions,
    "ptx": PtxOptions,
    "lora": LoraOptions,
    "architecture": ArchitectureOptions,
}
TABLES = (
    scripted.ROWS,
    scripted.ALONE,
    training.TRAINED,
    training.UPDATED,
    training.PARTS,
    models.OPENED,
    ELSEWHERE,
)


def options_of(kind: type, prefix: str = "") -> list[str]:
    """The names of a class's options, those of its parts behind a dot."""
    found = []
    for name in kind.model_fields:  # type: ignore[attr-defined]
        if kind is Config and name == "prompts":
            found += options_of(PromptSourceOptions, "prompts.")
        elif name in PARTS:
            part = PARTS[name]
            found += options_of(part, f"{prefix}{name}.") if part else []
        elif name != "stage":
            found.append(prefix + name)
    return found


OPTIONS = [
    *options_of(Config),
    "policy.model",
    "feedback.model",
    *(name for name in options_of(ModelConfig, "model.") if name != "model.model"),
    *options_of(RewardSourceOptions, "rewards."),
    *(option for name, kind in STAGES.items() for option in options_of(kind, f"{name}.")),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    for seed, name in enumerate(("policy", "other")):
        training.MODELS[name] = tiny_policy(tmp_path_factory.mktemp("models") / name, seed)


@pytest.fixture
def quick(monkeypatch):
    """Runs without a report, and the number of threads as it was."""
    import torch

    count = torch.get_num_threads()
    monkeypatch.setattr(pipeline, "finish", lambda this: None)
    yield
    torch.set_num_threads(count)


def test_every_option_has_one_row():
    rows = Counter(option for table in TABLES for option in table)
    assert sorted(set(OPTIONS) - rows.keys()) == [], "options without a row in tests/observed"
    assert sorted(rows.keys() - set(OPTIONS)) == [], "rows of options that are not there"
    assert [option for option, count in rows.items() if count > 1] == []
    assert len(OPTIONS) > 190


@pytest.mark.parametrize("option", ELSEWHERE)
def test_what_another_test_observes(option):
    ELSEWHERE[option].check()


@pytest.mark.parametrize("option", scripted.ROWS)
def test_what_scripted_models_are_asked_and_what_is_written(option, tmp_path, quick):
    row = scripted.ROWS[option]
    assert row.look(scripted.Case(tmp_path, option, row)) == row.expected


@pytest.mark.parametrize("option", [*scripted.ALONE, *models.OPENED])
def test_what_follows_without_a_run(option, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    row = (scripted.ALONE | models.OPENED)[option]
    assert row.look(row.value) == row.expected


@pytest.mark.parametrize("option", training.TRAINED)
def test_what_a_trainer_is_given(option, tmp_path, tiny):
    row = training.TRAINED[option]
    assert row.look(training.Training(tmp_path, option, row)) == row.expected


@pytest.mark.parametrize("option", training.UPDATED)
def test_what_an_update_does(option):
    row = training.UPDATED[option]
    assert row.look(training.Update(option, row)) == row.expected


@pytest.mark.parametrize("option", training.PARTS)
def test_what_follows_without_an_update(option, tmp_path, tiny):
    row = training.PARTS[option]
    assert row.look(row.value, tmp_path) == row.expected
