"""The vLLM engine around a scheduler that finishes requests out of order; a real one is asked by `make
test-vllm`."""

import math
from types import SimpleNamespace

import pytest

import rlaif.engines.vllm as module
from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, ScoreRequest, open_engine
from rlaif.engines.vllm import VllmEngine
from rlaif.errors import UserError
from rlaif.playground import FEEDBACK
from rlaif.prompting.templates import user
from rlaif.records import decode_tokens


class Scheduler:
    """vLLM's engine: finishes the youngest two requests a step; a verdict's first answer token gets 0.6,
    others 0.1."""

    def __init__(self) -> None:
        self.queue: list[tuple[str, list[int], dict]] = []
        self.aborted: list[str] = []
        self.most, self.said = 0, -1.0
        self.model_config = SimpleNamespace(max_model_len=100)

    def add_request(self, request_id: str, prompt: dict, settings: dict) -> None:
        self.queue.append((request_id, prompt, settings))
        self.most = max(self.most, len(self.queue))

    def step(self) -> list:
        return [self.finished(*self.queue.pop()) for _ in range(min(2, len(self.queue)))]

    def finished(self, request_id: str, prompt: list[int], settings: dict):
        ids = settings.get("logprob_token_ids")
        if ids:
            assert settings["max_tokens"] == 1
            probs = {i: SimpleNamespace(logprob=math.log(0.6 if i == ids[0] else 0.1)) for i in ids}
            output = SimpleNamespace(logprobs=[probs], token_ids=[ids[0]], finish_reason="length")
        else:
            assert settings["logprobs"] == 0
            written = [*prompt[-3:-1], 1]
            said = [{token: SimpleNamespace(logprob=self.said)} for token in written]
            output = SimpleNamespace(token_ids=written, logprobs=said, finish_reason="stop")
        return SimpleNamespace(request_id=request_id, finished=True, outputs=[output])

    def abort_request(self, ids: list[str]) -> None:
        self.aborted += ids


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "_IN_FLIGHT", 4)
    engine = VllmEngine(ModelConfig(engine="vllm", model=str(FEEDBACK)))
    engine.__dict__["llm"] = SimpleNamespace(llm_engine=Scheduler())
    engine.__dict__["vllm"] = SimpleNamespace(
        SamplingParams=lambda **settings: settings, inputs=SimpleNamespace(tokens_input=list)
    )
    return engine


def scheduler(engine: VllmEngine) -> Scheduler:
    return engine.llm.llm_engine


def test_verdicts_find_their_place_and_few_are_in_flight(engine: VllmEngine):
    requests = [ScoreRequest([user(f"garden {n} ")], ("one", "two", "three"), ("A", "B")) for n in range(5)]
    found = dict(engine.score_choices(requests))
    assert sorted(found) == list(range(5))
    assert all(len(scores.logprobs) == 3 for scores in found.values())
    assert found[0].probability(0) == pytest.approx((7 / 9, 2 / 9))  # "A" and " A" against "B" and " B"
    assert found[0].answer_mass(0) == pytest.approx(0.9)
    assert scheduler(engine).most <= 4
    assert engine.usage.calls == 15
    assert not scheduler(engine).aborted


def test_a_choice_is_the_sum_of_its_spellings():
    found = {
        7: SimpleNamespace(logprob=math.log(0.2)),
        8: SimpleNamespace(logprob=math.log(0.3)),
        9: SimpleNamespace(logprob=-900.0),
    }
    one, other = module._sums(found, ([7, 8], [9]))
    assert math.exp(one) == pytest.approx(0.5)
    assert other == pytest.approx(-900)


def test_a_choice_that_is_no_number_and_one_that_is_ruled_out():
    found = {n: SimpleNamespace(logprob=x) for n, x in enumerate((math.nan, math.inf, -math.inf, -1.0))}
    nan, infinite, ruled_out, other = module._sums(found, ([0], [1], [2, 2], [2, 3]))
    assert math.isnan(nan)
    assert (infinite, ruled_out, other) == (math.inf, -math.inf, -1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_text_whose_logits_are_no_numbers_is_refused(engine: VllmEngine, value: float):
    scheduler(engine).said = value
    with pytest.raises(UserError, match="its logits are NaN or infinite"):
        list(engine.generate([GenerateRequest([user("river")], 8)]))


def test_texts_too_long_ones_and_leaving_early(engine: VllmEngine):
    chats = [[user("garden " * (n * 200))] for n in range(2)] + [[user(f"river {n}")] for n in range(6)]
    made = dict(engine.generate([GenerateRequest(chat, 8, seed=-1) for chat in chats]))
    assert made[1].finish_reason == "too_long"
    assert [made[n].finish_reason for n in range(2, 8)] == ["stop"] * 6
    assert made[2].tokens == 3
    ids = decode_tokens(made[2].token_ids)
    assert (len(ids), ids[-1]) == (3, 1)  # the end token is among them
    arriving = engine.generate([GenerateRequest(chat, 8) for chat in chats[2:]])
    next(arriving)
    arriving.close()
    assert len(scheduler(engine).aborted) == 3


def test_a_seed_of_its_own_for_every_text(engine: VllmEngine):
    settings = engine._writing(GenerateRequest([user("?")], 8, 0.7, 0.9, seed=-3))
    assert settings["seed"] >= 0
    assert (settings["temperature"], settings["top_p"], settings["max_tokens"]) == (0.7, 0.9, 8)
    assert settings["stop_token_ids"] == [engine.tokenizer.eos_token_id]


def test_same_weights_another_engine_another_fingerprint(engine: VllmEngine):
    other = open_engine(ModelConfig(model=str(FEEDBACK)))
    assert engine.fingerprint == other.fingerprint.replace("transformers:", "vllm:")
    assert engine.batched


def test_without_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the vllm package"):
        open_engine(ModelConfig(engine="vllm", model=str(FEEDBACK)))


def test_a_gpu_is_chosen_outside(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        VllmEngine(ModelConfig(engine="vllm", model=str(FEEDBACK), device="cuda:1"))


def test_what_vllm_cannot_load_is_the_users_to_mend(engine: VllmEngine):
    def refuse(**_: object) -> None:
        raise ValueError("No available memory for the cache blocks.\nmore")

    del engine.__dict__["llm"]
    engine.vllm.LLM = refuse
    with pytest.raises(UserError, match=r"cannot load it here \(No available memory for the cache blocks.\)"):
        _ = engine.llm
