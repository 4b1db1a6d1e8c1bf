"""The endpoint engine against a real HTTP server that answers, refuses, breaks off and lies."""

from collections.abc import Callable, Iterator
from threading import Lock

import pytest

import rlaif.engines.endpoints as endpoints
import rlaif.engines.openai as module
from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, ScoreRequest
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


def engine_at(*urls: str, **options) -> OpenAIEngine:
    settings = {"model": "judge", "api_key_env": "STUB_KEY", "concurrency": 4} | options
    return OpenAIEngine(ModelConfig(engine="openai", base_url=urls, **settings))


@pytest.fixture
def engine(stub: Stub) -> Iterator[OpenAIEngine]:
    with serving(stub) as url:
        yield engine_at(url)


def asks(count: int, **options) -> list[GenerateRequest]:
    return [
        GenerateRequest([user(f"question {n}")], **{"max_tokens": 9, "seed": n} | options)
        for n in range(count)
    ]


def question(*suffixes: str, choices: tuple[str, ...] = ("A", "B")) -> ScoreRequest:
    return ScoreRequest([user("shared ")], suffixes, choices)


def test_texts_come_with_their_settings(engine: OpenAIEngine, stub: Stub):
    made = dict(engine.generate([*asks(9, temperature=0.7, top_p=0.9), *asks(1, max_tokens=3)]))
    assert sorted(made) == list(range(10))
    assert (made[0].text, made[0].finish_reason, made[0].prompt_tokens, made[0].tokens) == ("B", "stop", 7, 2)
    assert made[9].finish_reason == "length"
    sent = {body["seed"]: body for body in stub.asked if body["max_tokens"] == 9}
    assert (sent[3]["temperature"], sent[3]["top_p"], sent[3]["max_tokens"], sent[3]["model"]) == (
        0.7,
        0.9,
        9,
        "judge",
    )
    assert (engine.usage.calls, engine.usage.prompt_tokens, engine.usage.tokens) == (10, 70, 20)


def test_scores_sum_spellings_and_floor_what_is_missing(engine: OpenAIEngine, stub: Stub):
    scores = dict(engine.score_choices([question("one", "two")]))[0]
    assert sorted(b["messages"][-1]["content"] for b in stub.asked) == ["shared one", "shared two"]
    assert {(b["max_tokens"], b["top_logprobs"], b["temperature"]) for b in stub.asked} == {(1, 20, 0.0)}
    assert scores.probability(0) == pytest.approx((1 / 3, 2 / 3))
    assert scores.answer_mass(1) == pytest.approx(0.9)
    assert scores.prompt_tokens == 14


def test_many_questions_each_once_and_in_their_place(engine: OpenAIEngine, stub: Stub):
    requests = [ScoreRequest([user(f"q{n}:")], ("a", "b", "c"), ("A", "B")) for n in range(20)]
    assert sorted(i for i, _ in engine.score_choices(requests)) == list(range(20))
    assert len(stub.asked) == len(stub.tries) == 60


@pytest.mark.parametrize("faults", [["429", "500", "503"], ["half"], ["empty", "half"], ["cut", "429"]])
def test_passing_troubles_lose_and_double_nothing(engine: OpenAIEngine, stub: Stub, faults: list[str]):
    stub.faults = faults
    made = list(engine.generate(asks(6)))
    assert sorted(i for i, _ in made) == list(range(6))
    assert all(g.text == "B" for _, g in made)
    assert engine.usage.calls == 6
    assert set(stub.tries.values()) == {len(faults) + 1}


def test_without_log_probabilities_a_verdict_is_written(engine: OpenAIEngine, stub: Stub):
    stub.logprobs, stub.text = False, "Reply B."
    scores = dict(engine.score_choices([question("one", "two")]))[0]
    assert scores.probability(0)[1] == pytest.approx(1.0)
    assert scores.answer_mass(0) is None  # nobody measured it
    assert len(stub.asked) == 5  # one of them three times for log-probabilities, then both for a word
    assert "no log-probabilities; 2 verdicts were parsed from written text" in engine.notes[1]
    stub.asked.clear()
    list(engine.score_choices([question("last")]))
    assert len(stub.asked) == 1  # the server is not asked for them any more


@pytest.mark.parametrize("concurrency", [1, 2, 16])
def test_an_answer_without_log_probabilities_is_no_failure(stub: Stub, monkeypatch, concurrency: int):
    stub.logprobs = False
    monkeypatch.setattr(endpoints, "PAUSE", 100.0)  # a rest would show
    with serving(stub) as url:
        engine = engine_at(url, concurrency=concurrency, patience=5.0)
        assert len(list(engine.score_choices([question(f"{n}") for n in range(30)]))) == 30
    assert engine.usage.calls == len(stub.asked) == 33
    assert engine.usage.retried == {"no log-probabilities": 2}


