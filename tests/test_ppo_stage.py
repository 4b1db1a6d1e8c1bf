"""The stage in a run folder: what it writes, what it refuses, and that a killed run ends like an unharmed
one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.options import PpoOptions
from rlaif.records import Prompt
from rlaif.runs.folder import Run, Stage
from rlaif.runs.seeds import in_rounds
from rlaif.stages import ppo
from tests.tiny_models import FEW, few_reference_samples, tiny_policy

OPTIONS = {
    "updates": 6,
    "batch_size": 8,
    "micro_batch": 4,
    "minibatches": 2,
    "max_tokens": 6,
    "warmup": 2,
    "learning_rate": 1e-3,
    "checkpoint_every": 2,
    "sample_every": 3,
}


def gold(messages, response, principles):
    """A truth for the tests: kind responses hold the word good."""
    return {p["id"]: "good" in response for p in principles}


def tiny_reward_model(folder: Path, policy: Path, head: float = 0.5) -> None:
    """A classifier on the policy's weights, with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    model.score.weight.data = torch.randn(model.score.weight.shape) * head
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def stage_of(folder: Path, policy: Path, judge: Path | None = None, texts=None, **options) -> Stage:
    """A ppo stage after a reward stage whose model is made by hand, begun."""
    folder.mkdir(exist_ok=True)
    config = Config.model_validate(
        {
            "name": "tiny",
            "constitution": "c",
            "prompts": "p",
            "heldout": 0.01,
            "threads": 1,
            "policy": {"model": str(policy), "device": "cpu"},
            "feedback": {"model": str(policy)},
            "gold": "tests.test_ppo_stage:gold",
            "stages": [{"stage": "reward"}, {"stage": "ppo", **OPTIONS, **options}],
        }
    )
    principles = [{"id": "kind", "text": "Be kind."}]
    run = Run(folder, config, Constitution.model_validate({"name": "tiny", "principles": principles}))
    rows = [
        Prompt(messages=({"role": "user", "content": text},))
        for text in texts or [f"tell me about number {n}" for n in range(20)]
    ]
    (folder / "prompts.jsonl").write_text("".join(row.to_json() + "\n" for row in rows))
    before, stage = run.stages
    before.dir.mkdir(exist_ok=True)
    if not (before.dir / "reward_model").exists():
        tiny_reward_model(before.dir / "reward_model", judge or policy)
    stage.begin()
    return stage


def run_on_one_thread(stage: Stage) -> Stage:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with few_reference_samples():
            ppo.run(stage)
    finally:
        torch.set_num_threads(threads)
    return stage


