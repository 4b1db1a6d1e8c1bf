"""Questions that a server does not take: each is a refusal of that question, and the others are answered."""

import json
from collections.abc import Callable, Iterator

import pytest

import rlaif.engines.endpoints as endpoints
from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, ScoreRequest
from rlaif.engines.cache import CachedEngine
from rlaif.engines.declined import declined
from rlaif.engines.openai import OpenAIEngine
from rlaif.errors import UserError
from rlaif.prompting.templates import user
from tests.stub_server import Stub, serving

KEY = "sk-very-secret"


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", KEY)
    monkeypatch.setattr(endpoints, "PAUSE", 0.001)
    monkeypatch.setattr(endpoints, "LONGEST", 0.05)
    monkeypatch.setattr(endpoints, "FIRST", 0.1)


def engine_at(url: str, **options) -> OpenAIEngine:
    settings = {"model": "judge", "api_key_env": "STUB_KEY", "concurrency": 4} | options
    return OpenAIEngine(ModelConfig(engine="openai", base_url=url, **settings))


@pytest.fixture
def engine(stub: Stub) -> Iterator[OpenAIEngine]:
    with serving(stub) as url:
        yield engine_at(url)


def texts(engine: OpenAIEngine, count: int) -> list[str]:
    requests = [GenerateRequest([user(f"question {n}")], 9, seed=n) for n in range(count)]
    return [made.text or made.finish_reason for _, made in sorted(engine.generate(requests))]


def verdict(engine: OpenAIEngine, text: str = "question 3"):
    return dict(engine.score_choices([ScoreRequest([user(text)], ("",), ("A", "B"))]))[0]


def refusing(
    stub: Stub, fault: str, wanted: Callable[[str], bool] = lambda text: "question 3" in text
) -> None:
    """The server plays the fault for the questions it does not want, each time they are asked."""
    stub.fault = lambda body: (
        stub.asked.append(body) or (fault if wanted(body["messages"][-1]["content"]) else None)
    )


REFUSALS = {
    "403 Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO": "HTTP 403",
    "403 forbidden by the moderator": "HTTP 403",
    "400 Input data may contain inappropriate content. (data_inspection_failed)": "content filter",
    "400 input contains sensitive words: [x] (sensitive_words_detected)": "content filter",
    "400 The response was filtered, see Azure OpenAI's content management policy": "content filter",
    "400 words that nobody has seen before": "HTTP 400",
    "422 words that nobody has seen before": "HTTP 422",
    "451 not in this country": "HTTP 451",
    'body {"error": {"message": "flagged", "code": 403}}': "HTTP 403",
    'body {"error": {"message": "Input was flagged by moderation", "code": 400}}': "content filter",
    'body {"error": {"message": "blocked", "code": "blocked"}}': "no choices in the response",
    'body {"error": "blocked"}': "no choices in the response",
    'body {"choices": []}': "no choices in the response",
    'body {"choices": null}': "no choices in the response",
    "body {}": "no choices in the response",
    "body []": "half a response",
    "500 it makes the server stumble": "HTTP 500",
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_refused_question_is_counted_and_the_others_are_answered(
    engine: OpenAIEngine, stub: Stub, fault: str
):
    refusing(stub, fault)
    assert texts(engine, 12) == ["B"] * 3 + ["refused"] + ["B"] * 8
    assert engine.usage.refused == {REFUSALS[fault]: 1}
    assert [note for note in engine.notes if f"1 questions refused (1 × {REFUSALS[fault]}" in note]


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_rerun_with_nothing_left_but_the_refused_question_goes_on(
    engine: OpenAIEngine, stub: Stub, fault: str
):
    refusing(stub, fault)
    scores = verdict(engine)
    assert not scores.readable(0)
    assert not scores.too_long
    assert engine.usage.refused == {REFUSALS[fault]: 1}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("403 no such rights", "refuses the key in STUB_KEY"),
        ("401 bad key", "refuses the key in STUB_KEY"),
        ("400 logit_bias is odd", "responds with an error (Error code: 400"),
        ('body {"choices": []}', "no endpoint has responded"),
        ('body {"error": {"code": 403, "message": "no"}}', "refuses the key in STUB_KEY"),
        ("402 pay first", "responds with an error (Error code: 402"),
    ],
)
def test_where_all_questions_fail_it_is_no_refusal_of_one(
    engine: OpenAIEngine, stub: Stub, fault: str, words: str
):
    stub.always = fault
    with pytest.raises(UserError) as error:
        texts(engine, 12)
    assert words in str(error.value)
    assert not engine.usage.refused


