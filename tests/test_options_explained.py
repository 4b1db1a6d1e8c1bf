"""`rlaif options`, docs/config.md and the JSON Schema of configs: they come from the options and are
whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.config import Config
from rlaif.errors import UserError
from rlaif.options import STAGES
from rlaif.preflight import explained

ROOT = Path(__file__).parent.parent


def printed(*words: str) -> str:
    result = CliRunner().invoke(app, ["options", *words])
    assert result.exit_code == 0, result
    return result.output


def test_every_option_has_a_description():
    every = [one for options in explained.explained().values() for one in options]
    assert not [one.key for one in every if not one.meaning]
    assert {one.section for one in every} == {"run", *STAGES}


def test_the_page_is_up_to_date():
    code = "import config, sys; sys.exit(config.PAGE.read_text() != config.page())"
    assert not subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "docs",
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'docs'}"},
        check=False,
    ).returncode, "PYTHONPATH=$PWD python docs/config.py"


def test_one_option_is_explained_in_full():
    told = printed("ppo", "dual_clip")
    for part in ("ppo.dual_clip", "type: number", "default: none", "range: > 1", "source: arXiv 1912.09729"):
        assert part in told
    assert printed("ppo.dual_clip") == told
    assert "not changed by it" in printed("policy", "device")
    assert "not changed by it" not in told


def test_groups_and_stages_are_listed():
    assert "label.human.weight: 1.0" in printed("label", "human")
    assert "ppo.rewards[].source: required" in printed("ppo", "rewards")
    assert all(f"{stage} (" in printed() for stage in STAGES)
    assert {one["key"] for one in json.loads(printed("label", "--json"))} > {"label.mode", "label.human.file"}


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("ppo", "kl_cof"), "kl_coef"),
        (("poo",), "ppo"),
        (("policy", "modell"), "model"),
        (("ppo.clpi",), "clip"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(words, nearest):
    with pytest.raises(UserError, match=nearest):
        explained.chosen(*words, *[None] * (2 - len(words)))


def test_an_option_without_its_stage_names_the_stages_that_have_it():
    with pytest.raises(UserError, match=r"kl_coef: no stage, but an option; .*ppo") as found:
        explained.chosen("kl_coef", None)
    assert found.value.next.startswith("rlaif options ")
    with pytest.raises(UserError, match=r"reward: no option updates; .*ppo"):
        explained.chosen("reward", "updates")
    with pytest.raises(UserError, match="the list of stages"):
        explained.chosen("stages", None)
    assert printed("ppo[1].updates") == printed("ppo", "updates")
    with pytest.raises(UserError, match="--schema with ppo"):
        CliRunner().invoke(app, ["options", "ppo", "--schema"], catch_exceptions=False)


def test_the_schema_has_every_key_and_takes_extending_configs():
    schema = json.loads(printed("--schema"))
    assert set(Config.model_fields) | {"extends"} == set(schema["properties"])
    assert schema["else"]["required"] == ["name", "constitution", "prompts", "policy", "feedback", "stages"]
    stages = schema["properties"]["stages"]["anyOf"][0]["items"]["discriminator"]["mapping"]
    assert set(stages) == set(STAGES)