def rows_of(stage: Stage, name: str = "metrics") -> list[dict]:
    rows = [json.loads(line) for line in (stage.dir / f"{name}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return tiny_policy(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, policy) -> Stage:
    """An uninterrupted run."""
    return run_on_one_thread(stage_of(tmp_path_factory.mktemp("runs") / "whole", policy))


def test_what_the_stage_writes(whole, policy):
    rows = rows_of(whole)
    assert [row["update"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {
        "episodes",
        "reward",
        "score",
        "kl",
        "exact_kl",
        "kl_coef",
        "entropy",
        "length",
        "truncated",
        "policy_loss",
        "value_loss",
        "clip_fraction",
        "approx_kl",
        "explained_variance",
        "ratio_first",
        "grad_norm",
        "value_grad_norm",
        "gold",
    } <= set(rows[0])
    assert all(row["ratio_first"] == 1.0 for row in rows)
    assert rows[0]["exact_kl"] == 0.0
    assert rows[-1]["episodes"] == 48
    assert whole.metrics["updates"] == 6
    assert whole.metrics["episodes"] == 48
    assert {"kl", "reward_start", "reward_end"} <= set(whole.metrics)
    assert whole.summary["in"] == whole.summary["kept"] == 20
    assert [row["update"] for row in rows_of(whole, "samples")] == [1] * 4 + [3] * 4 + [6] * 4
    assert whole.example is not None


def test_the_policy_is_a_plain_folder_that_has_moved(whole, policy):
    trained, start = (AutoModelForCausalLM.from_pretrained(p) for p in (whole.dir / "policy", policy))
    assert trained.generation_config.eos_token_id == start.generation_config.eos_token_id
    assert AutoTokenizer.from_pretrained(whole.dir / "policy").chat_template
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert all(moved)
    assert not list(whole.dir.glob("*.partial"))


def test_scores_are_scaled_by_samples_of_the_starting_policy(whole):
    scale = json.loads((whole.dir / "reward_scale.json").read_text())
    assert scale["reward_model"]["std"] > 0
    assert abs(rows_of(whole)[0]["score"]) < 1.5  # its own samples: mean near 0 on the scale they fixed


def test_other_weights_may_start_and_the_reference_stays_the_current_policy(tmp_path, whole, policy):
    stage = stage_of(tmp_path / "on", policy, model=str(whole.dir / "policy"), updates=1, learning_rate=1e-9)
    run_on_one_thread(stage)
    scales = [json.loads((s.dir / "reward_scale.json").read_text()) for s in (stage, whole)]
    assert scales[0] == scales[1]  # of the reference's samples
    rows = rows_of(stage)
    assert rows[0]["exact_kl"] > 0.5 * rows_of(whole)[-1]["exact_kl"] > 0  # from the reference, at once
    trained, start = (
        AutoModelForCausalLM.from_pretrained(p) for p in (stage.dir / "policy", whole.dir / "policy")
    )
    for a, b in zip(trained.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    other = tiny_policy(tmp_path / "other", context=32)
    config = json.loads((other / "config.json").read_text())
    assert config["vocab_size"]
    wide = tmp_path / "wide"
    model = AutoModelForCausalLM.from_pretrained(other)
    model.resize_token_embeddings(config["vocab_size"] + 8)
    model.save_pretrained(wide)
    with pytest.raises(UserError, match=r"model: .*wide is not of the shape of the policy"):
        ppo.run(stage_of(tmp_path / "bad", policy, model=str(wide)))


CHILD = """
import sys, time
from pathlib import Path
from rlaif.rl.ppo import PPO
from tests.test_ppo_stage import run_on_one_thread, stage_of
update = PPO.update
def slow(self, number, prompts):
    time.sleep(0.1)
    return update(self, number, prompts)
PPO.update = slow
run_on_one_thread(stage_of(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, whole, policy):
    folder = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(policy)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    log = folder / "02_ppo" / "metrics.jsonl"
    while not log.exists() or len(log.read_bytes().splitlines()) < 3:
        assert child.poll() is None, child.stderr.read().decode() if child.stderr else ""
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(log.read_bytes().splitlines()) < 6
    assert (folder / "02_ppo" / "checkpoints" / "000002").exists()
    with log.open("a") as file:  # as a process killed while writing leaves it
        file.write('{"update": 9, "sco')
    torn = folder / "02_ppo" / "checkpoints" / "partial"
    torn.mkdir(exist_ok=True)
    (torn / "state.json").write_text("{")
    continued = run_on_one_thread(stage_of(folder, policy))
    assert rows_of(continued) == rows_of(whole)
    assert rows_of(continued, "samples") == rows_of(whole, "samples")
    weights = [(s.dir / "policy" / "model.safetensors").read_bytes() for s in (whole, continued)]
    assert weights[0] == weights[1]
    drop = {"seconds_per_update"}
    assert {k: v for k, v in continued.metrics.items() if k not in drop} == {
        k: v for k, v in whole.metrics.items() if k not in drop
    }


def test_a_finished_stage_run_again_changes_nothing(whole):
    before = rows_of(whole), (whole.dir / "policy" / "model.safetensors").stat().st_mtime_ns
    run_on_one_thread(whole)
    assert (rows_of(whole), (whole.dir / "policy" / "model.safetensors").stat().st_mtime_ns) == before


def test_prompts_that_do_not_fit_are_counted(tmp_path, policy):
    long = "tell me about " * 30
    stage = stage_of(tmp_path / "run", policy, texts=["tell me", "thanks", "good", long], updates=1)
    run_on_one_thread(stage)
    assert sum(stage.dropped.values()) == 1
    assert stage.summary["kept"] == 3


def test_no_prompt_that_fits_is_the_users_mistake(tmp_path, policy):
    with pytest.raises(UserError, match="none of 20 prompts") as caught:
        run_on_one_thread(stage_of(tmp_path / "run", policy, max_tokens=60))
    assert "max_tokens" in caught.value.next


def test_nan_names_update_and_value_and_keeps_the_checkpoint(tmp_path, policy, monkeypatch):
    from rlaif.rl.reward import ModelReward

    stage = stage_of(tmp_path / "run", policy)
    score, calls = ModelReward.__call__, iter(range(100))
    breaks_at = -(-FEW // 8) + 4  # the scale's batches, four good updates, then this

    def breaks(self, episodes, prompts):
        scores = score(self, episodes, prompts)
        return scores * float("nan") if next(calls) == breaks_at else scores

    monkeypatch.setattr(ModelReward, "__call__", breaks)
    with pytest.raises(
        UserError, match="update 5 of 6: the reward reward_model gave nan for 8 of 8"
    ) as caught:
        run_on_one_thread(stage)
    assert "000004" in caught.value.next
    assert len(rows_of(stage)) == 4
    monkeypatch.undo()
    again = run_on_one_thread(stage_of(tmp_path / "run", policy))
    assert [row["update"] for row in rows_of(again)] == [1, 2, 3, 4, 5, 6]


def test_a_gold_scorer_that_raises_loses_no_update(tmp_path, policy, whole, monkeypatch):
    asked = []

    def breaks(messages, response, principles):
        asked.append(response)
        if len(asked) == 3 * 8 + 1:
            raise ZeroDivisionError("no rule")
        return gold(messages, response, principles)

    monkeypatch.setitem(globals(), "gold_of_a_test", breaks)
    stage = stage_of(tmp_path / "run", policy, num_watched_prompts=0)
    stage.run.config = stage.config.model_copy(update={"gold": "tests.test_ppo_stage:gold_of_a_test"})
    with pytest.raises(UserError, match=r"gold_of_a_test failed .ZeroDivisionError: no rule"):
        run_on_one_thread(stage)
    assert len(rows_of(stage)) == 4
    again = run_on_one_thread(stage_of(tmp_path / "run", policy, num_watched_prompts=0))
    assert [row["update"] for row in rows_of(again)] == list(range(1, 7))
    scores = [[row["score"] for row in rows_of(s)] for s in (again, whole)]
    assert scores[0] == scores[1]


def test_samples_are_kept_of_an_update_whose_look_failed(tmp_path, policy, monkeypatch):
    monkeypatch.setitem(globals(), "gold_of_a_test", lambda *_: 1 / 0)
    options = {"updates": 1, "num_watched_prompts": 0}
    stage = stage_of(tmp_path / "run", policy, **options)
    stage.run.config = stage.config.model_copy(update={"gold": "tests.test_ppo_stage:gold_of_a_test"})
    with pytest.raises(UserError, match="gold_of_a_test failed"):
        run_on_one_thread(stage)
    again = run_on_one_thread(stage_of(tmp_path / "run", policy, **options))
    assert {row["update"] for row in rows_of(again)} == {1}
    samples = (again.dir / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in samples] == [1] * 4


@pytest.mark.parametrize(("every", "written"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4, 6])])
def test_a_kill_costs_no_more_updates_than_lie_between_checkpoints(
    tmp_path, policy, monkeypatch, every, written
):
    from rlaif.rl import ppo_checkpoint as checkpoint

    saved, save = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: (saved.append(args[2]), save(*args)))
    run_on_one_thread(stage_of(tmp_path / "run", policy, num_watched_prompts=0, checkpoint_every=every))
    assert saved == written
    assert PpoOptions(stage="ppo").checkpoint_every == 1


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"minibatches": 9}, "some would be empty"),
        ({"kl_target": 6.0, "kl_coef": 0.0}, "more than 0"),
        ({"kl_target": 6.0, "kl_horizon": 7}, "would swing"),
        ({"critic_warmup": 6}, "learn nothing"),
    ],
)
def test_settings_that_could_do_nothing_are_refused(tmp_path, policy, options, found):
    with pytest.raises(ValueError, match=found):
        stage_of(tmp_path / "run", policy, **options)


def test_half_precision_and_pools_of_one_are_refused(tmp_path, policy):
    stage = stage_of(tmp_path / "run", policy)
    half = stage.config.policy.model_copy(update={"dtype": "float16"})
    stage.run.config = stage.config.model_copy(update={"policy": half})
    with pytest.raises(UserError, match="small gradients vanish"):
        ppo.run(stage)
    with pytest.raises(UserError, match="has one opinion"):
        ppo.run(stage_of(tmp_path / "run", policy, rewards=[{"source": "reward_model", "pool": "worst"}]))


def test_a_learning_rate_that_blows_up_says_what_to_lower(tmp_path, policy):
    stage = stage_of(tmp_path / "run", policy, learning_rate=1e30, updates=6, warmup=0)
    with pytest.raises(UserError, match=r"update \d of 6: \w+ is (nan|inf|-inf)") as caught:
        run_on_one_thread(stage)
    assert "ppo.learning_rate is 1e+30" in caught.value.found
    assert "-s ppo.learning_rate=0.001 --from" in caught.value.next


def test_a_reward_model_with_its_own_tokenizer_reads_text(tmp_path, policy):
    other = tiny_policy(tmp_path / "other", seed=3)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<extra>"], special_tokens=True)
    tokenizer.save_pretrained(other)
    stage = stage_of(tmp_path / "run", policy, judge=other, updates=2)
    run_on_one_thread(stage)
    assert any("tokenizer of its own" in note for note in stage.notes)
    assert all(row["ratio_first"] == 1.0 for row in rows_of(stage))


def test_text_and_tokens_give_one_score(whole, policy):
    from rlaif.engines.loading import load_reward_model, load_tokenizer
    from rlaif.rl.episodes import join
    from rlaif.rl.reward import ModelReward

    tokenizer = load_tokenizer(policy)
    model = load_reward_model(whole.input("reward_model"), "cpu")
    prompts = whole.run.prompts("train")[:3]
    from rlaif.prompting.chat import encode_turn

    responses = ["thanks it is good", "rude", "cold and warm rain"]
    turns = [
        encode_turn(tokenizer, p.chat, r, tokenizer.eos_token_id if i != 1 else None)
        for i, (p, r) in enumerate(zip(prompts, responses, strict=True))
    ]
    episodes = join([p for p, _ in turns], [r for _, r in turns], torch.tensor([True, False, True]), 0)
    by_tokens = ModelReward(model, tokenizer, 64, 2)(episodes, prompts)
    by_text = ModelReward(model, tokenizer, 64, 2, policy_tokenizer=tokenizer)(episodes, prompts)
    torch.testing.assert_close(by_tokens, by_text)
    alone = torch.stack([model(input_ids=torch.tensor([p + r])).logits[0, 0] for p, r in turns])
    torch.testing.assert_close(by_tokens, alone.detach())


def test_the_cursor_shows_every_prompt_once_a_round():
    prompts = list(range(10))
    seen = [p for number in range(1, 6) for p in in_rounds(prompts, number, 4, seed=0)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == prompts
    assert seen[:10] != seen[10:]
    assert in_rounds(prompts, 3, 4, seed=0) == seen[8:12]
    assert sorted(in_rounds(prompts, 1, 20, seed=0)) == sorted(prompts * 2)


def test_a_real_pretrained_model(tmp_path, test_data):
    stories = test_data / "models" / "stories260K_hf"
    stage = stage_of(tmp_path / "run", stories, updates=2, batch_size=4, max_tokens=12)
    run_on_one_thread(stage)
    assert len(rows_of(stage)) == 2
    assert any("no chat template" in note for note in stage.notes)
    assert AutoModelForCausalLM.from_pretrained(stage.dir / "policy").generation_config.eos_token_id == [1, 2]
