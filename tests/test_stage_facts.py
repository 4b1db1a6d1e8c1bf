"""What is said of a stage stands in one place, and everything that goes through the stages asks there."""

import inspect
from importlib import import_module

import pytest

from rlaif.cli.show import print_summary
from rlaif.options import STAGES
from rlaif.options.base import StageOptions
from rlaif.report.summary import summarise
from rlaif.runs.storage import read_json, write_json
from tests.fake_run import fake_run

REQUIRED = {"pretrain": {"text": "text.txt"}}  # options without a default
FIGURES = {"steps": 17, "loss_end": 0.0625}


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_its_file_and_says_what_it_asks(name):
    assert inspect.isfunction(import_module(f"rlaif.stages.{name}").run)
    assert STAGES[name].estimate is not StageOptions.estimate


def test_a_stage_without_an_estimate_is_not_estimated_at_nothing():
    with pytest.raises(NotImplementedError, match="say what the stage asks of models"):
        StageOptions(stage="new").estimate(None)  # type: ignore[arg-type]


def test_no_stage_is_shared_out_that_all_processes_cannot_do():
    for name in STAGES:
        module = import_module(f"rlaif.stages.{name}")
        assert getattr(module, "SHARED", False) or not getattr(module, "SHARDED", False), name


@pytest.mark.parametrize("name", sorted(STAGES.keys() - {"evaluate"}))
def test_show_prints_the_figures_of_every_stage(name, tmp_path, capsys):
    path = fake_run(tmp_path / "run", prompts=4, until=0)
    config = read_json(path / "config.json")
    write_json(path / "config.json", {**config, "stages": [{"stage": name, **REQUIRED.get(name, {})}]})
    summary = {"name": name, "number": 1, "round": 1, "status": "done", "seconds": 1.0, "metrics": FIGURES}
    (path / f"01_{name}").mkdir(exist_ok=True)
    write_json(path / f"01_{name}" / "stage.json", summary)
    shown = STAGES[name].shown_as or name
    assert summarise(path)[shown].items() >= FIGURES.items()
    print_summary(summarise(path))
    assert f"{shown}: steps 17, loss_end 0.0625" in capsys.readouterr().out
