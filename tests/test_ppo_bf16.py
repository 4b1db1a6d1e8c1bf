"""Policy and reference are read in one way: where they are the same, the KL between them is 0, in bf16 as
well."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlaif.options import PpoOptions
from rlaif.rl.episodes import PromptTokens
from rlaif.rl.ppo import PPO
from rlaif.rl.reward import zero_head


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_kl_starts_at_nothing(autocast, minibatches):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=1,
        bos_token_id=None,
        pad_token_id=0,
        initializer_range=0.15,
        num_labels=1,
    )
    policy, reference = LlamaForCausalLM(config).eval(), LlamaForCausalLM(config).eval()
    reference.load_state_dict(policy.state_dict())
    value = zero_head(LlamaForSequenceClassification(config).eval())
    options = PpoOptions(
        stage="ppo", batch_size=4, micro_batch=2, minibatches=minibatches, max_tokens=24, warmup=0, updates=3
    )
    ppo = PPO(
        policy,
        reference.requires_grad_(False),
        value,
        lambda e, _: torch.zeros(len(e)),
        options,
        [1],
        0,
        autocast=autocast,
    )
    row, seen = ppo.update(1, [PromptTokens([5, 6, 7 + n]) for n in range(4)])
    assert row["length"] > 10
    rounding = (
        0.0 if autocast else 1e-5
    )  # in fp32 the sampler's own states are read once: differences of rounding
    assert abs(row["exact_kl"]) <= rounding
    assert float(seen.reward_B.abs().max()) <= 1.0 + rounding  # the penalty for a missing end and no KL
    assert row["ratio_first"] == 1.0
