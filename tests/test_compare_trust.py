"""Comparing runs of somebody else's: nothing their configs name is called or asked unless the user allows
it."""

import pytest
from typer.testing import CliRunner

import rlaif
from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.report.run_reader import untrusted_references
from rlaif.runs.storage import read_json, write_json
from tests.fake_run import fake_run


def change(run, **keys) -> None:
    write_json(run / "config.json", read_json(run / "config.json") | keys)


@pytest.fixture
def runs(tmp_path):
    made = [fake_run(tmp_path / "first"), fake_run(tmp_path / "second", seed=1)]
    for run in made:
        model = {"engine": "transformers", "model": "rlaif/playground/weights/feedback"}
        change(run, gold="rlaif.playground.world:score", feedback=model)
    return made


def test_models_in_process_and_the_packages_own_functions_need_no_consent(runs):
    assert untrusted_references(runs) == []


def test_the_second_runs_judge_is_not_asked(runs):
    change(runs[1], feedback={"engine": "openai", "model": "m", "base_url": "http://example.org/v1"})
    assert untrusted_references(runs) == []


@pytest.mark.parametrize(
    ("number", "keys", "named"),
    [
        (0, {"gold": "evil_module:score"}, "evil_module:score"),
        (1, {"gold": "evil_module:score"}, "evil_module:score"),
        (1, {"gold": "rlaifx:score"}, "rlaifx:score"),
        (0, {"feedback": {"engine": "scripted", "model": "evil_module:judge"}}, "evil_module:judge"),
        (
            0,
            {
                "feedback": {
                    "engine": "openai",
                    "model": "m",
                    "base_url": "http://example.org/v1",
                    "api_key_env": "OTHER_KEY",
                }
            },
            "http://example.org/v1 with the key in OTHER_KEY",
        ),
    ],
)
def test_what_a_config_names_needs_consent(runs, number, keys, named, monkeypatch):
    change(runs[number], **keys)
    monkeypatch.setattr(
        "rlaif.report.compare.compare", lambda *args, **more: pytest.fail("compared without consent")
    )
    with pytest.raises(UserError, match="trust=True") as caught:
        rlaif.compare(*runs)
    assert named in caught.value.found
    assert str(runs[number]) in caught.value.found
    result = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert isinstance(result.exception, UserError)
    assert "--trust" in (result.exception.next or "")


def test_with_consent_they_are_compared(runs, monkeypatch):
    change(runs[0], gold="evil_module:score")
    asked = []
    monkeypatch.setattr("rlaif.report.compare.compare", lambda paths, **more: asked.append(paths) or {})
    rlaif.compare(*runs, trust=True)
    assert asked == [runs]