def test_a_key_that_is_used_up_half_way_is_not_a_row_of_refusals(engine: OpenAIEngine, stub: Stub):
    stub.fault = lambda body: (
        stub.asked.append(body) or ("403 Key limit exceeded" if len(stub.asked) > 5 else None)
    )
    with pytest.raises(UserError, match="refuses the key"):
        texts(engine, 20)


def test_a_filtered_verdict_says_nothing_of_log_probabilities(engine: OpenAIEngine, stub: Stub):
    good = stub.answer

    def answer(body: dict) -> dict:
        made = good(body)
        if "question 3" in body["messages"][-1]["content"]:
            made["choices"][0] |= {
                "finish_reason": "content_filter",
                "logprobs": None,
                "message": {"content": None},
            }
        return made

    stub.answer = answer
    assert not verdict(engine).readable(0)
    assert engine.usage.refused == {"content filter": 1}
    assert verdict(engine, "question 4").answer_mass(0) == pytest.approx(0.9)
    assert texts(engine, 4) == ["B", "B", "B", "refused"]


def test_a_refusal_is_not_kept_in_the_cache(stub: Stub, tmp_path):
    refusing(stub, "403 not now")
    with serving(stub) as url:
        first = CachedEngine(engine_at(url), tmp_path / "cache.sqlite")
        assert not verdict(first).readable(0)
        assert texts(first, 4)[3] == "refused"
        stub.fault = lambda body: stub.asked.append(body)
        later = CachedEngine(engine_at(url), tmp_path / "cache.sqlite")
        assert verdict(later).readable(0)
        assert texts(later, 4) == ["B"] * 4
        assert later.usage.cached == 3


def test_a_harmless_question_is_asked_in_the_same_form(engine: OpenAIEngine, stub: Stub):
    refusing(stub, "403 no")
    chat = [{"role": "system", "content": "Be kind."}, user("question 3")]
    made = dict(engine.generate([GenerateRequest(chat, 9, 0.5, 0.9, 7)]))[0]
    asked, harmless = stub.asked
    assert made.finish_reason == "refused"
    assert harmless.pop("messages") == [{**turn, "content": "Hello."} for turn in asked.pop("messages")]
    assert harmless == asked
    assert engine.usage.calls == 1


TOO_LONG = [
    # vLLM, SGLang, TGI, TensorRT-LLM, llama.cpp, LM Studio, Ollama
    "400 This model's maximum context length is 8192 tokens. However, you requested 8203 tokens.",
    "400 'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context length "
    "is 4096 tokens",
    "400 You passed 9000 input tokens and requested 16 output tokens. However, the model's context "
    "length is only 8192",
    "400 The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
    "400 The input (61709 tokens) is longer than the model's context length (40960 tokens).",
    "400 Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens).",
    "400 Requested token count exceeds the model's maximum context length of 4096 tokens.",
    "422 Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
    "422 Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 "
    "`inputs` tokens",
    "400 the request exceeds the available context size, try increasing it",
    "400 request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "500 the request exceeds the available context size. try increasing the context size or enable "
    "context shift",
    "400 The number of tokens to keep from the initial prompt is greater than the context length.",
    "400 input length exceeds the context length",
    "400 prompt too long; exceeded max context length by 12 tokens",
    # hosted services
    "400 Please reduce the length of the messages or completion.",
    "400 Your input exceeds the context window of this model. Please adjust your input and try again.",
    "400 This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "400 prompt is too long: 214850 tokens > 200000 maximum",
    "400 input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000, decrease input length",
    "400 Input is too long for requested model.",
    "400 The input token count (140000) exceeds the maximum number of tokens allowed (131072).",
    "400 Prompt contains 150000 tokens and 0 draft tokens, too large for model with 128000 maximum "
    "context length",
    "400 Your request exceeded model token limit: 262144 (requested: 300000)",
    "400 invalid params, context window exceeds limit (2013)",
    "400 Range of input length should be [1, 30720]: the input length exceeds 30720",
    "400 Too many tokens: total tokens exceed what the model takes",
    "400 Invalid 'messages[0].content': string too long. Expected a string with maximum length 10485760",
    "413 Request Entity Too Large",
    "413 Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested 9012",
    "429 Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40155.",
    "400 prompt token count of 130000 exceeds the limit of 128000",
]


