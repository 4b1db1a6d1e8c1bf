"""The reward stage: soft labels are learned as they are, and what the model is worth is measured on other
prompts."""

import math
from functools import partial

import pytest

from rlaif.errors import UserError
from rlaif.records import Message, Prompt
from rlaif.stages import reward
from rlaif.training.pairs import elements, load_pairs
from tests.tiny_models import hand_made_run, preference, prompts_of, response, tiny_policy

LOGIT_07 = math.log(0.7 / 0.3)  # 0.8473


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


def stage_of(tmp_path, policy, prompts=12, **options):
    return hand_made_run(tmp_path / "run", policy, {"stage": "reward", "batch_size": 4, **options}, prompts)


def pairs_of(stage, policy):
    from rlaif.engines.loading import context_length, load_tokenizer

    tokenizer = load_tokenizer(policy)
    return load_pairs(
        stage, tokenizer, context_length(reward.start_model(stage, policy, tokenizer))
    ), tokenizer


def pair_of(prompt, a, b, p_a=1.0, weight=1.0, start=0):
    return {
        "prompt_id": prompt,
        "start": start,
        "chosen_ids": a,
        "rejected_ids": b,
        "p_a": p_a,
        "weight": weight,
    }


def test_the_loss_is_weighted_cross_entropy_of_the_margin():
    import torch

    from rlaif.training.trainers import soft_preference_loss

    rewards = torch.tensor([2.0, 0.0, 1.0, 0.0], requires_grad=True)  # margins 1 and 0
    p_a, weight = torch.tensor([0.7, 0.2]), torch.tensor([1.5, 0.5])
    loss = soft_preference_loss(rewards, p_a, weight)
    first = -(0.7 * math.log(1 / (1 + math.exp(-1))) + 0.3 * math.log(1 / (1 + math.exp(1))))
    assert loss.item() == pytest.approx((1.5 * first + 0.5 * math.log(2)) / 2, abs=1e-6)
    loss.backward()
    # d/dr_a = weight · (sigmoid(margin) − p) / 2, d/dr_b the opposite
    a = [1.5 * (1 / (1 + math.exp(-1)) - 0.7) / 2, 0.5 * (0.5 - 0.2) / 2]
    assert rewards.grad is not None
    assert rewards.grad.tolist() == pytest.approx([*a, -a[0], -a[1]], abs=1e-6)


def test_the_centring_term_is_the_squared_sum_of_a_pair():
    import torch

    from rlaif.training.trainers import soft_preference_loss

    args = torch.tensor([2.0, 1.0]), torch.tensor([0.5]), torch.tensor([1.0])
    gap = soft_preference_loss(*args, center=0.1) - soft_preference_loss(*args)
    assert gap.item() == pytest.approx(0.1 * (2 + 1) ** 2, abs=1e-6)


def test_a_label_of_seven_tenths_becomes_a_margin_of_its_logit(tmp_path, policy):
    stage = stage_of(tmp_path, policy, epochs=25, learning_rate=1e-2)
    for n, prompt in enumerate(prompts_of(stage)):
        good, bad = response(stage, prompt, "thanks it is good"), response(stage, prompt, "rude", 1)
        preference(stage, good, bad, 0.7) if n % 2 else preference(stage, bad, good, 0.3)
    reward.run(stage)
    figures = stage.metrics
    assert figures["cross_entropy"] - figures["label_entropy"] < 0.002
    assert figures["ece"] < 0.03
    assert figures["temperature"] == pytest.approx(1.0, abs=0.15)
    (forecast, outcome, n), *rest = figures["reliability"]
    assert not rest
    assert n == figures["n_heldout"] == 1
    assert abs(math.log(forecast / (1 - forecast))) == pytest.approx(LOGIT_07, abs=0.1)
    assert outcome in (0.3, 0.7)