def test_a_server_that_forbids_log_probabilities(engine: OpenAIEngine, stub: Stub):
    declines(stub, lambda body: "logprobs" in body, "400 logprobs is not supported by this model")
    assert dict(engine.score_choices([question("one")]))[0].probability(0)[1] == pytest.approx(1.0)


def test_a_server_that_gives_fewer_log_probabilities_is_asked_for_those(engine: OpenAIEngine, stub: Stub):
    declines(stub, lambda body: body.get("top_logprobs", 0) > 5, "400 top_logprobs must be between 0 and 5")
    answers = dict(engine.score_choices([question(f"{n}") for n in range(8)]))
    assert [scores.probability(0)[1] for scores in answers.values()] == pytest.approx([2 / 3] * 8)
    assert [body["top_logprobs"] for body in stub.asked] == [20] + [5] * 8


def declines(stub: Stub, what: Callable[[dict], bool], fault: str) -> None:
    stub.fault = lambda body: stub.asked.append(body) or (fault if what(body) else None)


@pytest.mark.parametrize(
    "text",
    [
        "As a model I will not compare A and B.",
        "I'm sorry, I can't compare these. Reply A or not, the choice is: A",
    ],
)
def test_a_lecture_is_unreadable_not_a_tie(engine: OpenAIEngine, stub: Stub, text: str):
    stub.logprobs, stub.text = False, text
    scores = dict(engine.score_choices([question("one")]))[0]
    assert scores.logprobs == ((),)
    assert not scores.readable(0)
    assert scores.answer_mass(0) == 0.0


def test_an_answer_without_any_choice_among_its_tokens(engine: OpenAIEngine, stub: Stub):
    stub.top = [("I", 0.7), ("As", 0.2)]
    assert not dict(engine.score_choices([question("one")]))[0].readable(0)


@pytest.mark.parametrize(
    "fault",
    [
        "400 This model's maximum context length is 8 tokens",
        "422 Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 "
        "`inputs` tokens",
        "400 The input token count (140000) exceeds the maximum number of tokens allowed (131072).",
        "400 The decoder prompt (length 9000) is longer than the maximum model length of 8192; logprobs "
        "are off.",
    ],
)
def test_what_does_not_fit_is_counted_not_cut(engine: OpenAIEngine, stub: Stub, fault: str):
    stub.always = fault
    assert dict(engine.generate(asks(1)))[0].finish_reason == "too_long"
    scores = dict(engine.score_choices([question("one", "two")]))[0]
    assert scores.too_long
    assert not scores.readable(1)


def stops(engine: OpenAIEngine) -> str:
    with pytest.raises(UserError) as error:
        list(engine.generate(asks(3)))
    assert KEY not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("401 the key {KEY} is wrong", "refuses the key in STUB_KEY"),
        ("404 The model `judge` does not exist", 'no model "judge" there'),
        ("400 bad request of {KEY}", "responds with an error (Error code: 400"),
        ("429 insufficient_quota", "responds with an error (Error code: 429"),
        ("other model", 'asked for "judge", answered by "tiny-chat"'),
    ],
)
def test_what_asking_again_would_not_mend_stops_at_once(
    engine: OpenAIEngine, stub: Stub, fault: str, words: str
):
    stub.always = fault.format(KEY=KEY)
    assert words in stops(engine)
    assert len(stub.asked) <= 8  # of each question, and of a harmless one in its form


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("429 slow down, {KEY}", "HTTP 429"),
        ("500", "HTTP 500"),
        ("half", "half a response"),
        ("empty", "no choices in the response"),
        ("cut", "no connection"),
        ("silence", "no response in time"),
    ],
)
def test_lasting_troubles_stop_in_bounded_time_with_their_counts(
    engine: OpenAIEngine, stub: Stub, monkeypatch, fault: str, words: str
):
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    monkeypatch.setattr(endpoints, "FIRST", 0.1)
    engine.pool.patience = 0.2
    stub.always = fault.format(KEY=KEY)
    said = stops(engine)
    assert "no endpoint has responded" in said
    assert f"× {words}" in said
    assert engine.usage.as_dict()[f"retried: {words}"] >= 1