@pytest.mark.parametrize("fault", TOO_LONG)
def test_too_long_in_the_words_of_each_server(fault: str):
    status, _, text = fault.partition(" ")
    no = declined(int(status), text)
    assert no is not None
    assert no.why == "too_long"


@pytest.mark.parametrize(
    "fault",
    [
        "400 Input data may contain inappropriate content.",
        "429 Rate limit reached: too many tokens per minute, try again in 3s",
        "400 max_tokens is too large: 20000. This model supports at most 16384 completion tokens.",
        "500 internal error",
        "400 bad request",
        "401 wrong key",
        "400 temperature must be at most 2",
        "503 the model is too busy",
        "400 Invalid max_tokens value, the valid range is [1, 8192]",
    ],
)
def test_other_words_do_not_mean_too_long(fault: str):
    status, _, text = fault.partition(" ")
    no = declined(int(status), text)
    assert no is None or no.why != "too_long"


def test_a_question_in_unknown_words_too_long_is_a_refusal_of_that_question(engine: OpenAIEngine, stub: Stub):
    refusing(stub, "400 your text has more pages than I like", lambda text: len(text) > 20)
    assert texts(engine, 3) == ["B"] * 3
    assert not verdict(engine, "a very long question, longer than all others").readable(0)


def test_a_server_that_wants_max_completion_tokens_is_asked_with_those(engine: OpenAIEngine, stub: Stub):
    words = (
        "400 Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead."
    )
    stub.fault = lambda body: stub.asked.append(body) or (words if "max_tokens" in body else None)
    assert texts(engine, 30) == ["B"] * 30
    assert verdict(engine).readable(0)
    assert 31 < len(stub.asked) <= 31 + engine.config.concurrency
    assert stub.asked[-1]["max_completion_tokens"] == 1
    assert engine.usage.calls == 31


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "temperature",
            "400 Unsupported value: 'temperature' does not support 0.0 with this model. Only the default "
            "(1) value",
        ),
        (
            "seed",
            '422 {"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "type": '
            '"extra_forbidden"}',
        ),
        ("top_p", "400 Unsupported parameter: 'top_p' is not supported with this model."),
    ],
)
def test_an_option_that_a_server_does_not_take_is_left_out_and_said(
    engine: OpenAIEngine, stub: Stub, name: str, words: str
):
    stub.fault = lambda body: stub.asked.append(body) or (words if name in body else None)
    assert texts(engine, 9) == ["B"] * 9
    assert [note for note in engine.notes if f"takes no {name}; its own is used" in note]


def test_what_the_model_config_adds_reaches_the_server_and_the_fingerprint(stub: Stub):
    added = {"chat_template_kwargs": {"enable_thinking": False}, "extra_body": {"reasoning_effort": "none"}}
    with serving(stub) as url:
        engine = engine_at(url, **added)
        texts(engine, 1)
        assert verdict(engine).readable(0)
        plain = engine_at(url)
        texts(plain, 1)
    for body in stub.asked[:2]:
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert body["reasoning_effort"] == "none"
    assert not {"chat_template_kwargs", "reasoning_effort"} & stub.asked[2].keys()
    assert engine.fingerprint != plain.fingerprint == "openai:judge"


