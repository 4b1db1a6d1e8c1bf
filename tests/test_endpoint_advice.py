"""What is said of endpoints that cannot be used names the next step: the key, the address, the wait."""

import json
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.engines import endpoints
from rlaif.engines.advice import usual_address
from rlaif.engines.openai import OpenAIEngine
from rlaif.errors import UserError
from tests.stub_server import Stub, serving
from tests.test_engines_openai import asks, engine_at
from tests.test_readiness import config_of


@pytest.mark.parametrize(
    ("url", "usual"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1/chat/completions", "http://h:1/v1"),
        ("https://h/api/models", "https://h/api"),
        ("http://h:1/v1", ""),
        ("https://h/v1beta/openai", ""),
    ],
)
def test_an_address_without_the_usual_end(url, usual):
    assert usual_address(url) == usual


def stopped(engine: OpenAIEngine) -> UserError:
    with pytest.raises(UserError) as error:
        list(engine.generate(asks(3)))
    return error.value


def test_an_unknown_path_names_the_address_to_try():
    stub = Stub()
    stub.always = "404 Not Found"
    with serving(stub) as url:
        bare = url.removesuffix("/v1")
        assert f"base_url: {bare}/v1; `rlaif check CONFIG`" in stopped(engine_at(bare)).next
        assert "base_url" not in stopped(engine_at(url)).next


def test_a_key_that_is_not_set_is_not_called_a_wrong_one(monkeypatch):
    stub = Stub()
    stub.always = "401 Incorrect API key provided."
    monkeypatch.delenv("NOT_SET", raising=False)
    with serving(stub) as url:
        error = stopped(engine_at(url, api_key_env="NOT_SET"))
    assert "asks for a key, and the environment variable NOT_SET is not set" in error.found
    assert error.next.startswith("export NOT_SET=…")


def test_a_code_beside_the_message_is_read():
    """openai 3 leaves the code out of its message; hosted services say what is meant there alone."""
    stub = Stub()
    quota = {"message": "You exceeded your plan.", "code": "insufficient_quota"}
    stub.error = lambda: {"error": quota}
    stub.always = "429"
    with serving(stub) as url:
        error = stopped(engine_at(url))
    assert "responds with an error" in error.found
    assert error.need == "an account with quota left"
    assert len(stub.asked) <= 8
    stub.error = lambda: {"error": {"message": "No.", "code": "context_length_exceeded: context length"}}
    stub.always = "400"
    with serving(stub) as url:
        assert dict(engine_at(url).generate(asks(1)))[0].finish_reason == "too_long"


@pytest.mark.parametrize(
    ("fault", "need", "step"),
    [
        ("429 slow down", "a server that takes requests now", "wait, lower concurrency, or raise patience"),
        ("500 oops", "a server that works", "see the server's log"),
        ("half", "a base_url that serves chat completions, not a web page", "mend base_url"),
    ],
)
def test_a_server_that_is_there_is_not_to_be_started(monkeypatch, fault, need, step):
    monkeypatch.setattr(endpoints, "FIRST", 0.1)
    stub = Stub()
    stub.always = fault
    with serving(stub) as url:
        error = stopped(engine_at(url, patience=0.2))
    assert error.need == need
    assert error.next.startswith(step)
    assert "vllm serve" not in error.next


def test_check_names_an_endpoint_once(project: Path):
    stub = Stub()
    stub.always = "401 no such key"
    with serving(stub) as url:
        found = pipeline.check(config_of(project, url))
    host = url.removeprefix("http://")
    assert json.dumps(found.found).count(host) == 1
