"""The endpoint engine against a real HTTP server that answers, refuses, breaks off and lies."""

import json
import math
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import rlaif.engines.openai as module
from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, ScoreRequest
from rlaif.engines.openai import OpenAIEngine, parse_choice, sum_variants
from rlaif.errors import UserError
from rlaif.prompts import user

KEY = "sk-very-secret"


class Stub:
    """What the server does: `faults` are played before a good answer, each question its own count."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.tries: Counter[str] = Counter()
        self.faults: list[str] = []
        self.always: str | None = None
        self.logprobs = True
        self.text = "B"
        self.top = [("A", 0.2), (" A", 0.1), ("B", 0.6), ("The", 0.05)]

    def fault(self, body: dict) -> str | None:
        """The fault to play for this try, None for a good answer."""
        self.asked.append(body)
        key = json.dumps(body, sort_keys=True)
        self.tries[key] += 1
        played = self.tries[key] - 1
        return self.always or (self.faults[played] if played < len(self.faults) else None)

    def answer(self, body: dict) -> dict:
        """A good answer."""
        choice = {"index": 0, "finish_reason": "length" if body.get("max_tokens") == 3 else "stop",
                  "message": {"role": "assistant", "content": f" {self.text} "}}  # fmt: skip
        if body.get("logprobs") and self.logprobs:
            top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in self.top]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice],
                "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}  # fmt: skip


def handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = stub.fault(body)
            if fault == "half":
                self.reply(200, json.dumps(stub.answer(body)).encode()[:60])
            elif fault == "empty":
                self.reply(200, json.dumps({**stub.answer(body), "choices": []}).encode())
            elif fault == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"{")
                self.close_connection = True
            elif fault:
                status, _, text = fault.partition(" ")
                self.reply(int(status), json.dumps({"error": {"message": text or "no"}}).encode())
            else:
                self.reply(200, json.dumps(stub.answer(body)).encode())

        def reply(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def engine(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIEngine]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(stub))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("STUB_KEY", KEY)
    monkeypatch.setattr(module, "PAUSE", 0.001)
    url = f"http://127.0.0.1:{server.server_port}/v1"
    yield OpenAIEngine(
        ModelConfig(engine="openai", model="judge", base_url=url, api_key_env="STUB_KEY", concurrency=4)
    )
    server.shutdown()
    server.server_close()


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
    assert (made[0].text, made[0].finish, made[0].prompt_tokens, made[0].tokens) == ("B", "stop", 7, 2)
    assert made[9].finish == "length"
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
    assert scores.mass(1) == pytest.approx(0.9)
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
    assert scores.mass(0) == pytest.approx(1.0)
    assert len(engine.notes) == 1
    assert "no log-probabilities" in engine.notes[0]
    stub.asked.clear()
    list(engine.score_choices([question("three")]))
    assert len(stub.asked) == 1  # the server is not asked for them again


def test_a_server_that_forbids_log_probabilities(engine: OpenAIEngine, stub: Stub):
    def fault(body: dict) -> str | None:
        return "400 logprobs is not supported by this model" if body.get("logprobs") else None

    stub.fault = fault
    assert dict(engine.score_choices([question("one")]))[0].probability(0)[1] == pytest.approx(1.0)


def test_a_lecture_is_unreadable_not_a_tie(engine: OpenAIEngine, stub: Stub):
    stub.logprobs, stub.text = False, "As a model I will not compare A and B."
    scores = dict(engine.score_choices([question("one")]))[0]
    assert scores.logprobs == ((),)
    assert not scores.readable(0)
    assert scores.mass(0) == 0.0


def test_an_answer_without_any_choice_among_its_tokens(engine: OpenAIEngine, stub: Stub):
    stub.top = [("I", 0.7), ("As", 0.2)]
    assert not dict(engine.score_choices([question("one")]))[0].readable(0)


def test_what_does_not_fit_is_counted_not_cut(engine: OpenAIEngine, stub: Stub):
    stub.always = "400 This model's maximum context length is 8 tokens"
    assert dict(engine.generate(asks(1)))[0].finish == "too_long"
    scores = dict(engine.score_choices([question("one", "two")]))[0]
    assert scores.too_long
    assert not scores.readable(1)


def stops(engine: OpenAIEngine) -> str:
    with pytest.raises(UserError) as error:
        list(engine.generate(asks(3)))
    assert KEY not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("fault", "words"), [
    ("429 slow down", "answers with an error (Error code: 429"),
    ("500", "Error code: 500"),
    ("half", "its answers are not whole"),
    ("empty", "its answers are not whole"),
    (f"401 the key {KEY} is wrong", "refuses the key in STUB_KEY"),
    ("404 The model `judge` does not exist", 'no model "judge" there'),
    (f"400 bad request of {KEY}", "Error code: 400"),
])  # fmt: skip
def test_lasting_troubles_stop_with_a_message(
    engine: OpenAIEngine, stub: Stub, monkeypatch, fault: str, words: str
):
    monkeypatch.setattr(module, "RETRIES", 1)
    stub.always = fault
    assert words in stops(engine)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RETRIES", 0)
    engine = OpenAIEngine(ModelConfig(engine="openai", model="m", base_url="http://127.0.0.1:9/v1"))
    said = stops(engine)
    assert "cannot be reached" in said
    assert "vllm serve m" in said


def test_what_was_answered_before_the_end_is_kept(engine: OpenAIEngine, stub: Stub, monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 0)

    def fault(body: dict) -> str | None:
        return "500" if body["seed"] == 30 else None

    stub.fault = fault
    got = []
    with pytest.raises(UserError):
        got.extend(index for index, _ in _collect(engine, got))
    assert set(range(20)) <= set(got)
    assert 30 not in got


def _collect(engine: OpenAIEngine, got: list[int]) -> Iterator[tuple[int, object]]:
    for index, made in engine.generate(asks(40)):
        got.append(index)
        yield index, made


def test_leaving_early_stops_asking(engine: OpenAIEngine, stub: Stub):
    arriving = engine.generate(asks(400))
    next(arriving)
    arriving.close()
    assert len(stub.asked) < 400


def test_a_key_is_needed_only_without_an_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        OpenAIEngine(ModelConfig(engine="openai", model="m"))
    local = OpenAIEngine(
        ModelConfig(engine="openai", model="m", base_url="http://user:pass@host:8000/v1/?token=x")
    )
    assert local.fingerprint == "openai:m@host:8000/v1"


def test_the_key_is_in_nothing_that_is_kept(engine: OpenAIEngine, stub: Stub):
    stub.logprobs = False
    list(engine.score_choices([question("one")]))
    assert KEY not in engine.fingerprint + "".join(engine.notes)


@pytest.mark.parametrize(("top", "expected"), [
    ([("Yes", 0.5), (" Yes", 0.2), ("No", 0.1)], (0.7, 0.1)),
    ([("Y", 0.5), ("No", 0.25), ("Maybe", 0.05)], (0.5, 0.25)),  # the beginning of one choice alone
    ([("Yes", 0.9), ("Hm", 0.06)], (0.9, 0.04)),  # the most that is left
    ([("Yes", 0.5), ("Hm", 0.1)], (0.5, 0.1)),  # no more than the last of the list
])  # fmt: skip
def test_sum_variants(top: list[tuple[str, float]], expected: tuple[float, ...]):
    summed = sum_variants([(t, math.log(p)) for t, p in top], ("Yes", "No"))
    assert [math.exp(x) for x in summed] == pytest.approx(expected)


def test_a_token_that_begins_two_choices_counts_for_none():
    assert sum_variants([("1", math.log(0.5))], ("10", "11")) == ()
    one, ten = sum_variants([("1", math.log(0.5)), ("10", math.log(0.3))], ("1", "10"))
    assert (math.exp(one), math.exp(ten)) == (pytest.approx(0.5), pytest.approx(0.3))


@pytest.mark.parametrize(("text", "found"), [
    ("A", "A"), ("**B**", "B"), ("(A)", "A"), ("Reply B is better.", "B"), ("Answer: A\n", "A"),
    ("A or B?", None), ("", None), ("Both.", None), ("ABBA", None), ("a", None), ("A's fine", None),
])  # fmt: skip
def test_parse_choice(text: str, found: str | None):
    assert parse_choice(text, ("A", "B")) == found
    assert parse_choice("10", ("1", "10")) == "10"
