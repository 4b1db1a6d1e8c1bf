"""The endpoint engine against a real `vllm serve`, and both against the transformers engine."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from rlaif.config import ModelConfig
from rlaif.engines import Engine, open_engine
from rlaif.playground import FEEDBACK
from tests_vllm.conftest import agree, in_order

KEY = "sk-between-these-two-alone"


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The address of a `vllm serve` of the judge that asks for a key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The module behind `vllm serve`, whose own script asks for metadata that the CPU build has under another
    # name.
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(FEEDBACK),
        "--served-model-name",
        "judge",
        "--uvicorn-log-level",
        "warning",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--api-key",
        KEY,
    ]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # and whatever it left behind
        server.wait(30)


def wait_for(url: str, server: subprocess.Popen, seconds: float = 500) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, "vllm serve ended before it answered"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise TimeoutError(url)


@pytest.fixture
def over_http(served: str, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return open_engine(ModelConfig(engine="openai", model="judge", base_url=served, api_key_env="JUDGE_KEY"))


def test_verdicts_over_http(over_http, requests, reference):
    agree(in_order(over_http, requests), reference)
    assert over_http.notes == []
