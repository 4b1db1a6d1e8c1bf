"""The vLLM engine in process against the transformers engine."""

import gc
from random import Random

import psutil
import pytest

from rlaif.config import ModelConfig
from rlaif.engines import Engine, GenerateRequest, ScoreRequest, open_engine
from rlaif.playground import FEEDBACK, POLICY
from rlaif.playground.grammar import sample_question
from rlaif.prompting.templates import user
from tests_vllm.conftest import agree, in_order


@pytest.fixture(scope="module")
def in_process() -> Engine:
    return open_engine(ModelConfig(engine="vllm", model=str(FEEDBACK)))


def test_verdicts_in_process(in_process, requests, reference):
    agree(in_order(in_process, requests), reference)
    assert in_process.llm.llm_engine.vllm_config.cache_config.enable_prefix_caching
    assert in_process.usage.calls == sum(len(request.suffixes) for request in requests)
    read = in_process.usage.prompt_tokens - in_process.usage.shared_tokens
    assert read == sum(scores.prompt_tokens for scores in reference)


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
    assert made[0].finish_reason == "too_long"
    assert made[1].finish_reason in ("stop", "length")
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
