"""The dpo stage: soft labels become margins of log-ratios, and a killed training is continued."""

import math

import pytest

from rlaif.stages import dpo
from tests.tiny_models import hand_made_run, preference, prompts_of, response, tiny_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


def stage_of(tmp_path, policy, prompts=12, **options):
    return hand_made_run(tmp_path / "run", policy, {"stage": "dpo", "batch_size": 4, **options}, prompts)


def log_probs(folder, stage, texts):
    """log π(response, end of turn) of some responses to the first prompt, from plain logits."""
    import torch

    from rlaif.engines.loading import load_causal_lm, load_tokenizer
    from rlaif.prompting.chat import encode_turn, end_of_turn

    model, tokenizer = load_causal_lm(folder, "cpu"), load_tokenizer(folder)
    found = []
    for text in texts:
        start, response = encode_turn(tokenizer, prompts_of(stage)[0].chat, text, end_of_turn(tokenizer))
        ids = torch.tensor([start + response])
        with torch.no_grad():
            rows = model(ids).logits[0, len(start) - 1 : -1].log_softmax(-1)
        found.append(rows.gather(1, ids[0, len(start) :, None]).sum().item())
    return found


def test_the_reward_is_beta_times_the_log_ratio_of_the_response_alone(tmp_path, policy):
    from rlaif.engines.loading import load_causal_lm, load_tokenizer
    from rlaif.training.pairs import elements, load_pairs
    from rlaif.training.trainers import ElementCollator, SoftDpoTrainer

    other = tiny_policy(tmp_path / "other", seed=1)
    stage = stage_of(tmp_path, policy)
    texts = ["thanks it is good", "rude"]
    a, b = (response(stage, prompts_of(stage)[0], text, n) for n, text in enumerate(texts))
    preference(stage, a, b, 0.8)
    tokenizer = load_tokenizer(policy)
    batch = ElementCollator(tokenizer.pad_token_id)(elements(load_pairs(stage, tokenizer, 64), 1.0, False))

    class Bare(SoftDpoTrainer):
        def __init__(self):  # the formula without a training around it
            from trl.trainer.utils import add_fused_lm_head

            self.beta, self.ref_model = 0.5, load_causal_lm(policy, "cpu")
            add_fused_lm_head(self.ref_model)

    from trl.trainer.utils import add_fused_lm_head

    model = load_causal_lm(other, "cpu")
    add_fused_lm_head(model)
    found = Bare().rewards(model, batch).tolist()
    own, reference = log_probs(other, stage, texts), log_probs(policy, stage, texts)
    assert found == pytest.approx([0.5 * (x - y) for x, y in zip(own, reference, strict=True)], abs=1e-4)


def test_a_soft_label_becomes_a_margin_of_its_logit(tmp_path, policy):
    stage = stage_of(tmp_path, policy, epochs=30, learning_rate=3e-3, beta=0.5)
    for n, prompt in enumerate(prompts_of(stage)):
        good, bad = response(stage, prompt, "it is good"), response(stage, prompt, "it is bad", 1)
        preference(stage, good, bad, 0.8) if n % 2 else preference(stage, bad, good, 0.2)
    dpo.run(stage)
    texts = ["it is good", "it is bad"]
    before, after = log_probs(policy, stage, texts), log_probs(stage.dir / "policy", stage, texts)
    margin = 0.5 * ((after[0] - before[0]) - (after[1] - before[1]))
    assert margin == pytest.approx(math.log(4), abs=0.25)
    assert stage.metrics["heldout_loss_before"] == pytest.approx(math.log(2), abs=1e-5)
    assert stage.metrics["heldout_loss_after"] < 0.52


def test_all_pairs_of_a_prompt_can_be_one_element_and_the_policy_is_a_plain_folder(tmp_path, policy):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stage = stage_of(tmp_path, policy, by_prompt=True, learning_rate=1e-3)
    for prompt in prompts_of(stage):
        a, b, c = (response(stage, prompt, text, n) for n, text in enumerate(("good", "rain", "bad")))
        for x, y in ((a, b), (a, c), (b, c)):
            preference(stage, x, y, 0.9)
    dpo.run(stage)
    assert stage.metrics["steps"] == 3  # 11 prompts train, 4 a step
    assert stage.metrics["n_heldout"] == 3  # the pairs of the twelfth
    assert AutoTokenizer.from_pretrained(stage.dir / "policy").chat_template
    trained = AutoModelForCausalLM.from_pretrained(stage.dir / "policy")
    assert trained.generation_config.eos_token_id is not None
    written = (stage.dir / "policy" / "model.safetensors").stat().st_mtime_ns
    stage.begin()
    dpo.run(stage)
    assert (stage.dir / "policy" / "model.safetensors").stat().st_mtime_ns == written
