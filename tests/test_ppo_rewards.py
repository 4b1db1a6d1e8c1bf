"""What the stage is rewarded by, and what it says when that goes wrong: nothing that was learnt is lost."""

import json
import shutil
import sys
import types

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif.config import load_config
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.prompting import turns
from rlaif.rl.episodes import join
from rlaif.rl.forward import final_scores
from rlaif.rl.reward import FunctionReward, RewardFailed, Rewards, Scale, Source
from rlaif.runs.storage import read_json
from rlaif.stages import ppo
from tests.test_ppo_stage import rows_of, run_on_one_thread, stage_of
from tests.tiny_models import tiny_policy

SELF = "tests.test_ppo_rewards"
CALLS = {"n": 0, "break_at": 0}


def brevity(prompts, responses):
    """Shorter is better."""
    assert prompts[0][-1]["role"] == "user"
    return [-len(text) for text in responses]


def breaks(prompts, responses):
    CALLS["n"] += 1
    if CALLS["n"] == CALLS["break_at"]:
        raise ConnectionError("the scorer is away")
    return brevity(prompts, responses)


def short_of_one(prompts, responses):
    return brevity(prompts, responses)[1:]


def not_a_number(prompts, responses):
    return [float("nan")] * len(responses)


def silent(prompts, responses):
    return [None] * len(responses)


def shy(prompts, responses):
    return [float(len(r)) if n % 4 == 0 else None for n, r in enumerate(responses)]


def judge():
    """Grades 5 or 1: likes responses with an even number of letters and cannot read those whose number
    divides by five."""

    def score(messages, suffix, choices):
        response = messages[-1]["content"].partition("=== Reply ===\n")[2].strip()
        high = len(response) % 2 == 0
        return [] if len(response) % 5 == 0 else [0.1, 0, 0, 0, 0.9] if high else [0.9, 0, 0, 0, 0.1]

    return Scripted(on_score=score, name="evens")


def with_judge(stage, **changes):
    feedback = stage.config.feedback.model_copy(update={"engine": "scripted", "model": f"{SELF}:judge"})
    stage.run.config = stage.config.model_copy(update={"feedback": feedback, **changes})
    (stage.run.path / "manifest.json").write_text(json.dumps({"config_folder": str(stage.run.path)}))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy") / "policy")


def test_sources_are_scaled_weighed_and_reported(tmp_path, policy):
    rewards = [{"source": "reward_model"}, {"source": f"{SELF}:brevity", "weight": 0.5}, {"source": "judge"}]
    stage = stage_of(tmp_path / "run", policy, rewards=rewards, updates=2)
    with_judge(stage)
    run_on_one_thread(stage)
    scale = {k: Scale(**v) for k, v in read_json(stage.dir / "reward_scale.json").items()}
    assert set(scale) == {"reward_model", f"{SELF}:brevity", "judge"}
    row = rows_of(stage)[0]
    total = sum(
        weight * (row[f"score/{name}"] - scale[name].mean) / scale[name].std
        for name, weight in (("reward_model", 1.0), (f"{SELF}:brevity", 0.5), ("judge", 1.0))
    )
    assert row["score"] == pytest.approx(total, rel=1e-4)
    assert any(row.get("unread/judge") for row in rows_of(stage))


def test_the_value_model_starts_from_the_weighted_scaled_reward(tmp_path, policy):
    from rlaif.engines.loading import load_tokenizer

    stage = stage_of(tmp_path / "run", policy, rewards=[{"source": "reward_model", "weight": -2.0}])
    opened = ppo.open_rewards(stage, load_tokenizer(policy))
    (source,) = opened.rewards.sources
    source.scale = Scale(0.5, 4.0)
    head = ppo._value_model(stage, opened, None).score
    torch.testing.assert_close(head.weight, -2.0 / 4.0 * source.score.model.score.weight)
    torch.testing.assert_close(head.bias, torch.tensor([-2.0 * -0.5 / 4.0]))


def test_a_raw_source_keeps_its_scale_and_no_reward_model_is_needed(tmp_path, policy):
    rewards = [{"source": f"{SELF}:brevity", "scale": False}]
    stage = stage_of(tmp_path / "run", policy, rewards=rewards, updates=1)
    run_on_one_thread(stage)
    row = rows_of(stage)[0]
    assert row["score"] == pytest.approx(row[f"score/{SELF}:brevity"], rel=1e-5)
    assert any("starts from the policy" in note for note in stage.notes)


