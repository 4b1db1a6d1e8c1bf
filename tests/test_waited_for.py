"""`chat` and `constitution try` say what they wait for while an endpoint does not answer."""

import json
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from rlaif.cli import app, terminal
from rlaif.config import ModelConfig
from rlaif.constitution import Constitution
from rlaif.runs.folder import Run
from rlaif.runs.storage import write_json
from tests.fake_run import fake_run
from tests.stub_server import Stub, serving
from tests.test_probe import file, probe  # noqa: F401


@pytest.fixture
def slow(monkeypatch):
    """The address of an endpoint that answers each question at the second try, after a second and a half of
    silence; a line of progress comes each second."""
    stub = Stub()
    stub.faults, stub.silence = ["silence"], 1.5
    monkeypatch.setattr(terminal, "SILENCE", 0.0)
    with serving(stub) as url:
        yield url


def served(url: str) -> dict:
    return {"engine": "openai", "model": "big", "base_url": url}


def test_ten_seconds_of_silence_are_the_most():
    assert terminal.SILENCE + 1 <= 10  # a line is due when SILENCE is over, and looked for each second


def test_a_model_is_told_with_the_addresses_at_which_it_is_asked():
    assert ModelConfig(model="models/one").place == "models/one"
    several = ModelConfig(engine="openai", model="big", base_url=("http://one/v1", "http://two/v1"))
    assert several.place == "big at http://one/v1, http://two/v1"


def test_chat_says_what_it_waits_for(tmp_path, slow):
    run = fake_run(tmp_path / "run", prompts=4)
    config = Run.load(run).config
    model = ModelConfig.model_validate(served(slow))
    write_json(
        run / "config.json", config.model_copy(update={"policy": model, "feedback": model}).model_dump()
    )
    done = CliRunner().invoke(app, ["chat", f"{run}:base", "--trust", "--judge"], input="Hello?\n")
    assert done.exit_code == 0, done.output
    assert f"run:base, waiting for big at {slow}: 1 s\n" in done.stderr
    assert f"verdicts, waiting for big at {slow}: 1 s\n" in done.stderr
    assert done.stdout.startswith("run:base: B\n")
    assert "waiting" not in done.stdout


def test_verdicts_on_pairs_that_are_watched_are_waited_for_by_name(file):  # noqa: F811
    bars: list[tuple[str, int | None]] = []

    @contextmanager
    def progress(what, total):
        bars.append((what, total))
        yield lambda n=1: bars.append(("ticked", n))

    watched = probe()
    watched.name, watched.progress = "big at http://one/v1", progress
    asked = watched.verdicts(Constitution.load(file)).asked
    assert bars[0] == ("verdicts, waiting for big at http://one/v1", asked)
    assert sum(n or 0 for what, n in bars[1:]) == asked > 0
    watched.verdicts(Constitution.load(file))
    assert sum(what != "ticked" for what, _ in bars) == 1  # nothing is asked again, and nothing waited for


def test_try_says_what_it_waits_for(project, slow):
    config = project / "config.yaml"
    text = config.read_text()
    for role in ("policy", "feedback"):
        old = f'{role}: {{engine: scripted, model: "tests.scripts:{role}"}}'
        assert old in text
        text = text.replace(old, f"{role}: {json.dumps(served(slow))}")
    config.write_text(text)
    words = ["constitution", "try", str(project / "constitution.yaml"), "--judge", str(config)]
    done = CliRunner().invoke(app, words, input="Hello?\n")
    assert done.exit_code == 0, done.output
    for what in ("responses", "critique", "revision"):
        assert f"{what}, waiting for big at {slow}: 1 s\n" in done.stderr
    assert "waiting" not in done.stdout
