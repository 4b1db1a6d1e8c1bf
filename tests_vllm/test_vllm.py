"""Both ways to a real vLLM, in process and over HTTP, against the transformers engine on the playground's judge.

Run by `make test-vllm` in an environment of its own; see requirements.txt beside this file.
"""

import gc
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from random import Random

import psutil
import pytest

from rlaif.config import ASSETS, ModelConfig
from rlaif.constitution import Constitution
from rlaif.engines import Engine, GenerateRequest, ScoreRequest, Scores, open_engine
from rlaif.playground import FEEDBACK, POLICY
from rlaif.playground.grammar import EVEN, sample_question, sample_reply
from rlaif.prompts import Templates, user

KEY = "sk-between-these-two-alone"
PAIRS = 40
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; a model of a million parameters needs no more


@pytest.fixture(scope="module")
def requests() -> list[ScoreRequest]:
    """Pairs of playground replies, each with every principle: 40 × 7 questions."""
    templates, rng = Templates.load("brief"), Random("vllm")
    principles = Constitution.load(ASSETS / "constitutions" / "playground.yaml").principles
    suffixes = tuple(templates.comparison_suffix(p) for p in principles)
    asked = []
    for _ in range(PAIRS):
        question = sample_question(rng)
        a, b = (sample_reply(rng, question, EVEN) for _ in "ab")
        chat = templates.comparison(question.messages, a, b)
        asked.append(ScoreRequest(chat, suffixes, ("A", "B")))
    return asked


@pytest.fixture(scope="module")
def reference(requests: list[ScoreRequest]) -> list[Scores]:
    engine = open_engine(ModelConfig(model=str(FEEDBACK), device="cpu"))
    return in_order(engine, requests)


@pytest.fixture(scope="module")
def in_process() -> Engine:
    return open_engine(ModelConfig(engine="vllm", model=str(FEEDBACK)))


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The address of a `vllm serve` of the judge that asks for a key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The module behind `vllm serve`, whose own script asks for metadata that the CPU build has under another name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(FEEDBACK),
               "--served-model-name", "judge", "--uvicorn-log-level", "warning",
               "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
               "--api-key", KEY]  # fmt: skip
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    server = subprocess.Popen(command, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def wait_for(url: str, server: subprocess.Popen, seconds: float = 300) -> None:
    for _ in range(int(seconds)):
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


def in_order(engine: Engine, requests: list[ScoreRequest]) -> list[Scores]:
    found = list(engine.score_choices(requests))
    assert sorted(index for index, _ in found) == list(range(len(requests)))
    return [scores for _, scores in sorted(found, key=lambda pair: pair[0])]


def agree(found: list[Scores], reference: list[Scores]) -> None:
    """Within 2e-2 in probability everywhere, the same choice in 99.5 %, and the same captured mass."""
    places = [(scores, other, s) for scores, other in zip(found, reference, strict=True)
              for s in range(len(other.logprobs))]  # fmt: skip
    assert len(places) >= 200
    pairs = [(x.probability(s)[0], y.probability(s)[0]) for x, y, s in places]
    worst = max(abs(x - y) for x, y in pairs)
    same = sum((x > 0.5) == (y > 0.5) for x, y in pairs) / len(pairs)
    mass = max(abs(x.mass(s) - y.mass(s)) for x, y, s in places)
    decided = sum(abs(y - 0.5) > 0.2 for _, y in pairs)
    print(
        f"{len(pairs)} verdicts ({decided} decided): worst {worst:.1e}, same choice {same:.4f}, mass {mass:.1e}"
    )
    assert decided >= 50
    assert worst <= 2e-2
    assert same >= 0.995
    assert mass <= 2e-2


def test_verdicts_in_process(in_process, requests, reference):
    agree(in_order(in_process, requests), reference)
    assert in_process.llm.llm_engine.vllm_config.cache_config.enable_prefix_caching
    assert in_process.usage.calls == sum(len(request.suffixes) for request in requests)
    assert in_process.usage.prompt_tokens == sum(scores.prompt_tokens for scores in reference)


def test_verdicts_over_http(over_http, requests, reference):
    agree(in_order(over_http, requests), reference)
    assert over_http.notes == []


def greetings(count: int, **options) -> list[GenerateRequest]:
    rng = Random("greet")
    chats = [sample_question(rng).messages for _ in range(count)]
    return [GenerateRequest(chat, **{"max_tokens": 32, "seed": n} | options) for n, chat in enumerate(chats)]


def test_texts_in_process(in_process):
    asked = greetings(12, temperature=0.0)
    reference = dict(open_engine(ModelConfig(model=str(FEEDBACK), device="cpu")).generate(asked))
    texts = dict(in_process.generate(asked))
    assert sum(texts[n] == reference[n] for n in range(12)) >= 11  # text, finish and token counts
    free = greetings(8)
    once, again = dict(in_process.generate(free)), dict(in_process.generate(list(reversed(free))))
    assert [once[n].text for n in range(8)] == [again[7 - n].text for n in range(8)]
    assert len({g.text for g in dict(in_process.generate(greetings(1) + greetings(1, seed=9))).values()}) == 2


def test_what_does_not_fit_in_process(in_process):
    long = [user("garden " * 600)]
    made = dict(in_process.generate([GenerateRequest(long, 8), *greetings(1)]))
    assert made[0].finish == "too_long"
    assert made[1].finish in ("stop", "length")
    scores = dict(in_process.score_choices([ScoreRequest(long, ("?",), ("A", "B"))]))[0]
    assert scores.too_long


def test_leaving_early_in_process(in_process):
    arriving = in_process.generate(greetings(6))
    next(arriving)
    arriving.close()
    assert not in_process.llm.llm_engine.has_unfinished_requests()


def test_an_engine_gives_its_memory_back():
    before = set(psutil.Process().children(recursive=True))
    engine = open_engine(ModelConfig(engine="vllm", model=str(POLICY)))
    assert dict(engine.generate(greetings(1)))[0].text
    new = set(psutil.Process().children(recursive=True)) - before
    started = [process for process in new if "resource_tracker" not in " ".join(process.cmdline())]
    assert started
    del engine
    gc.collect()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