def test_a_stage_needs_a_reward_model_only_where_it_is_a_source(tmp_path):
    head = "name: n\nconstitution: c\nprompts: p\npolicy: {model: m}\nfeedback: {model: m}\nstages:\n"
    (tmp_path / "judge.yaml").write_text(head + "  - {stage: ppo, rewards: [{source: judge}]}\n")
    (tmp_path / "model.yaml").write_text(head + "  - {stage: ppo}\n")
    assert load_config(tmp_path / "judge.yaml").stages[0].required_artefacts == ("prompts", "policy")
    with pytest.raises(UserError, match="needs reward_model"):
        load_config(tmp_path / "model.yaml")


def test_a_folder_with_its_own_tokenizer_is_a_source_beside_the_runs(tmp_path, policy):
    from tests.test_ppo_stage import tiny_reward_model

    other = tiny_policy(tmp_path / "other", seed=3)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<extra>"], special_tokens=True)
    tokenizer.save_pretrained(other)
    tiny_reward_model(tmp_path / "rm", other)
    rewards = [{"source": str(tmp_path / "rm"), "weight": 2.0}, {"source": "reward_model"}]
    stage = stage_of(tmp_path / "run", policy, rewards=rewards, updates=1)
    run_on_one_thread(stage)
    assert any("tokenizer of its own" in note for note in stage.notes)
    assert not any(
        "starts from the policy" in note for note in stage.notes
    )  # the run's model reads its tokens
    assert "score/" + "/".join((tmp_path / "rm").parts[-3:]) in rows_of(stage)[0]


def test_a_prompt_that_fills_the_reward_models_context_is_dropped_and_counted(tmp_path, policy):
    from tests.test_ppo_stage import tiny_reward_model

    small = tiny_policy(tmp_path / "small", context=24)
    tokenizer = AutoTokenizer.from_pretrained(small)
    tokenizer.add_tokens(["<extra>"], special_tokens=True)
    tokenizer.save_pretrained(small)
    tiny_reward_model(tmp_path / "rm", small)
    texts = ["tell me", "thanks", "good", "tell me about the weather " * 6]
    stage = stage_of(
        tmp_path / "run", policy, texts=texts, updates=1, rewards=[{"source": str(tmp_path / "rm")}]
    )
    run_on_one_thread(stage)
    assert sum(stage.dropped.values()) == 1


def test_text_longer_than_the_reward_model_reads_is_read_as_far_as_it_can_be(policy):
    from rlaif.engines.loading import load_reward_model
    from rlaif.records import Prompt
    from rlaif.rl.reward import ModelReward

    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = load_reward_model(policy, "cpu", new_head=True)
    prompt = Prompt.model_validate({"messages": [{"role": "user", "content": "tell me"}]})
    ids = tokenizer("good bad fine rude sunny rain cold and warm " * 4)["input_ids"]
    episodes = join([[5], [5]], [ids, ids[:4]], torch.tensor([True, True]), 0)
    reader = ModelReward(model, tokenizer, 16, 2, policy_tokenizer=tokenizer)
    scores = reader(episodes, [prompt, prompt])
    assert scores.isfinite().all()
    assert reader.unread == 0.5


def test_a_callable_that_raises_loses_nothing(tmp_path, policy):
    options = {"rewards": [{"source": f"{SELF}:breaks"}], "checkpoint_every": 10}
    CALLS.update(n=0, break_at=0)
    whole = run_on_one_thread(stage_of(tmp_path / "whole", policy, **options))
    CALLS.update(n=0, break_at=2 + 4)  # the scale's two batches, three good updates, then this
    with pytest.raises(
        UserError, match=r"update 4 of 6: the reward .*breaks failed \(ConnectionError: the scorer is"
    ) as caught:
        run_on_one_thread(stage_of(tmp_path / "broken", policy, **options))
    assert "000003" in caught.value.next
    again = stage_of(tmp_path / "broken", policy, **options)
    before = len(rows_of(again))
    assert before == 3
    CALLS["n"] = 0
    run_on_one_thread(again)
    assert CALLS["n"] == 3  # updates 4, 5 and 6, and none again
    assert rows_of(again) == rows_of(whole)
    weights = [(s.dir / "policy" / "model.safetensors").read_bytes() for s in (whole, again)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("short_of_one", "gave 7 scores for 8 responses"),
        ("not_a_number", "gave nan for 8 of 8 responses"),
        ("silent", "has no opinion of any of 8 responses"),
    ],
)
def test_scores_that_cannot_be_used_are_named(tmp_path, policy, name, found):
    stage = stage_of(tmp_path / "run", policy, rewards=[{"source": f"{SELF}:{name}"}])
    with pytest.raises(UserError, match=found):
        run_on_one_thread(stage)