def test_a_silent_server_is_left_after_the_patience_and_a_slow_one_is_not(stub: Stub):
    stub.always, stub.silence = "silence", 30.0
    with serving(stub) as url:
        began = endpoints.time.monotonic()
        said = stops(engine_at(url, patience=0.3))
        assert "no endpoint has responded for" in said
        assert "raise patience where one response takes longer than 0.3 s" in said
        assert endpoints.time.monotonic() - began < 25  # the server is silent for 30
    slow, turn = Stub(), Lock()

    def one_at_a_time(body: dict) -> None:
        with turn:
            endpoints.time.sleep(0.3)

    slow.fault = one_at_a_time
    with serving(slow) as url:  # the last of them waits for 2.4 s
        engine = engine_at(url, patience=1.6, concurrency=8)
        assert len(list(engine.generate(asks(8)))) == 8
    assert engine.notes == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda choice, answer: choice["logprobs"]["content"][0]["top_logprobs"][0].update(logprob=None),
        lambda choice, answer: choice["logprobs"]["content"][0]["top_logprobs"][0].update(
            logprob=float("nan")
        ),
        lambda choice, answer: choice["logprobs"]["content"][0]["top_logprobs"][0].update(token=7),
        lambda choice, answer: choice["logprobs"].update(content={"token": "A"}),
        lambda choice, answer: choice["message"].update(content=[{"type": "text", "text": 7}]),
        lambda choice, answer: choice.update(finish_reason="abort"),
        lambda choice, answer: answer.update(choices={"0": choice}),
        lambda choice, answer: answer.update(model=["judge"]),
    ],
)
def test_answers_of_odd_shape_are_asked_for_again(engine: OpenAIEngine, stub: Stub, spoil):
    good = stub.answer

    def answer(body: dict) -> dict:
        made = good(body)
        if len(stub.asked) == 1:
            spoil(made["choices"][0], made)
        return made

    stub.answer = answer
    scores = dict(engine.score_choices([question("one")]))[0]
    assert scores.probability(0) == pytest.approx((1 / 3, 2 / 3))
    assert engine.usage.retried == {"half a response": 1}


def test_what_a_server_says_does_not_reach_a_terminal_as_it_is(engine: OpenAIEngine, stub: Stub):
    stub.always = "400 \x1b[2J\x1b]0;owned\x07 \x9b31m bad"
    assert "\\x1b[2J\\x1b]0;owned\\x07" in stops(engine)
    stub.always, stub.model = None, "evil\x1b[31m\x9b\u202e"
    assert next(iter(engine.health().values())).endswith("serves evil\\x1b[31m\\x9b\\u202e")
    assert r'answered by "evil\x1b[31m\x9b\u202e"' in stops(engine)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endpoints, "FIRST", 0.1)
    said = stops(engine_at("http://127.0.0.1:9/v1"))
    assert "127.0.0.1:9/v1: " in said
    assert "× no connection" in said
    assert "vllm serve" in said


def test_one_question_that_nobody_answers_is_given_up_and_counted(engine: OpenAIEngine, stub: Stub):
    stub.fault = lambda body: "500" if body["seed"] == 10 else None
    made = dict(engine.generate(asks(40)))
    assert sorted(made) == list(range(40))
    assert [index for index, text in made.items() if text.finish_reason == "refused"] == [10]
    assert engine.usage.as_dict()["refused: HTTP 500"] == 1
    assert engine.usage.retried["HTTP 500"] == endpoints.TRIES


def test_what_an_answered_endpoint_does_next_is_given_more_patience(stub: Stub):
    pool = engine_at("http://127.0.0.1:9/v1").pool
    assert pool._silence_limit() == endpoints.FIRST
    pool.endpoints[0].failed(endpoints.Trouble("HTTP 429"), 0.0, pool.patience)
    assert pool._silence_limit() == pool.patience  # it says that it will answer
    pool.endpoints[0].failed(endpoints.Trouble("no connection"), 0.0, pool.patience)
    assert pool._silence_limit() == endpoints.FIRST
    pool.endpoints[0].record_response()
    assert pool._silence_limit() == pool.patience


def test_two_endpoints_share_the_work(stub: Stub):
    other = Stub()
    with serving(stub) as one, serving(other) as two:
        engine = engine_at(one, two)
        assert sorted(i for i, _ in engine.generate(asks(80))) == list(range(80))
        assert engine.fingerprint == engine_at(two, one).fingerprint
    assert len(stub.asked) + len(other.asked) == 80
    assert len(stub.asked) > 5
    assert len(other.asked) > 5
    assert engine.notes == []


