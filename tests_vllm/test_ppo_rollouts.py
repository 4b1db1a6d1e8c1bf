"""PPO's responses from a real vLLM: its log-probabilities are the trainer's, and follow the weights."""

import copy
from random import Random

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlaif.options import PpoOptions
from rlaif.playground import POLICY
from rlaif.playground.grammar import sample_question
from rlaif.prompting.chat import encode_chat
from rlaif.rl import reward as rewards
from rlaif.rl.episodes import PromptTokens
from rlaif.rl.ppo import PPO
from rlaif.rl.vllm_rollout import VllmSampler
from tests.test_ppo_stage import rows_of, run_on_one_thread, stage_of

OPTIONS = PpoOptions(
    stage="ppo",
    rollouts="vllm",
    batch_size=32,
    micro_batch=16,
    max_tokens=24,
    temperature=0.7,
    learning_rate=3e-3,
    warmup=0,
    epochs=2,
)


def prompts() -> list[PromptTokens]:
    tokenizer, rng = AutoTokenizer.from_pretrained(POLICY), Random("ppo")
    return [PromptTokens(encode_chat(tokenizer, sample_question(rng).messages), n) for n in range(32)]


def trainer(folder) -> PPO:
    """PPO on a model folder, rewarded for short responses, its samples vLLM's."""
    from transformers import AutoModelForSequenceClassification

    policy = AutoModelForCausalLM.from_pretrained(folder).eval()
    value = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    eos, pad = (policy.config.eos_token_id,), policy.config.pad_token_id
    sampler = VllmSampler(str(folder), OPTIONS, eos, pad, None, torch.float32, 120)
    return PPO(
        policy,
        copy.deepcopy(policy),
        rewards.zero_head(value),
        lambda e, _: -e.response_B.float() / 24,
        OPTIONS,
        eos,
        pad,
        sampler=sampler,
    )


@pytest.fixture(scope="module")
def tied():
    """The playground's policy, whose head is its embedding."""
    yield (made := trainer(POLICY))
    made.sampler.close()


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """The same shape with random weights, grouped keys, biases and a head of its own."""
    folder = tmp_path_factory.mktemp("untied")
    config = AutoModelForCausalLM.from_pretrained(POLICY).config.to_dict()
    torch.manual_seed(0)
    changes = {
        "tie_word_embeddings": False,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "initializer_range": 0.1,
    }
    LlamaForCausalLM(LlamaConfig(**{**config, **changes})).save_pretrained(folder)
    yield (made := trainer(folder))
    made.sampler.close()


def same_tokens(ppo: PPO) -> None:
    asked = prompts()
    once, again, other = (ppo.sample(asked, "rollout", n) for n in (1, 1, 2))
    assert once.responses() == again.responses()
    assert once.responses() != other.responses()
    assert torch.equal(once.behaviour_BR, again.behaviour_BR)
    twins = ppo.sample([asked[0]] * 8, "rollout", 1).responses()
    assert len({tuple(r) for r in twins}) > 1  # a row's random numbers are its own
    eos = OPTIONS.max_tokens
    assert all((len(r) < eos) <= e for r, e in zip(once.responses(), once.ended_B.tolist(), strict=True))


@pytest.mark.parametrize("which", ["tied", "untied"])
def test_the_samplers_log_probabilities_follow_the_trainers_weights(which, request):
    ppo = request.getfixturevalue(which)
    same_tokens(ppo)
    for number in (1, 2, 3):
        metrics, seen = ppo.update(number, prompts())
        real = seen.episodes.mask_BR
        worst = float((seen.sampler_log_prob - seen.log_prob)[real].abs().max())
        moved = float((seen.log_prob - seen.reference)[real].abs().max())
        print(
            f"{which}, update {number}: {int(real.sum())} tokens, furthest from the trainer {worst:.1e}, "
            f"ratio {metrics['sampler_ratio']:.6f}, at most {metrics['sampler_ratio_max']:.6f}, KL "
            f"{metrics['sampler_kl']:.1e}; "
            f"weights moved them by {moved:.2f}"
        )
        assert worst < 2e-2
        assert metrics["ratio_first"] == 1.0
        assert metrics["sampler_ratio"] == pytest.approx(1, abs=1e-3)
    assert moved > 0.5  # stale weights would be this far off
    metrics, _ = ppo.update(4, prompts())
    assert metrics["sampler_kl"] < 1e-6


def test_a_stage_from_end_to_end_leaves_no_process(tmp_path):
    before = set(psutil.Process().children(recursive=True))
    options = {"updates": 2, "rollouts": "vllm", "max_tokens": 24, "batch_size": 16, "checkpoint_every": 1}
    stage = run_on_one_thread(stage_of(tmp_path / "run", POLICY, **options))
    rows = rows_of(stage)
    assert [row["update"] for row in rows] == [1, 2]
    for row in rows:
        assert row["ratio_first"] == 1.0
        assert row["sampler_kl"] < 1e-6
        assert row["sampler_ratio_max"] < 1.02
    start, end = (AutoModelForCausalLM.from_pretrained(f) for f in (POLICY, stage.dir / "policy"))
    assert not torch.equal(start.lm_head.weight, end.lm_head.weight)
    new = set(psutil.Process().children(recursive=True)) - before
    running = [process for process in new if process.status() != psutil.STATUS_ZOMBIE]
    assert all("resource_tracker" in " ".join(process.cmdline()) for process in running)