def test_a_function_that_is_not_there_is_said_before_anything_runs(tmp_path, policy):
    with pytest.raises(UserError, match="has no function"):
        run_on_one_thread(stage_of(tmp_path / "run", policy, rewards=[{"source": f"{SELF}:nothing"}]))


def test_no_opinion_is_the_mean_of_the_others(policy):
    tokenizer = AutoTokenizer.from_pretrained(policy)
    ids = [tokenizer(text)["input_ids"] for text in ("good", "bad", "fine")]
    episodes = join([[5]] * 3, ids, torch.ones(3, dtype=torch.bool), 0)
    source = FunctionReward("f", lambda prompts, texts: [1.0, None, 3.0], tokenizer)
    rewards = Rewards([Source("f", 1.0, source)])
    assert rewards(episodes, []).tolist() == [1.0, 2.0, 3.0]
    assert rewards.seen == {"score/f": 2.0, "unread/f": pytest.approx(1 / 3)}
    with pytest.raises(RewardFailed, match="ValueError"):
        FunctionReward("f", lambda prompts, texts: ["x"] * 3, tokenizer)(episodes, [])


def test_shares_of_a_batch_are_put_together_by_their_size():
    from rlaif.rl.ranks import Ranks

    class Two(Ranks):
        def gather(self, items):
            return [*items, (1, {"score/f": 5.0, "unread/f": 1.0})]

    rewards = Rewards([])
    rewards.seen, rewards.count = {"score/f": 1.0}, 3
    assert rewards.gather_seen(Two()) == {"score/f": 2.0, "unread/f": 0.25}