def test_it_learns_which_word_is_better_and_the_trivial_rivals_do_not(tmp_path, policy):
    import random

    rng = random.Random(0)
    stage = stage_of(tmp_path, policy, prompts=40, epochs=8, learning_rate=5e-3, batch_size=16, heldout=0.25)
    for prompt in prompts_of(stage):
        for index in (0, 2):
            start = "thanks it is " + rng.choice(["sunny", "rain and cold", "warm weather today"])
            words = ["good", "bad"] if rng.random() < 0.5 else ["bad", "good"]
            a, b = (response(stage, prompt, f"{start} {word}", index + i) for i, word in enumerate(words))
            preference(stage, a, b, 0.9 if words[0] == "good" else 0.1)
    reward.run(stage)
    figures = stage.metrics
    assert figures["n_heldout"] == figures["n_decided"] == 20
    assert figures["heldout_accuracy"] >= 0.95
    assert figures["heldout_accuracy_ci"][0] <= figures["heldout_accuracy"]
    assert figures["baselines"]["longer"] == 0.5  # the responses of a pair are of equal length
    assert figures["baselines"]["constant"] < 0.9


def test_what_cannot_be_trained_on_is_counted(tmp_path, policy):
    stage = stage_of(tmp_path, policy, max_length=16, hard_labels=True)
    prompts = prompts_of(stage)
    good = [response(stage, prompt, "good") for prompt in prompts]
    preference(stage, good[0], response(stage, prompts[0], "bad", 1), 0.8)
    preference(stage, good[1], response(stage, prompts[1], "good", 1), 0.8)
    preference(stage, good[2], response(stage, prompts[2], "bad " * 20, 1), 0.8)
    preference(stage, good[3], response(stage, prompts[3], "bad", 1), 0.5)
    preference(stage, good[4], response(stage, prompts[4], "bad", 1), 0.8, weight=0.0)
    pairs, _ = pairs_of(stage, policy)
    assert [pair["p_a"] for pair in pairs] == [1.0]
    assert stage.dropped == {
        "both responses have the same text": 1,
        "longer than 16 tokens": 1,
        "a tie has no hard label": 1,
        "weight 0": 1,
    }
    assert (stage.summary["in"], stage.summary["kept"]) == (5, 1)


def test_soft_ties_are_kept_and_only_finished_responses_are_closed(tmp_path, policy):
    stage = stage_of(tmp_path, policy)
    prompt = prompts_of(stage)[0]
    preference(
        stage, response(stage, prompt, "good"), response(stage, prompt, "bad", 1, finish_reason="length"), 0.5
    )
    ((pair,), tokenizer) = pairs_of(stage, policy)
    assert pair["p_a"] == 0.5
    assert tokenizer.decode(pair["chosen_ids"]).endswith("<|assistant|>good<|end|>")
    assert tokenizer.decode(pair["rejected_ids"]).endswith("<|assistant|>bad")


def test_weights_average_one_whatever_their_scale():
    rows = [pair_of("p", [1], [2], weight=w) for w in (2.0, 6.0)]
    assert [row["weight"] for row in elements(rows, 4.0, False)] == [[0.5], [1.5]]
    (together,) = elements(rows, 4.0, True)
    assert together["weight"] == [0.25, 0.75]


def test_a_weighty_pair_outvotes_its_opposite(tmp_path, policy):
    stage = stage_of(tmp_path, policy, epochs=20, learning_rate=1e-2)
    for prompt in prompts_of(stage):
        good, bad = response(stage, prompt, "good"), response(stage, prompt, "bad", 1)
        preference(stage, good, bad, 1.0, weight=3.0)
        preference(stage, bad, good, 1.0, weight=1.0)  # the same pair judged the other way round
    reward.run(stage)
    from rlaif.engines.loading import load_reward_model
    from rlaif.rl.forward import score_sequences

    model = load_reward_model(stage.dir / "reward_model", "cpu")
    (pair, *_), _ = pairs_of(stage, policy)
    a, b = score_sequences(model, [pair["chosen_ids"], pair["rejected_ids"]], 2)
    assert a - b == pytest.approx(math.log(3), abs=0.1)  # three votes of four


