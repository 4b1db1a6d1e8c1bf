"""What PPO can do besides: each option on random models of a few thousand parameters."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlaif.errors import UserError
from rlaif.options import LoraOptions, PpoOptions
from rlaif.rl import lora
from rlaif.rl import ppo as algorithm
from rlaif.rl import ppo_checkpoint as checkpoint
from rlaif.rl.forward import response_final, response_logits
from rlaif.rl.ppo import PPO
from rlaif.rl.pretraining import Pretraining
from rlaif.rl.trunk import SharedTrunk
from rlaif.rl.weights import trainable_weights
from rlaif.training.raw_text import blocks_of, read_texts
from tests.test_ppo import EOS, PAD, SIZES, prompts, trainer, wanted_share, weights

TEXT = [[2, 5, 6, 7], [3, 9, 9], [4, 8, 10, 11, 12]]


def test_no_importance_cap_stays_none_where_a_run_goes_on():
    for given, cap in (({}, 2.0), ({"importance_cap": None}, None), ({"importance_cap": 3.0}, 3.0)):
        options = PpoOptions.model_validate({"stage": "ppo", "rollouts": "vllm", **given})
        again = PpoOptions.model_validate(options.model_dump(mode="json", exclude_defaults=True))
        assert (again, options.importance_cap) == (options, cap)
    assert "importance_cap" not in PpoOptions(stage="ppo").model_dump(exclude_defaults=True)


def plain_steps(ppo):
    """Steps that are the gradient itself, so that gradients can be read off the weights."""
    ppo.optimizer = torch.optim.SGD(trainable_weights(ppo.policy).values(), 1.0)
    ppo.value_optimizer = torch.optim.SGD(trainable_weights(ppo.value).values(), 1.0)
    return ppo


def moved(ppo, count=16, updates=1):
    before = weights(ppo.policy)
    for number in range(1, updates + 1):
        ppo.update(number, prompts(count))
    return weights(ppo.policy) - before


def test_kl_in_the_loss_leaves_the_reward_alone_and_pulls_back():
    ppo = trainer(
        kl_in="loss", kl_estimator="k2", kl_coef=0.5, missing_eos_penalty=0.0, epochs=4, learning_rate=1e-2
    )
    ppo.update(1, prompts())
    _, seen = ppo.update(2, prompts())
    assert (seen.log_prob - seen.reference).abs().max() > 0.01
    torch.testing.assert_close(seen.reward_B, seen.score_B)
    kl = [
        trainer(
            lambda e, _: torch.zeros(len(e)),
            kl_in="loss",
            kl_estimator=kind,
            kl_coef=coef,
            missing_eos_penalty=0.0,
        )
        for kind, coef in (("k2", 0.0), ("k2", 5.0), ("k3", 5.0))
    ]
    distances = []
    for trained_with in kl:
        torch.manual_seed(3)
        for weight in trained_with.policy.parameters():
            weight.data += 0.05 * torch.randn_like(weight)
        rows = [trained_with.update(n, prompts())[0]["exact_kl"] for n in range(1, 16)]
        distances.append(rows[-1] / rows[0])
    assert distances[0] > 0.7
    assert distances[1] < 0.5
    assert distances[2] < 0.5


def test_k1_in_the_loss_is_refused():
    with pytest.raises(ValueError, match="zero on average"):
        PpoOptions(stage="ppo", kl_in="loss")


def test_a_truncated_response_goes_on_with_its_value():
    ppo = trainer(missing_eos="bootstrap", kl_coef=0.0, lam=1.0)
    for weight in ppo.value.score.parameters():
        weight.data.fill_(0.3)
    _, seen = ppo.update(1, prompts())
    ended, episodes = seen.episodes.ended_B, seen.episodes
    assert 0 < ended.float().mean() < 1
    torch.testing.assert_close(seen.reward_B, torch.where(ended, seen.score_B, 0.0))
    fresh = trainer(missing_eos="bootstrap", kl_coef=0.0, lam=1.0)
    fresh.value.score.load_state_dict(ppo.value.score.state_dict())
    for weight in fresh.value.score.parameters():
        weight.data.fill_(0.3)
    row = int((~ended).nonzero()[0])
    ids = episodes.ids_BL[row : row + 1, : int(episodes.length_B[row])]
    with torch.no_grad():
        hidden = fresh.value.model(input_ids=ids).last_hidden_state[0, -1]
        after = fresh.value.score(hidden)[0]
    # λ = 1: the return of every token is all that comes, here only the value of the state where it was cut
    real = seen.episodes.mask_BR[row]
    torch.testing.assert_close(seen.returns[row][: len(real)][real], after.expand(int(real.sum())))


def test_the_score_can_stand_after_the_eos_and_that_state_is_valued():
    ppo = trainer(score_at="after_eos", kl_coef=0.0, missing_eos_penalty=0.0, lam=1.0)
    metrics, seen = ppo.update(1, prompts())
    early = seen.episodes.ended_B & (seen.episodes.response_B < ppo.options.max_tokens)
    assert early.any()
    assert torch.equal(seen.states_B, seen.episodes.response_B + early)
    at = seen.episodes.response_B[early]
    torch.testing.assert_close(seen.returns[early.nonzero()[:, 0], at], seen.score_B[early])
    assert metrics["ratio_first"] == 1.0


def test_an_update_ends_where_the_policy_has_gone_far_enough():
    free = trainer(epochs=6, learning_rate=1e-2, warmup=0)
    assert free.update(1, prompts())[0]["steps"] == 6
    held = trainer(epochs=6, learning_rate=1e-2, warmup=0, max_update_kl=1e-3)
    metrics, _ = held.update(1, prompts())
    assert metrics["steps"] < 6
    assert metrics["approx_kl"] < 1e-3
    assert all(weight.grad is None for weight in held.policy.parameters())


def test_the_pre_training_mix_adds_its_gradient():
    # a bound no clip reaches, so that steps are gradients
    alone, mixed = (plain_steps(trainer(max_grad_norm=1e9, learning_rate=1.0)) for _ in range(2))
    mixed.pretraining = Pretraining(TEXT, 3, 2.0, seed=0)
    start = copy.deepcopy(alone.policy)
    difference = moved(mixed) - moved(alone)
    losses = []
    for ids in TEXT:
        losses.append(
            torch.nn.functional.cross_entropy(
                start(input_ids=torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="sum"
            )
        )
    loss = torch.stack(losses).sum() / sum(len(ids) - 1 for ids in TEXT)
    (2.0 * loss).backward()
    expected = -torch.cat([weight.grad.flatten() for weight in start.parameters()])
    torch.testing.assert_close(difference, expected, atol=1e-5, rtol=1e-4)


def test_the_pre_training_cursor_goes_round_and_depends_on_the_step_alone():
    mix = Pretraining(TEXT, 2, 1.0, seed=0)
    seen = [
        tuple(r) for turn in (1, 2, 3) for p in mix.parts(turn, 1, torch.device("cpu")) for r in p.responses()
    ]
    assert sorted(seen) == sorted(tuple(ids[1:]) for ids in TEXT * 2)
    again = [tuple(r) for p in mix.parts(2, 2, torch.device("cpu")) for r in p.responses()]
    assert sorted(again) == sorted(seen[2:4])


def test_blocks_of_text(tmp_path):
    class Letters:
        eos_token_id = 0

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [ord(c) - 96 for c in text]}

    (tmp_path / "a.txt").write_text("abcde\n")

    def blocks(name, length):
        return blocks_of(read_texts(tmp_path / name, "ppo.ptx.file"), Letters(), length)

    assert blocks("a.txt", 4) == [[1, 2, 3, 4], [5, 0]]
    (tmp_path / "a.jsonl").write_text('{"text": "ab"}\n{"text": "c"}\n')
    assert blocks("a.jsonl", 3) == [[1, 2, 0], [3, 0]]
    (tmp_path / "b.jsonl").write_text('{"text": "ab"}\n{"words": "c"}\n')
    with pytest.raises(UserError, match=r"b.jsonl:2"):
        blocks("b.jsonl", 3)
    (tmp_path / "c.txt").write_text("")
    assert blocks("c.txt", 3) == []


def test_the_average_follows_the_weights_and_takes_their_place():
    ppo = trainer(ema_decay=0.9, learning_rate=1e-2)
    mean = {name: weight.detach().clone() for name, weight in trainable_weights(ppo.policy).items()}
    for number in (1, 2, 3):
        ppo.update(number, prompts())
        mean = {
            name: 0.9 * m + 0.1 * trainable_weights(ppo.policy)[name].detach() for name, m in mean.items()
        }
    ppo.use_average()
    for name, weight in trainable_weights(ppo.policy).items():
        torch.testing.assert_close(weight.detach(), mean[name])


def test_everything_at_once_is_the_same_however_it_is_cut():
    results = []
    for micro in (8, 1):
        ppo = plain_steps(
            trainer(
                batch_size=8,
                micro_batch=micro,
                max_grad_norm=1e9,
                learning_rate=1.0,
                kl_in="loss",
                kl_estimator="k3",
                missing_eos="bootstrap",
                score_at="after_eos",
                dual_clip=3.0,
            )
        )
        ppo.pretraining = Pretraining(TEXT, 3, 1.0, seed=0)
        before = weights(ppo.value)
        results.append((moved(ppo, 8), weights(ppo.value) - before))
    for whole, cut in zip(*results, strict=True):
        assert whole.abs().max() > 1e-4
        torch.testing.assert_close(whole, cut, atol=1e-6, rtol=1e-4)


def test_a_checkpoint_holds_all_that_an_update_depends_on(tmp_path):
    def make():
        ppo = trainer(ema_decay=0.5, kl_target=0.01, epochs=2, minibatches=2, warmup=3)
        ppo.pretraining = Pretraining(TEXT, 2, 1.0, seed=0)
        return ppo

    whole = make()
    for number in (1, 2):
        whole.update(number, prompts())
    checkpoint.save(tmp_path, whole, 2)
    row, _ = whole.update(3, prompts())
    other = make()
    assert checkpoint.load(tmp_path / "000002", other) == 2
    again, _ = other.update(3, prompts())
    assert {**row, "seconds": 0} == {**again, "seconds": 0}
    assert torch.equal(weights(whole.policy), weights(other.policy))
    for name, mean in whole.average.items():
        assert torch.equal(mean, other.average[name])


def test_logits_of_the_whole_batch_are_never_held(monkeypatch):
    sizes = []

    def seen(model, *read):
        final = response_final(model, *read)
        sizes.append(len(final.states_ND))
        return final

    monkeypatch.setattr(algorithm, "response_final", seen)
    ppo = trainer(micro_batch=2)
    _, experience = ppo.update(1, prompts())
    assert max(sizes) <= 2 * ppo.options.max_tokens < int(experience.episodes.response_B.sum())


def with_adapters(**changes):
    ppo = trainer(**changes)
    start = copy.deepcopy(ppo.policy)
    lora.attach(ppo.value, LoraOptions(rank=4), "", 1)
    wrapped = lora.attach(ppo.policy, ppo.options.lora, "base", 0)
    return PPO(ppo.policy, None, ppo.value, wanted_share, ppo.options, (EOS,), PAD, seed=1), wrapped, start


def test_lora_trains_adapters_and_the_reference_is_the_model_without_them():
    ppo, wrapped, start = with_adapters(lora={"rank": 4}, learning_rate=1e-2, epochs=2)
    metrics, _ = ppo.update(1, prompts())
    assert metrics["ratio_first"] == 1.0
    assert metrics["exact_kl"] == pytest.approx(0, abs=1e-6)
    _, seen = ppo.update(2, prompts())
    assert seen.exact_kl.sum() > 0.01
    for rows in torch.arange(16).split(8):
        part = seen.episodes.select(rows)
        expected = response_logits(start, part, 1.0).log_softmax(-1).gather(1, part.tokens()[:, None])[:, 0]
        found = seen.reference[rows][:, : part.mask_BR.shape[1]][part.mask_BR]
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)
    assert all("lora" in name for name in trainable_weights(ppo.policy))
    assert {name.split(".")[0] for name in trainable_weights(ppo.value) if "lora" not in name} == {"score"}
    ids = torch.tensor([[2, 3, 4]])
    with_adapter = ppo.policy(input_ids=ids).logits
    torch.testing.assert_close(
        wrapped.merge_and_unload()(input_ids=ids).logits, with_adapter, atol=1e-5, rtol=1e-5
    )


def test_an_adapter_is_saved_and_gone_on_with_and_one_of_another_model_refused(tmp_path: Path):
    ppo, wrapped, _ = with_adapters(lora={"rank": 4}, learning_rate=1e-2)
    ppo.update(1, prompts())
    lora.save_adapter(wrapped, tmp_path / "adapter", "base")
    ids = torch.tensor([[2, 3, 4]])
    options = LoraOptions(adapter=str(tmp_path / "adapter"))
    fresh = trainer().policy
    lora.attach(fresh, options, "base", 0)
    torch.testing.assert_close(fresh(input_ids=ids).logits, ppo.policy(input_ids=ids).logits)
    assert trainable_weights(fresh)
    with pytest.raises(UserError, match="belongs to another base model"):
        lora.attach(trainer().policy, options, "other", 0)
    (tmp_path / "adapter" / lora.BASE).unlink()  # one that peft saved by itself
    from transformers import LlamaConfig, LlamaForCausalLM

    wider = LlamaForCausalLM(LlamaConfig(**{**SIZES, "hidden_size": 48}))
    with pytest.raises(UserError, match="weights do not fit"):
        lora.attach(wider, options, "base", 0)
    with pytest.raises(UserError, match="not an adapter"):
        lora.attach(trainer().policy, LoraOptions(adapter=str(tmp_path)), "base", 0)


def test_tokens_up_to_a_text_that_ends_a_turn_are_the_response():
    from rlaif.rl.rollout import rollout

    def stops(ids):  # the turn is over where two tokens above 9 follow each other
        return next((n + 2 for n in range(len(ids) - 1) if ids[n] > 9 < ids[n + 1]), None)

    ppo = trainer(max_tokens=20)
    ids = [p.ids for p in prompts(16)]
    runs = [
        rollout(ppo.policy, ids, 20, 1.0, (EOS,), PAD, torch.Generator().manual_seed(0), how)
        for how in (None, stops)
    ]
    free, stopped = (run.responses() for run in runs)
    assert any(stops(response) for response in free)
    for row, response in enumerate(stopped):
        end = stops(response)
        assert end in (None, len(response))
        assert bool(runs[1].ended_B[row]) == (end is not None or response[-1] == EOS)


def test_the_samplers_log_probabilities_are_those_of_the_model():
    metrics, seen = trainer(temperature=0.7).update(1, prompts())
    assert seen.version == 0
    torch.testing.assert_close(seen.sampler_log_prob, seen.log_prob, atol=1e-5, rtol=1e-5)
    assert 0 <= metrics["sampler_kl"] < 1e-9


def test_a_sampler_that_differs_is_reported_and_corrected_for(monkeypatch):
    steps = []
    for shift, cap in ((0.0, None), (0.5, None), (0.5, 1.5), (0.5, 2.0)):
        ppo = plain_steps(trainer(importance_cap=cap, max_grad_norm=1e9, learning_rate=1.0))
        sample = ppo.sample

        def shifted(*args, sample=sample, shift=shift):
            episodes = sample(*args)
            return replace(episodes, behaviour_BR=episodes.behaviour_BR - shift)

        monkeypatch.setattr(ppo, "sample", shifted)
        before = weights(ppo.policy)
        metrics, _ = ppo.update(1, prompts())
        # k3 of a log-ratio of −shift: e^shift − 1 − shift
        assert metrics["sampler_kl"] == pytest.approx(math.exp(shift) - 1 - shift, abs=1e-5)
        steps.append(weights(ppo.policy) - before)
    torch.testing.assert_close(steps[0], steps[1])
    torch.testing.assert_close(steps[2], 1.5 * steps[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(steps[3], math.exp(0.5) * steps[0], atol=1e-5, rtol=1e-4)


def test_on_a_shared_trunk_the_value_loss_moves_the_policy():
    def shared(coef, **changes):
        ppo = trainer(
            lambda e, _: torch.ones(len(e)),
            shared_trunk_vf_coef=coef,
            max_grad_norm=1e9,
            learning_rate=1e-2,
            **changes,
        )
        head = SharedTrunk(ppo.policy)
        torch.nn.init.ones_(head.score.weight)
        return PPO(ppo.policy, ppo.reference, head, ppo.reward, ppo.options, (EOS,), PAD, seed=1)

    small, large = shared(1e-9), shared(1.0)
    assert len(trainable_weights(large.value)) == 2
    _, seen = large.update(1, prompts())
    assert seen.value.abs().sum() > 0
    small.update(1, prompts())
    assert not torch.allclose(weights(large.policy), weights(small.policy))
    warm = shared(1.0, critic_warmup=1)
    before = weights(warm.policy)
    warm.update(1, prompts())
    assert torch.equal(weights(warm.policy), before)
    assert all(weight.grad is None for weight in warm.policy.parameters())


TRL = """dataset_num_proc num_mini_batches total_episodes local_rollout_forward_batch_size \
num_sample_generations
response_length stop_token stop_token_id temperature missing_eos_penalty sft_model_path world_size \
num_total_batches
micro_batch_size local_batch_size batch_size local_mini_batch_size mini_batch_size push_to_hub \
reward_model_path
model_adapter_name ref_adapter_name num_ppo_epochs whiten_rewards kl_coef kl_estimator cliprange vf_coef
cliprange_value gamma lam ds3_gather_for_generation learning_rate gradient_checkpointing bf16 logging_steps"""


def test_the_page_names_every_option_of_ours_and_of_trls():
    page = (Path(__file__).parent.parent / "docs" / "ppo.md").read_text(encoding="utf-8")
    missing = [
        name
        for name in [*PpoOptions.model_fields, *TRL.split()]
        if f"`{name}" not in page and f"{name}`" not in page
    ]
    assert missing == ["stage"]