def test_an_encoder_judges_by_its_own_head(tmp_path, policy):
    """BERT has no `score` over its last state: its verdict is its own, with a mask over the padding."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(policy)
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    episodes = join([[5, 6], [7]], [[8, 9, 10], [11]], torch.ones(2, dtype=torch.bool), 0)
    for i, ids in enumerate(([5, 6, 8, 9, 10], [7, 11])):
        torch.testing.assert_close(
            final_scores(model, episodes.ids_BL, episodes.length_B)[i],
            model(input_ids=torch.tensor([ids])).logits[0, 0],
        )
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    stage = stage_of(tmp_path / "run", policy, updates=1, rewards=[{"source": str(tmp_path / "bert")}])
    run_on_one_thread(stage)
    assert any("new head" in note for note in stage.notes)
    tail = "/".join((tmp_path / "bert").parts[-3:])
    assert f"score/{tail}" in rows_of(stage)[0]


def test_opinions_that_are_often_missing_are_told(tmp_path, policy):
    stage = stage_of(tmp_path / "run", policy, updates=1, rewards=[{"source": f"{SELF}:shy"}])
    run_on_one_thread(stage)
    assert stage.metrics["unread"] == {f"{SELF}:shy": pytest.approx(0.75)}
    assert any("could not read 75% of the responses" in note for note in stage.notes)


def test_a_base_models_turn_ends_where_the_next_one_begins(tmp_path, policy, monkeypatch):
    base = shutil.copytree(policy, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = None
    (base / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(base)
    monkeypatch.setattr(turns, "HUMAN_STOP", "e")  # a random model writes no "Human:", but letters
    stage = stage_of(tmp_path / "run", base, updates=2, max_tokens=24)
    run_on_one_thread(stage)
    rows = rows_of(stage, "samples")
    assert not any("e" in row["response"] for row in rows)
    assert any(row["ended"] and row["tokens"] < 24 for row in rows)
    assert all(row["ended"] == (row["tokens"] < 24) for row in rows if row["tokens"] < 24)
    assert any("no chat template" in note for note in stage.notes)
    assert all(row["ratio_first"] == 1.0 for row in rows_of(stage))


def test_responses_that_are_all_cut_off_ring_an_alarm(tmp_path, policy):
    told = []
    stage = stage_of(tmp_path / "run", policy, max_tokens=2, updates=8)
    stage.run.tell = told.append
    run_on_one_thread(stage)
    assert [line for line in told if "cut off at the token limit" in line] == told[:1]
    alarms = stage.metrics["alarms"]
    assert [(a["kind"], a["update"]) for a in alarms if a["kind"] == "truncated"] == [("truncated", 1)]
    assert "max_tokens" in alarms[0]["advice"]
    assert sum("alarms" in row for row in rows_of(stage)) == 1


def test_held_out_prompts_are_looked_at(tmp_path, policy):
    stage = stage_of(tmp_path / "run", policy, judge_watched_prompts=True, num_watched_prompts=5, updates=4)
    with_judge(stage, heldout=0.5)
    run_on_one_thread(stage)
    looks = {row["update"]: row for row in rows_of(stage) if "heldout" in row}
    assert list(looks) == [1, 3, 4]
    assert all(row["heldout"] == 5 and 0 <= row["heldout_gold"] <= 1 for row in looks.values())
    assert all(-0.8 <= row["heldout_judge"] <= 0.8 for row in looks.values())
    assert stage.run.ledger.figures(stage.dir.name)["calls"] == 3 * 5


def test_adapters_text_mix_and_average_go_on_where_they_were(tmp_path, policy):
    """LoRA, EMA and ptx together, broken off and continued, and the policy as a plain folder for what comes
    next."""
    (tmp_path / "text.txt").write_text("the weather today is good and warm " * 20)
    options = {
        "rewards": [{"source": f"{SELF}:breaks"}],
        "lora": {"rank": 4},
        "ema_decay": 0.5,
        "learning_rate": 1e-2,
        "ptx": {"file": str(tmp_path / "text.txt"), "batch_size": 2, "block_size": 16, "coef": 1.0},
    }
    CALLS.update(n=0, break_at=0)
    whole = run_on_one_thread(stage_of(tmp_path / "whole", policy, **options))
    CALLS.update(n=0, break_at=2 + 4)
    with pytest.raises(UserError):
        run_on_one_thread(stage_of(tmp_path / "broken", policy, **options))
    again = run_on_one_thread(stage_of(tmp_path / "broken", policy, **options))
    assert rows_of(again) == rows_of(whole)
    weights = [(s.dir / "policy" / "model.safetensors").read_bytes() for s in (whole, again)]
    assert weights[0] == weights[1]
    assert rows_of(whole)[0]["ptx_loss"] > rows_of(whole)[-1]["ptx_loss"]
    trained, start = (AutoModelForCausalLM.from_pretrained(p) for p in (whole.dir / "policy", policy))
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert any(moved)
    assert not all(moved)  # norms and embeddings have no adapter
    assert (whole.dir / "adapter" / "adapter_model.safetensors").exists()
    next_stage = stage_of(
        tmp_path / "next", whole.dir / "policy", lora={"adapter": str(whole.dir / "adapter")}, updates=1
    )
    with pytest.raises(UserError, match="belongs to another base model"):  # the merged policy is one
        run_on_one_thread(next_stage)


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_shared_trunk_in_the_stage(tmp_path, policy, lora, monkeypatch):
    monkeypatch.setattr(ppo, "train_once", lambda stage, name, train: train())  # keeps its checkpoints
    stage = stage_of(
        tmp_path / "run", policy, shared_trunk_vf_coef=0.1, lora=lora, updates=2, checkpoint_every=1
    )
    run_on_one_thread(stage)
    assert any("shares the policy's trunk" in note for note in stage.notes)
    assert AutoModelForCausalLM.from_pretrained(stage.dir / "policy")
    from safetensors import safe_open

    with safe_open(stage.dir / "checkpoints" / "000002" / "value.safetensors", "pt") as saved:
        assert sorted(saved.keys()) == ["score.bias", "score.weight"]


def test_a_tracker_gets_the_numbers_and_a_missing_one_is_named(tmp_path, policy, monkeypatch):
    sent = []
    fake = types.ModuleType("wandb")
    fake.init, fake.finish = lambda **settings: sent.append(settings), lambda: sent.append("end")
    fake.log = lambda numbers, step: sent.append((step, numbers))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run_on_one_thread(stage_of(tmp_path / "run", policy, tracker="wandb", updates=2))
    assert sent[0]["project"] == "rlaif"
    assert [entry[0] for entry in sent[1:-1]] == [1, 2]
    assert sent[1][1]["exact_kl"] == 0.0
    assert sent[-1] == "end"
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match="trackio is not installed"):
        run_on_one_thread(stage_of(tmp_path / "other", policy, tracker="trackio", updates=1))