def test_the_score_is_read_at_the_last_token_whatever_the_padding(tmp_path, policy):
    import torch

    from rlaif.rl.forward import score_sequences

    stage = stage_of(tmp_path, policy)
    prompt = prompts_of(stage)[0]
    preference(
        stage, response(stage, prompt, "good"), response(stage, prompt, "thanks it is bad today", 1), 0.8
    )
    ((pair,), tokenizer) = pairs_of(stage, policy)
    model = reward.start_model(stage, policy, tokenizer)
    sequences = [pair["chosen_ids"], pair["rejected_ids"]]
    together = score_sequences(model, sequences, 2)
    assert together == pytest.approx(score_sequences(model, sequences, 1), abs=1e-6)
    short, long = sequences
    gap = len(long) - len(short)
    ids = torch.tensor([[tokenizer.pad_token_id] * gap + short, long])
    mask = torch.tensor([[0] * gap + [1] * len(short), [1] * len(long)])
    with torch.no_grad():
        left = model(ids, attention_mask=mask).logits.squeeze(-1).tolist()
    assert together == pytest.approx(left, abs=1e-6)
    assert abs(together[0] - together[1]) < 0.5  # a new head starts near zero


def test_groups_of_like_length_give_the_rewards_of_one_padded_batch(policy):
    import torch

    from rlaif.engines.loading import load_reward_model
    from rlaif.rl.forward import final_scores, score_by_length

    model = load_reward_model(policy, "cpu", new_head=True)
    torch.manual_seed(0)
    lengths = torch.tensor([9, 3, 14, 3, 7])
    mask = (torch.arange(14) < lengths[:, None]).long()
    ids = torch.randint(5, 50, (5, 14)) * mask  # pad is 0
    whole = model(ids, attention_mask=mask).logits.squeeze(-1)
    assert score_by_length(partial(final_scores, model), ids, lengths, 2).tolist() == pytest.approx(
        whole.tolist(), abs=1e-6
    )


def test_heldout_prompts_are_a_share_of_the_prompts_drawn_by_the_seed(tmp_path, policy):
    from rlaif.training.loop import heldout_prompts

    stage = stage_of(tmp_path, policy)
    ids = [str(n) for n in range(100)] * 3
    held = heldout_prompts(stage, ids, 0.1)
    assert len(held) == 10
    assert held == heldout_prompts(stage, reversed(ids), 0.1)
    assert len(heldout_prompts(stage, ["a", "b"], 0.1)) == 1
    assert heldout_prompts(stage, ["a", "a"], 0.5) == set()


def test_heldout_prompts_are_whole_groups(tmp_path, policy):
    from rlaif.training.loop import heldout_prompts

    stage = stage_of(tmp_path, policy)
    rows = [
        Prompt(messages=(Message(role="user", content=f"Asked {n}?"),), group=f"question {n % 10}")
        for n in range(100)
    ]
    stage.rows("prompts", Prompt).append(rows)
    held = heldout_prompts(stage, [row.id for row in rows], 0.25)
    assert len(held) == 30
    assert len({row.group for row in rows if row.id in held}) == 3
    one = [row.id for row in rows if row.group == "question 1"]
    assert heldout_prompts(stage, one, 0.5) == set()


def test_calibration_by_hand():
    def pair(prompt, p_a, a, b):
        return {
            "prompt_id": prompt,
            "p_a": p_a,
            "cluster": prompt,
            "chosen_ids": [0] * a,
            "rejected_ids": [0] * b,
        }

    heldout = [pair("x", 0.9, 3, 2), pair("x", 0.2, 3, 2), pair("y", 0.55, 2, 3), pair("y", 0.8, 2, 2)]
    heldout.append(pair("w", 0.9, 5, 2))
    train = [pair("z", 0.9, 1, 1), pair("z", 0.8, 1, 1), pair("z", 0.1, 1, 1)]
    found = reward.calibration([2.0, 1.0, -1.0, 0.0, -3.0], heldout, train)
    assert found["n_decided"] == 4  # 0.55 is too near a tie to count
    assert found["heldout_accuracy"] == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert found["baselines"] == pytest.approx({"longer": (1 + 0 + 0.5 + 1) / 4, "constant": 3 / 4})
    entropy = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.9, 0.2, 0.55, 0.8, 0.9)]
    assert found["label_entropy"] == pytest.approx(sum(entropy) / 5)
    assert reward.calibration([], [], train)["heldout_accuracy"] is None


