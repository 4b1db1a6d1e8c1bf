"""PPO's responses from vLLM, around a stand-in that samples with the weights it was sent; `make test-vllm`
asks a real one."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load
from transformers import AutoModelForCausalLM

import rlaif.engines.vllm as engine
from rlaif.errors import UserError
from rlaif.options import LoraOptions, PpoOptions
from rlaif.rl import lora, vllm_rollout
from rlaif.rl.ppo import PPO
from rlaif.rl.ranks import Ranks
from rlaif.rl.vllm_rollout import Receiver, VllmSampler
from tests.test_ppo import EOS, PAD, prompts, trainer, wanted_share
from tests.test_ppo_stage import rows_of, run_on_one_thread, stage_of
from tests.tiny_models import tiny_policy


class Llm:
    """vLLM's face around a transformers model; a response is drawn from its own seed, ends at a stop
    token."""

    made: list["Llm"]

    def __init__(self, **settings):
        self.settings, self.parts, self.asked, self.closed = settings, [], [], []
        self.model = AutoModelForCausalLM.from_pretrained(settings["model"]).eval()
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: self.closed.append(1)))
        self.made.append(self)

    def collective_rpc(self, method, args=()):
        return [getattr(self, method)(*args)]

    def receive_weights_from_rlaif(self, data):
        self.parts.append(load(data))

    def put_in_weights_from_rlaif(self):
        weights = {name: weight for part in self.parts for name, weight in part.items()}
        self.parts = []
        unknown = self.model.load_state_dict(weights, strict=False).unexpected_keys
        assert not unknown
        return sorted({name for name, _ in self.model.named_parameters()} - weights.keys())

    def generate(self, asked, settings, use_tqdm):
        self.asked += settings
        return [
            SimpleNamespace(outputs=[self.one(x["prompt_token_ids"], y)])
            for x, y in zip(asked, settings, strict=True)
        ]

    @torch.no_grad()
    def one(self, prompt, settings):
        generator, ids, said = torch.Generator().manual_seed(settings.seed), list(prompt), []
        while len(ids) - len(prompt) < settings.max_tokens and ids[-1] not in settings.stop_token_ids:
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, -1] / settings.temperature
            token = int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
            ids.append(token)
            said.append({token: SimpleNamespace(logprob=float(logits.log_softmax(-1)[token]))})
        return SimpleNamespace(token_ids=tuple(ids[len(prompt) :]), logprobs=said)


@pytest.fixture
def fake(monkeypatch):
    """The stand-in for the package; → the engines that were made of it."""
    Llm.made = []
    package = SimpleNamespace(LLM=Llm, SamplingParams=lambda **settings: SimpleNamespace(**settings))
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm_rollout, "package", lambda: package)
    return Llm.made


def sampling_by_vllm(folder: Path, stops=None, **changes) -> PPO:
    """The trainer of the other tests, with its policy saved where vLLM finds it."""
    ppo = trainer(rollouts="vllm", **changes)
    copy.deepcopy(ppo.policy).save_pretrained(folder)
    sampler = VllmSampler(str(folder), ppo.options, (EOS,), PAD, stops, torch.float32, 64)
    return PPO(
        ppo.policy, ppo.reference, ppo.value, wanted_share, ppo.options, (EOS,), PAD, seed=1, sampler=sampler
    )


def test_the_sampler_has_the_policys_weights_at_every_update(fake, tmp_path):
    ppo = sampling_by_vllm(tmp_path, learning_rate=1e-2, epochs=2, temperature=0.7)
    assert not ppo.reuses_passes  # the sampler read with another arithmetic: the trainer looks for itself
    assert ppo.options.importance_cap == 2.0
    start = copy.deepcopy(ppo.policy)
    for number in (1, 2, 3):
        metrics, seen = ppo.update(number, prompts())
        assert metrics["ratio_first"] == 1.0
        torch.testing.assert_close(seen.sampler_log_prob, seen.log_prob, atol=1e-5, rtol=1e-5)
        assert metrics["sampler_ratio"] == pytest.approx(1, abs=1e-5)
        assert metrics["sampler_ratio_max"] == pytest.approx(1, abs=1e-4)
    assert (seen.log_prob - seen.reference).abs().max() > 0.05  # they have moved
    assert not torch.equal(start.lm_head.weight, fake[0].model.lm_head.weight)
    assert 0 < metrics["truncated"] < 1
    ended = [response[-1] == EOS for response in seen.episodes.responses()]
    assert seen.episodes.ended_B.tolist() == ended
    assert len(fake) == 1


def test_tokens_go_in_and_come_out_unfiltered(fake, tmp_path):
    ppo = sampling_by_vllm(tmp_path, temperature=0.7)
    once, again, other = (ppo.sample(prompts(), "rollout", n) for n in (1, 1, 2))
    assert torch.equal(once.ids_BL, again.ids_BL)
    assert once.responses() != other.responses()
    settings = fake[0].settings
    assert settings["logprobs_mode"] == "processed_logprobs"  # those of the temperature
    assert settings["enable_prefix_caching"] is False
    assert (settings["dtype"], settings["max_model_len"]) == ("float32", 64)
    name, _, kind = settings["worker_extension_cls"].rpartition(".")
    assert (name, kind) == (vllm_rollout.__name__, Receiver.__name__)
    asked = fake[0].asked[:16]
    assert len({s.seed for s in asked}) == 16
    assert all((s.temperature, s.top_p, s.top_k, s.min_p) == (0.7, 1.0, 0, 0.0) for s in asked)
    assert all((s.stop_token_ids, s.ignore_eos, s.logprobs) == ([EOS], True, 0) for s in asked)


def test_a_response_ends_where_its_text_does(fake, tmp_path):
    def stops(ids):  # the turn is over at the first token above 11
        return next((n + 1 for n, token in enumerate(ids) if token > 11), None)

    found = sampling_by_vllm(tmp_path, stops).sample(prompts(), "rollout", 1)
    assert found.behaviour_BR is not None
    assert found.behaviour_BR.shape == found.mask_BR.shape
    over = [response for response in found.responses() if response[-1] > 11]
    assert over
    for response, ended in zip(found.responses(), found.ended_B.tolist(), strict=True):
        assert all(token <= 11 for token in response[:-1])
        assert ended == (response[-1] > 11 or response[-1] == EOS)


def test_adapters_arrive_merged_and_stay_apart_here(fake, tmp_path):
    ppo = trainer(lora={"rank": 4}, learning_rate=1e-2)
    ppo.policy.save_pretrained(tmp_path)
    lora.attach(ppo.value, LoraOptions(rank=4), "", 1)
    wrapped = lora.attach(ppo.policy, ppo.options.lora, "base", 0)
    sampler = VllmSampler(str(tmp_path), ppo.options, (EOS,), PAD, None, torch.float32, 64)
    ppo = PPO(ppo.policy, None, ppo.value, wanted_share, ppo.options, (EOS,), PAD, seed=1, sampler=sampler)
    for number in (1, 2):
        _, seen = ppo.update(number, prompts())
        torch.testing.assert_close(seen.sampler_log_prob, seen.log_prob, atol=1e-5, rtol=1e-5)
    assert (seen.log_prob - seen.reference).abs().max() > 0.01
    here = dict(lora.merged(ppo.policy))
    whole = wrapped.merge_and_unload()
    assert here.keys() == {name for name, _ in whole.named_parameters()}
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(here[name], weight, atol=1e-6, rtol=1e-6)


def test_an_architecture_whose_weights_have_other_names_is_refused(fake, tmp_path, monkeypatch):
    ppo = sampling_by_vllm(tmp_path)
    monkeypatch.setattr(Llm, "put_in_weights_from_rlaif", lambda self: ["experts.w13", "experts.w2"])
    with pytest.raises(UserError, match=r"2 of its weights have no counterpart, experts.w13 first"):
        ppo.update(1, prompts())

    def unknown(self):
        raise RuntimeError("Call to collective_rpc method failed: 'experts.gate_up'\nmore")

    monkeypatch.setattr(Llm, "put_in_weights_from_rlaif", unknown)
    with pytest.raises(UserError, match="did not take the weights") as caught:
        ppo.update(1, prompts())
    assert "experts.gate_up" in caught.value.found
    assert "leave ppo.rollouts out" in caught.value.next


def test_what_vllm_cannot_load_is_the_users_to_mend(fake, tmp_path, monkeypatch):
    def refuse(self, **_):
        raise ValueError("Model architectures ['OddForCausalLM'] are not supported for now.")

    monkeypatch.setattr(Llm, "__init__", refuse)
    with pytest.raises(UserError, match="OddForCausalLM") as caught:
        sampling_by_vllm(tmp_path).update(1, prompts())
    assert "ppo.rollout_memory" in caught.value.next


def test_the_cap_is_the_users_to_set_or_leave_out():
    assert PpoOptions(stage="ppo").importance_cap is None
    assert PpoOptions(stage="ppo", rollouts="vllm").importance_cap == 2.0
    assert PpoOptions(stage="ppo", rollouts="vllm", importance_cap=1.5).importance_cap == 1.5
    assert PpoOptions(stage="ppo", rollouts="vllm", importance_cap=None).importance_cap is None


def test_a_stage_samples_by_vllm_and_lets_it_go(fake, tmp_path):
    stage = run_on_one_thread(
        stage_of(tmp_path / "run", tiny_policy(tmp_path / "policy"), updates=2, rollouts="vllm")
    )
    rows = rows_of(stage)
    assert [row["update"] for row in rows] == [1, 2]
    assert all(row["sampler_kl"] < 1e-6 and row["ratio_first"] == 1.0 for row in rows)
    assert (stage.dir / "policy" / "model.safetensors").exists()
    assert fake[0].settings["max_model_len"] <= 64
    assert fake[0].closed


@pytest.mark.parametrize("looking", [False, True], ids=["in an update", "at held-out prompts"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_log_probabilities_that_are_no_numbers_stop_the_stage(fake, tmp_path, monkeypatch, value, looking):
    one = Llm.one

    def broken(self, prompt, settings):
        made = one(self, prompt, settings)
        # An update asks for a batch of 8 first, and then the look for held-out prompts.
        if not looking or len(self.asked) > 8:
            next(iter(made.logprobs[-1].values())).logprob = value
        return made

    monkeypatch.setattr(Llm, "one", broken)
    policy = tiny_policy(tmp_path / "policy")
    texts = [f"tell me about number {n}" for n in range(400)]  # of which a hundredth is held out
    options = {"updates": 2, "rollouts": "vllm", "batch_size": 8, "minibatches": 1, "num_watched_prompts": 1}
    stage = stage_of(tmp_path / "run", policy, texts=texts, **options)
    assert stage.run.prompts("heldout")
    with pytest.raises(
        UserError, match=r"the log-probability of a token that vLLM sampled is (nan|-inf)"
    ) as caught:
        run_on_one_thread(stage)
    assert "update 1 of 2" in caught.value.found
    assert fake[0].closed


def test_a_stage_without_vllm_or_on_several_processes_is_refused(tmp_path, monkeypatch):
    policy = tiny_policy(tmp_path / "policy")
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ppo\.rollouts: vllm needs the vllm package"):
        run_on_one_thread(stage_of(tmp_path / "run", policy, rollouts="vllm"))
    monkeypatch.setattr(Ranks, "current", classmethod(lambda cls: Ranks(0, 2)))
    with pytest.raises(UserError, match="vllm on 2 processes") as caught:
        run_on_one_thread(stage_of(tmp_path / "two", policy, rollouts="vllm"))
    assert "one process" in caught.value.need