@pytest.mark.parametrize(
    "text", ["<think>\nOkay, the user", "<think>", " <|channel|>analysis<|message|>Hm", "[THINK]A is"]
)
def test_a_judge_that_thinks_first_is_said_to(engine: OpenAIEngine, stub: Stub, text: str):
    stub.text, stub.top = text, [("<think>", 0.99), ("\n", 0.005)]
    assert not verdict(engine).readable(0)
    stub.logprobs = False
    assert not verdict(engine_at(engine.endpoints[0].url)).readable(0)
    assert [
        note
        for note in engine.notes
        if "begin with the model's thinking" in note and "enable_thinking" in note
    ]


def test_thinking_that_the_server_takes_out_is_said_too(engine: OpenAIEngine, stub: Stub):
    good = stub.answer
    stub.logprobs, stub.text = False, ""

    def answer(body: dict) -> dict:
        made = good(body)
        made["choices"][0]["message"] |= {"content": None, "reasoning_content": "Okay, the user"}
        return made

    stub.answer = answer
    assert not verdict(engine).readable(0)
    assert [note for note in engine.notes if "begin with the model's thinking" in note]


def test_a_verdict_after_thinking_is_read(engine: OpenAIEngine, stub: Stub):
    stub.logprobs, stub.text = False, "<think>\n\n</think>\n\nReply B is better."
    assert verdict(engine).probability(0)[1] == pytest.approx(1.0)
    assert not [note for note in engine.notes if "thinking" in note]


def test_content_as_a_list_of_parts(engine: OpenAIEngine, stub: Stub):
    stub.text = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "A?"}]},
        {"type": "text", "text": "B, "},
        {"type": "text", "text": "surely"},
    ]
    assert texts(engine, 1) == ["B, surely"]
    assert verdict(engine).answer_mass(0) == pytest.approx(0.9)
    assert not engine.usage.retried


@pytest.mark.parametrize("key", ["none", "test", "EMPTY", "ollama", "1", KEY])
def test_the_key_is_cut_out_of_messages_and_not_out_of_texts(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, key: str
):
    monkeypatch.setenv("STUB_KEY", key)
    stub.text = f"None of 10 tests, testing {key} ollamas, EMPTY or 1."
    with serving(stub) as url:
        engine = engine_at(url)
        assert texts(engine, 1) == [stub.text]
        stub.always = f"400 the key {key} was used 101 times for testing"
        with pytest.raises(UserError) as error:
            texts(engine, 1)
    assert f"the key {key} was" not in str(error.value)
    assert "was used 101 times for testing" in str(error.value)


def test_a_key_in_a_finish_reason_or_an_address_goes_nowhere(stub: Stub):
    stub.finish = KEY
    with serving(stub) as url:
        made = dict(engine_at(url).generate([GenerateRequest([user("x")], 9)]))[0]
        assert (made.text, made.finish_reason) == ("B", "stop")
        with pytest.raises(UserError, match="base_url holds the key of STUB_KEY"):
            engine_at(f"{url}/{KEY}")


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("max_tokens", "length"),
        ("LENGTH", "length"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("SAFETY", "content_filter"),
    ],
)
def test_reasons_to_end_in_other_words(engine: OpenAIEngine, stub: Stub, reason: str, finish: str):
    stub.finish = reason
    assert dict(engine.generate([GenerateRequest([user("x")], 9)]))[0].finish_reason == finish


def test_a_lone_surrogate_is_replaced_on_arrival_and_counted(engine: OpenAIEngine, stub: Stub):
    stub.text = "half \ud83d a pair \U0001f600 \udc00"
    assert texts(engine, 2) == ["half \ufffd a pair \U0001f600 \ufffd"] * 2
    json.dumps(engine.notes, ensure_ascii=False).encode()
    assert [note for note in engine.notes if "4 lone surrogates" in note]
    stub.top = [("\ud83d", 0.1), ("B", 0.6)]
    assert verdict(engine).readable(0)
    stub.model = "\ud83d"
    with pytest.raises(UserError) as error:
        texts(engine, 1)
    str(error.value).encode()


def test_a_question_with_a_lone_surrogate_is_asked_all_the_same(engine: OpenAIEngine, stub: Stub):
    made = dict(engine.generate([GenerateRequest([user("half \ud83d a pair")], 9)]))[0]
    assert made.text == "B"
    assert stub.asked[0]["messages"][0]["content"] == "half \ufffd a pair"