def test_a_finished_reward_model_is_an_ordinary_folder_and_not_trained_again(tmp_path, policy):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    stage = stage_of(tmp_path, policy, center_coef=0.01, micro_batch=2)
    for prompt in prompts_of(stage):
        preference(stage, response(stage, prompt, "good"), response(stage, prompt, "bad", 1), 0.8)
    reward.run(stage)
    folder, metrics = stage.dir / "reward_model", stage.metrics
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 1
    assert (
        AutoTokenizer.from_pretrained(folder).pad_token_id
        != AutoTokenizer.from_pretrained(folder).eos_token_id
    )
    written = (folder / "model.safetensors").stat().st_mtime_ns
    stage.begin()
    reward.run(stage)
    assert stage.metrics == metrics
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert not (stage.dir / "checkpoints").exists()


def test_a_reward_model_can_start_from_a_reward_model_with_its_head(tmp_path, policy):
    from rlaif.engines.loading import load_reward_model, load_tokenizer

    stage = stage_of(tmp_path, policy)
    for prompt in prompts_of(stage):
        preference(stage, response(stage, prompt, "good"), response(stage, prompt, "bad", 1), 0.8)
    reward.run(stage)
    folder = stage.dir / "reward_model"
    again = reward.start_model(stage, folder, load_tokenizer(folder))
    assert (again.score.weight == load_reward_model(folder, "cpu").score.weight).all()


def test_nan_stops_the_training_and_says_what_to_lower(tmp_path, policy, monkeypatch):
    from rlaif.training import loop as training
    from rlaif.training import trainers

    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training, "SAVE_SHARE", math.inf)
    stage = stage_of(tmp_path, policy, epochs=5)
    for prompt in prompts_of(stage):
        preference(stage, response(stage, prompt, "good"), response(stage, prompt, "bad", 1), 0.8)
    steps = iter(range(1000))
    honest = trainers.soft_preference_loss

    def breaks(rewards, *args, **kwargs):
        loss = honest(rewards, *args, **kwargs)
        return loss * float("nan") if rewards.requires_grad and next(steps) >= 4 else loss

    monkeypatch.setattr(trainers, "soft_preference_loss", breaks)
    with pytest.raises(UserError, match=r"not finite at step 5 of 15") as caught:
        reward.run(stage)
    assert "reward.learning_rate is 1e-05" in str(caught.value)
    kept = training.last_checkpoint(stage)
    assert kept is not None
    assert str(kept) in str(caught.value)
    assert kept.name == "checkpoint-4"
    assert not (stage.dir / "reward_model").exists()


def test_no_usable_preference_is_the_users_to_mend(tmp_path, policy):
    stage = stage_of(tmp_path, policy)
    prompt = prompts_of(stage)[0]
    preference(stage, response(stage, prompt, "good"), response(stage, prompt, "good", 1), 0.8)
    with pytest.raises(UserError, match="none of 1 preferences"):
        reward.run(stage)


def test_a_real_model_without_a_chat_template(tmp_path, test_data):
    policy = test_data / "models" / "stories260K_hf"
    stage = stage_of(tmp_path, policy, epochs=6, learning_rate=2e-3)
    for prompt in prompts_of(stage):
        happy, sad = (
            response(stage, prompt, "The dog was happy."),
            response(stage, prompt, "The dog was sad.", 1),
        )
        preference(stage, happy, sad, 0.9)
    reward.run(stage)
    assert stage.metrics["heldout_accuracy"] == 1.0
    assert stage.metrics["temperature"] > 0