def test_work_moves_away_from_an_endpoint_that_is_down_and_back(stub: Stub):
    other = Stub()
    other.always = "503"
    with serving(stub) as one, serving(other) as two:
        engine = engine_at(one, two)
        made = list(engine.generate(asks(50)))
        assert sorted(i for i, _ in made) == list(range(50))
        assert len(stub.asked) == 50
        assert len(other.asked) < 50  # tried by one question at a time
        assert engine.usage.calls == 50
        assert engine.usage.retried["HTTP 503"] == len(other.asked)
        assert [note for note in engine.notes if "× HTTP 503" in note]
        other.always = None
        other.asked.clear()
        assert len(list(engine.generate(asks(100)))) == 100
        assert len(other.asked) > 5


def test_all_endpoints_down(stub: Stub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(endpoints, "FIRST", 0.1)
    stub.always = "500"
    with serving(stub) as url:
        said = stops(engine_at(url, "http://127.0.0.1:9/v1"))
    assert "HTTP 500" in said
    assert "127.0.0.1:9/v1: " in said


def test_an_endpoint_that_gives_log_probabilities_is_asked_for_missing_ones_again(
    engine: OpenAIEngine, stub: Stub
):
    list(engine.score_choices([question("one")]))
    stub.faults = ["bare", "bare"]
    scores = dict(engine.score_choices([question("two")]))[0]
    assert scores.probability(0) == pytest.approx((1 / 3, 2 / 3))
    assert engine.usage.retried["no log-probabilities"] == 2
    stub.faults = ["bare"] * 9
    assert dict(engine.score_choices([question("three")]))[0].probability(0)[1] == pytest.approx(1.0)
    assert [note for note in engine.notes if "not always log-probabilities; 1 verdicts" in note]


def test_a_content_filter_makes_a_question_unreadable(engine: OpenAIEngine, stub: Stub):
    stub.always = "400 The response was filtered due to the content management policy"
    assert dict(engine.generate(asks(1)))[0].finish_reason == "refused"
    assert engine.usage.refused == {"content filter": 1}
    scores = dict(engine.score_choices([question("one")]))[0]
    assert not scores.readable(0)
    assert not scores.too_long


def test_another_name_for_the_model(stub: Stub):
    stub.model = "tiny-chat"
    with serving(stub) as url:
        assert list(engine_at(url, served_as="tiny-chat").generate(asks(1)))


def test_health(engine: OpenAIEngine, stub: Stub):
    (said,) = engine.health().values()
    assert said == "well; serves judge"
    stub.model = "other"
    assert "has no judge; serves other" in next(iter(engine.health().values()))
    assert engine_at("http://127.0.0.1:9/v1").health() == {"127.0.0.1:9/v1": "no connection"}


def test_leaving_early_stops_asking(engine: OpenAIEngine, stub: Stub):
    arriving = engine.generate(asks(400))
    next(arriving)
    arriving.close()
    assert len(stub.asked) < 400


def test_a_key_is_needed_only_without_an_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        OpenAIEngine(ModelConfig(engine="openai", model="m"))
    OpenAIEngine(ModelConfig(engine="openai", model="m", base_url="http://host:8000/v1/"))


def test_the_fingerprint_is_of_the_model_wherever_it_is_served():
    here, there = (
        OpenAIEngine(ModelConfig(engine="openai", model="m", base_url=url)).fingerprint
        for url in ("http://host:8000/v1", ("http://host:8001/v1", "http://other/v1"))
    )
    assert here == there == "openai:m"
    named = ModelConfig(engine="openai", model="m", base_url="http://host/v1", served_as="org/m-7b")
    assert OpenAIEngine(named).fingerprint == "openai:m served as org/m-7b"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "http://user:pass@host/v1"}, "carries a password or a token"),
        ({"base_url": ("http://host/v1", "http://host/v1?key=x")}, "carries a password or a token"),
        ({"base_url": "http://host/v1#sk-secret"}, "carries a password or a token"),
        ({"base_url": "http://@host/v1"}, "carries a password or a token"),
        ({"base_url": "user:pass@host"}, "carries a password or a token"),
        ({"base_url": "host:8000"}, "no address"),
        ({"base_url": "http://host:99999/v1"}, "Port out of range"),
        ({"api_key_env": "sk-very-secret"}, "not the key itself"),
        ({"api_key_env": "gsk_a1b2c3d4e5f6a7b8c9d0"}, "not the key itself"),
        ({"extra_body": {"stream": True}}, "extra_body: stream is set by rlaif itself"),
    ],
)
def test_secrets_do_not_belong_into_a_config(options: dict, words: str):
    with pytest.raises(ValueError, match=words) as error:
        ModelConfig(engine="openai", model="m", **options)
    assert "pass" not in str(error.value).split("[type")[0].replace("a password", "")
