"""A reward model reads one position wherever it is asked: the last real token, by length, whatever token
pads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rlaif.engines.loading import load_reward_model, load_tokenizer
from rlaif.prompting.chat import encode_turn, end_of_turn, has_chat_template
from rlaif.rl.episodes import join
from rlaif.rl.forward import score_sequences
from rlaif.rl.reward import ModelReward
from rlaif.stages import reward
from rlaif.training.pairs import load_pairs
from tests.tiny_models import hand_made_run, preference, prompts_of, response

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
SPECIAL = {
    "gpt2": {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>"},
    "playground, pad := end": {"eos_token": "<|end|>", "pad_token": "<|end|>"},
}


def policy_of(folder: Path, kind: str, template: bool) -> Path:
    """A random policy whose tokenizer pads with the token that ends a response, or with BOS."""
    words = sorted({*pre_tokenizers.ByteLevel.alphabet(), *SPECIAL[kind].values()})
    core = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True) for t in set(SPECIAL[kind].values())])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **SPECIAL[kind])
    tokenizer.chat_template = TEMPLATE if template else None
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **sizes))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=128,
                **sizes,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=[(kind, template) for kind in SPECIAL for template in (True, False)], ids=str)
def stage(request, tmp_path):
    """A reward stage whose pairs differ in length, some of them cut off."""
    policy = policy_of(tmp_path / "policy", *request.param)
    stage = hand_made_run(
        tmp_path / "run",
        policy,
        {
            "stage": "reward",
            "batch_size": 4,
            "micro_batch": 3,
            "epochs": 3,
            "learning_rate": 1e-2,
            "heldout": 0.4,
        },
    )
    for n, prompt in enumerate(prompts_of(stage)):
        a = response(
            stage, prompt, "fine " * (n % 3) + "good", finish_reason="length" if n % 4 == 0 else "stop"
        )
        preference(stage, a, response(stage, prompt, "rude " * (n % 2) + "bad", 1), 0.9 if n % 2 else 0.2)
    return stage


def directly(model: Any, sequences: list[list[int]]) -> torch.Tensor:
    """The head at the last token of each sequence, alone and unpadded. → B"""
    with torch.no_grad():
        states = [model.base_model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in sequences]
        return torch.stack([model.score(state)[0] for state in states])


def test_training_calibration_and_ppo_read_the_last_real_token(stage, monkeypatch):
    from rlaif.training import loop as training
    from rlaif.training import trainers

    seen: list[tuple[list[list[int]], torch.Tensor]] = []
    honest = trainers.SoftRewardTrainer.rewards

    def watched(self, model, inputs):
        found = honest(self, model, inputs)
        sizes = inputs["attention_mask"].sum(1).tolist()
        rows = [ids[:n] for ids, n in zip(inputs["input_ids"].tolist(), sizes, strict=True)]
        seen.append((rows, directly(model, rows) - found.detach()))
        return found

    monkeypatch.setattr(trainers.SoftRewardTrainer, "rewards", watched)
    reward.run(stage)
    assert max(float(gap.abs().max()) for _, gap in seen) <= 1e-5
    folder = stage.dir / "reward_model"
    model, tokenizer = load_reward_model(folder, "cpu"), load_tokenizer(folder)
    texts, prompts, end = list(stage.responses().values()), stage.prompts_by_id(), end_of_turn(tokenizer)
    turns = [
        encode_turn(tokenizer, prompts[r.prompt_id].chat, r.text, end if r.finish_reason == "stop" else None)
        for r in texts
    ]
    whole = [prompt + response for prompt, response in turns]
    right = directly(model, whole)
    measured = torch.tensor(score_sequences(model, whole, 5))
    ended = torch.tensor([r.finish_reason == "stop" for r in texts])
    episodes = join([p for p, _ in turns], [r for _, r in turns], ended, tokenizer.pad_token_id)
    as_text = None if has_chat_template(tokenizer) else tokenizer
    paid = ModelReward(model, tokenizer, 128, 5, policy_tokenizer=as_text)(
        episodes, [prompts[r.prompt_id] for r in texts]
    )
    for scores in (measured, paid):
        torch.testing.assert_close(scores, right, atol=1e-5, rtol=0)
        assert torch.equal(scores > 0, right > 0)
    pairs = load_pairs(stage, tokenizer, 128)
    held = training.heldout_prompts(stage, [p["prompt_id"] for p in pairs], stage.options.heldout)
    at = {tuple(ids): float(score) for ids, score in zip(whole, paid, strict=True)}
    hits = [
        (at[tuple(p["chosen_ids"])] > at[tuple(p["rejected_ids"])]) == (p["p_a"] > 0.5)
        for p in pairs
        if p["prompt_id"] in held
    ]
    assert stage.metrics["heldout_accuracy"] == pytest.approx(sum(hits) / len(hits))
    train = [p for p in pairs if p["prompt_id"] not in held]
    scores = [at[ids] for ids in {tuple(p[side]) for p in train for side in ("chosen_ids", "rejected_ids")}]
    assert stage.metrics["reward_mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-5)
