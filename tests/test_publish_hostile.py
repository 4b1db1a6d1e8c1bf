"""A hub that answers what no hub should: one message, nothing sent to another host, no token printed."""

import json
import subprocess
import sys

import pytest

from rlaif.errors import UserError
from rlaif.report.publish import prepare, push
from tests.stub_hub import Hub, serving
from tests.test_publish import ROOT, hub, run

assert hub
assert run  # fixtures
STEPS = {
    "create": "/api/repos/create",
    "privacy": "/api/models/me/policy",
    "card": "/api/validate-yaml",
    "names": "/api/models/me/policy/preupload/main",
    "commit": "/api/models/me/policy/commit/main",
}


@pytest.fixture
def made(run, tmp_path):
    return prepare(run, "policy", tmp_path / "made", "mit")["folder"]


def answers(hub: Hub, step: str, status: int, text: str = "", **headers: str) -> None:
    """From now on that at one step."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    hub.instead = lambda method, path: (status, text, named) if path == STEPS[step] else None


@pytest.mark.parametrize("status", [301, 307])
@pytest.mark.parametrize("step", STEPS)
def test_nothing_goes_to_another_host_than_the_one_that_was_named(made, hub, step, status):
    other = Hub()
    with serving(other) as address:
        answers(hub, step, status, Location=address.replace("127.0.0.1", "localhost") + STEPS[step])
        with pytest.raises(UserError, match=r"127.0.0.1 sends what is pushed on to localhost\."):
            push(made, "policy", "me/policy")
    assert other.asked == []
    hub.instead = lambda method, path: None
    push(made, "policy", "me/policy")  # and the library's client is as it was


def test_another_place_on_the_same_host_is_no_other_host(made, hub):
    answers(hub, "privacy", 307, Location=f"{STEPS['privacy']}?moved")
    assert push(made, "policy", "me/policy")["private"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("text", ["<html>log in</html>", '{"url": "http', "null", "[]"])
def test_an_answer_that_is_none_is_said_to_be_none(made, hub, step, text):
    answers(hub, step, 200, text)
    with pytest.raises(UserError, match="what the hub answers cannot be read"):
        push(made, "policy", "me/policy")


@pytest.mark.parametrize("step", ["create", "privacy", "names", "commit"])
def test_what_a_hub_says_of_a_request_that_it_refuses_is_shown(made, hub, step):
    for status in (400, 403):
        answers(hub, step, status, json.dumps({"error": "the storage is full"}))
        with pytest.raises(UserError, match=r"the hub refused it \(.*the storage is full") as refused:
            push(made, "policy", "me/policy")
        assert ("HF_TOKEN" in str(refused.value)) == (status == 403)


@pytest.mark.parametrize("step", STEPS)
def test_a_hub_that_asks_to_wait_for_a_day_is_not_waited_for(made, hub, step):
    for headers in ({"Retry_After": "86400"}, {"RateLimit": '"api";r=0;t=86400'}):
        answers(hub, step, 429, "{}", **headers)
        with pytest.raises(UserError, match=r"asks to wait 86,400 s"):
            push(made, "policy", "me/policy")


def test_a_token_that_comes_back_is_not_printed(run, hub):
    answers(hub, "create", 403, '{"error": "no"}', X_Error_Message="hf_test may not")
    line = [sys.executable, "-m", "rlaif", "publish", str(run), "--to", "me/policy"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "the token may not" in done.stderr
    assert "hf_test" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
