"""On another device than the CPU every tensor is put there, and what comes out is the same."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rlaif.engines import GenerateRequest
from rlaif.engines.decoding import decode
from rlaif.engines.shared import score_plain, score_shared
from rlaif.options import PpoOptions
from rlaif.rl.episodes import PromptTokens, join
from rlaif.rl.forward import compare_responses, final_scores, response_logits
from rlaif.rl.ppo import PPO
from rlaif.rl.pretraining import Pretraining
from rlaif.rl.trunk import SharedTrunk
from tests.elsewhere import HERE, second_device

EOS, PAD = 1, 0
LLAMA = LlamaConfig(
    vocab_size=16,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=PAD,
    eos_token_id=EOS,
    bos_token_id=None,
    initializer_range=0.1,
    tie_word_embeddings=True,
    num_labels=1,
)
GPT2 = GPT2Config(
    vocab_size=16,
    n_embd=32,
    n_layer=2,
    n_head=2,
    n_positions=64,
    pad_token_id=PAD,
    eos_token_id=EOS,
    bos_token_id=None,
)


@pytest.fixture
def elsewhere(monkeypatch):
    with second_device(monkeypatch) as device:
        yield device


def model(kind, config, device):
    torch.manual_seed(0)
    found = kind(config).eval().to(device)
    found.tie_weights()
    return found


def policy(device):
    return model(LlamaForCausalLM, LLAMA, device)


def batch(device):
    ended = torch.tensor([True, False, True], device=device)
    return join([[2, 3], [4], [5, 6, 7]], [[8, 9, EOS], [10], [11, EOS]], ended, PAD)


def test_tensors_of_both_sides_do_not_mix(elsewhere):
    far, near = torch.ones(3, device=elsewhere), torch.ones(3)
    chosen = torch.arange(3, device=elsewhere)
    for mixed in (
        lambda: far + near,
        lambda: near[chosen],
        lambda: torch.where(near > 0, far, far),
        lambda: far.gather(0, near.long()),
        lambda: far.index_put_((chosen,), near),
        lambda: torch.rand(3, device=elsewhere, generator=torch.Generator()),
    ):
        with pytest.raises(AssertionError):
            mixed()
    assert far.device != near.device
    assert (far * torch.tensor(2.0))[near.long()].tolist() == [2.0, 2.0, 2.0]
    assert far.to(HERE).add_(near).tolist() == [2.0, 2.0, 2.0]


def updates(device, made=policy, trunk=False, pretraining=False, **options):
    """Two updates' figures of a training on a device."""
    given = {
        "batch_size": 8,
        "micro_batch": 4,
        "max_tokens": 5,
        "learning_rate": 1e-2,
        "warmup": 0,
        **options,
    }
    actor = made(device)
    ppo = PPO(
        actor,
        made(device),
        SharedTrunk(actor) if trunk else model(LlamaForSequenceClassification, LLAMA, device),
        lambda episodes, sources: torch.tensor([float(len(set(r))) for r in episodes.responses()]),
        PpoOptions.model_validate({"stage": "ppo", **given}),
        (EOS,),
        PAD,
        seed=1,
        pretraining=Pretraining([[2, 3, 4, 5], [6, 7, 8]], 2, 0.5, 0) if pretraining else None,
    )
    asked = [PromptTokens([2 + n % 3, *range(3, 3 + n % 5)], n) for n in range(8)]
    found = [ppo.update(number, asked)[0] for number in (1, 2)]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"minibatches": 2, "epochs": 2},
        {"whiten_rewards": True, "score_at": "after_eos"},
        {"missing_eos": "bootstrap", "kl_in": "loss", "kl_estimator": "k3", "kl_target": 1.0},
        {"ema_decay": 0.9, "dual_clip": 3.0, "importance_cap": 2.0, "temperature": 0.7, "max_update_kl": 1.0},
        {"pretraining": True},
        {"trunk": True, "shared_trunk_vf_coef": 0.5},
        {"made": lambda device: model(GPT2LMHeadModel, GPT2, device)},
    ],
    ids=lambda options: "-".join(options),
)
def test_ppo(elsewhere, options):
    for found, expected in zip(updates(elsewhere, **options), updates(HERE, **options), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_what_models_say_of_responses(elsewhere):
    def said(device):
        actor, reference, part = policy(device), policy(device), batch(device)
        judge = model(LlamaForSequenceClassification, LLAMA, device)
        with torch.inference_mode():
            compared = compare_responses(actor, reference, part, 1.0, 2)
            return [
                *compared.values(),
                response_logits(actor, part, 0.7),
                final_scores(judge, part.ids_BL, part.length_B),
            ]

    for far, near in zip(said(elsewhere), said(HERE), strict=True):
        torch.testing.assert_close(far.to(HERE), near, rtol=1e-4, atol=1e-5)


def test_verdicts(elsewhere):
    head = list(range(2, 12))
    prefixes, suffixes = [[*head, 3, 4], [*head, 5], [7, 8]], [[[2, 3], [4]], [[5, 6, 7]], [[9], [10, 11]]]
    far, near = policy(elsewhere), policy(HERE)
    for read in (score_shared, score_plain):
        found, expected = read(far, prefixes, suffixes), read(near, prefixes, suffixes)
        torch.testing.assert_close(found.to(HERE), expected, rtol=1e-4, atol=1e-5)


def test_writing(elsewhere):
    requests = [
        GenerateRequest([], 6, temperature=t, top_p=p, seed=n)
        for n, (t, p) in enumerate([(1.0, 1.0), (0.0, 1.0), (0.8, 0.9)])
    ]
    prompts = [[2, 3, 4], [5], [6, 7]]
    found, expected = (
        decode(policy(device), prompts, requests, (EOS,), PAD, lambda ids: False)
        for device in (elsewhere, HERE)
    )
    assert found == expected
