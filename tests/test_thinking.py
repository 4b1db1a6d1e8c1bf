"""Thinking is kept apart from the response: in engines, rows, the cache and where tokens are measured."""

import pytest

from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, Generation, Scripted, open_engine
from rlaif.engines.cache import CachedEngine
from rlaif.engines.responses import parse_response
from rlaif.prompting.thinking import split_thinking
from rlaif.prompting.turns import measured_tokens, text_of
from rlaif.records import Response, encode_tokens
from tests.tiny_gguf import tiny_gguf


@pytest.mark.parametrize(
    ("text", "thinking", "response"),
    [
        ("<think>Easy.</think>\n\nIt is Rome.", "Easy.", "It is Rome."),
        ("\n<think>\nEasy.\n</think>", "Easy.", ""),
        ("<thinking>a < b </thinking>Rome", "a < b", "Rome"),
        ("[THINK]hm[/THINK]Rome", "hm", "Rome"),
        ("<|channel|>analysis<|message|>hm<|channel|>final<|message|>Rome", "hm", "Rome"),
        ("<think>It goes on and", "It goes on and", ""),
        ("It is Rome. <think>no</think>", "", "It is Rome. <think>no</think>"),
        ("Rome </think> Milan", "", "Rome </think> Milan"),
        (" plain ", "", " plain "),
    ],
)
def test_only_a_block_at_the_beginning_is_thinking(text, thinking, response):
    assert split_thinking(text) == (thinking, response)
    made = Generation(text, "stop")
    assert (made.thinking, made.text) == (thinking, response)


def test_a_server_may_have_taken_it_out():
    body = {
        "choices": [{"message": {"content": "Rome", "reasoning_content": "Easy."}, "finish_reason": "stop"}]
    }
    answer = parse_response(body)
    assert answer is not None
    assert (answer.text, answer.thinking, answer.thinks) == ("Rome", "Easy.", False)


def test_the_cache_keeps_it(tmp_path):
    engine = CachedEngine(Scripted(lambda r: "<think>hm</think>Rome"), tmp_path / "cache.sqlite")
    request = GenerateRequest([{"role": "user", "content": "?"}], 9)
    first, again = (dict(engine.generate([request]))[0] for _ in range(2))
    assert engine.usage.cached == 1
    assert again == first
    assert (again.text, again.thinking) == ("Rome", "hm")


def test_log_probabilities_are_taken_at_all_tokens_of_a_response_that_began_with_thinking(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    tiny_gguf(tmp_path / "tiny.gguf")
    tokenizer = open_engine(ModelConfig(model=str(tmp_path / "tiny.gguf"), device="cpu")).tokenizer
    ids = [*tokenizer("<think>ab</think>ab")["input_ids"], tokenizer.eos_token_id]
    assert text_of(tokenizer, ids) == "ab"
    response = Response(prompt_id="p", text="ab", thinking="ab", token_ids=encode_tokens(ids))
    assert measured_tokens(tokenizer, [{"role": "user", "content": "?"}], response) == ids
    assert '"thinking":"ab"' in response.to_json()
    assert "thinking" not in Response(prompt_id="p", text="ab").to_json()
