"""RLOO and GRPO through trl: they learn, write PPO's rows, refuse what cannot work, and continue where they
stopped."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rlaif.config import Config
from rlaif.errors import UserError
from rlaif.runs.folder import Stage
from rlaif.stages import grpo, rloo
from tests.test_arms import run_of
from tests.tiny_models import few_reference_samples, tiny_policy

STAGES = {"rloo": rloo, "grpo": grpo}
told: list[str] = []
SMALL = {
    "updates": 4,
    "sample_every": 2,
    "num_watched_prompts": 5,
    "batch_size": 8,
    "group_size": 4,
    "micro_batch": 4,
    "max_tokens": 4,
    "warmup": 1,
    "minibatches": 2,
    "learning_rate": 1e-3,
}
CHILD = """
import sys, time
from rlaif.training import groups, loop as training
from tests.test_groups import start
training.SAVE_SECONDS, training.SAVE_SHARE = 0.0, 1e9
step_end = groups.UpdateCallback.on_step_end
def slow(self, *args, **rest):
    time.sleep(0.1)
    step_end(self, *args, **rest)
groups.UpdateCallback.on_step_end = slow
start(*sys.argv[1:])
"""


def short_words(prompts, texts):
    """A reward: the share of a response's characters that are the letter o."""
    return [text.count("o") / max(1, len(text)) for text in texts]


def characters(prompts, texts):
    """A reward that hardly ever is the same for two responses: how long they are, and what they begin
    with."""
    return [len(text) + ord(text[:1] or "a") % 7 for text in texts]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


def start(folder: str, policy: str, name: str, **options) -> Stage:
    """Run a stage on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    source = {"source": "tests.test_groups:characters"}
    own = {"stage": name, "rewards": [source], **SMALL, **options}
    path = Path(folder)
    run = run_of(path, Path(policy), own)
    run.tell = told.append
    with few_reference_samples():
        STAGES[name].run(run.stages[0])
    run.stages[0].save("done")
    torch.set_num_threads(threads)
    return run.stages[0]


def curve(folder: Path, name: str = "metrics") -> list[dict]:
    (path,) = folder.glob(f"01_*/{name}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_it_learns_what_is_rewarded(tmp_path, policy, name):
    stage = start(
        str(tmp_path / "run"),
        str(policy),
        name,
        updates=30,
        batch_size=32,
        micro_batch=32,
        minibatches=1,
        learning_rate=5e-3,
        kl_coef=0.01,
        missing_eos_penalty=0.0,
        rewards=[{"source": "tests.test_groups:short_words"}],
    )
    rows = curve(tmp_path / "run")
    assert [row["update"] for row in rows] == list(range(1, 31))
    assert rows[-1]["episodes"] == 30 * 32
    assert stage.metrics["score_end"] > stage.metrics["score_start"] + 1.0  # in spreads of the first samples
    assert rows[-1]["kl"] > 0


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_what_the_stage_writes(tmp_path, policy, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stage = start(str(tmp_path / "run"), str(policy), name)
    rows = curve(tmp_path / "run")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert {
        "score",
        "reward",
        "length",
        "truncated",
        "kl",
        "entropy",
        "gold",
        "loss",
        "episodes",
        "refusals",
        "boilerplate",
    } <= set(rows[0])
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert abs(rows[0]["score"]) < 3
    assert all(1 <= row["length"] <= 4 for row in rows)
    assert stage.metrics["updates"] == 4
    assert {"kl", "reward_start", "reward_end"} <= set(stage.metrics)
    trained, first = (AutoModelForCausalLM.from_pretrained(p) for p in (stage.dir / "policy", policy))
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), first.parameters(), strict=True)]
    assert all(moved)
    assert AutoTokenizer.from_pretrained(stage.dir / "policy").chat_template
    assert stage.summary["example"]["answer"].startswith(curve(tmp_path / "run", "samples")[-1]["response"])
    assert not (stage.dir / "checkpoints").exists()


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_base_models_response_ends_at_the_next_human_turn(logprobs):
    from rlaif.training.groups import GroupTrainer

    class Generates:
        def _generate_single_turn(self, *_):
            ids = [[1, 2, 3, 4], [1, 2]]
            return (ids, None) if logprobs else ids

    class Trainer(GroupTrainer, Generates):
        stops = staticmethod(lambda ids: 3 if 3 in ids else None)

    cut = [[1, 2, 3], [1, 2]]
    assert Trainer()._generate_single_turn() == ((cut, None) if logprobs else cut)


def test_prompts_are_rendered_by_our_one_call_site_and_grouped(tmp_path, policy, monkeypatch):
    from rlaif.engines.loading import load_tokenizer
    from rlaif.prompting.chat import encode_chat
    from rlaif.training import groups

    seen = []
    score = groups.Scorer.__call__

    def watched(self, prompts, completion_ids, **rest):
        seen.append((list(prompts), [list(ids) for ids in completion_ids]))
        return score(self, prompts, completion_ids, **rest)

    monkeypatch.setattr(groups.Scorer, "__call__", watched)
    stage = start(str(tmp_path / "run"), str(policy), "rloo")
    known = {p.id: p for p in stage.run.prompts("train")}
    tokenizer = load_tokenizer(policy)
    for prompts, completions in seen:
        assert len(prompts) == len(completions) == 8
        assert [len(set(prompts[i : i + 4])) for i in (0, 4)] == [1, 1]
    asked = [ids for prompts, _ in seen for ids in prompts[::4]]
    assert len(seen) == 4
    assert len(set(asked)) == 8  # each prompt once before any comes again
    assert encode_chat(tokenizer, known[asked[0]].chat)[-1] == tokenizer.convert_tokens_to_ids(
        "<|assistant|>"
    )


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path, policy, name):
    whole = start(str(tmp_path / "whole"), str(policy), name)
    folder = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(policy), name],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    while not list(folder.glob("01_*/checkpoints/checkpoint-4/whole")):
        assert child.poll() is None, child.stderr.read().decode() if child.stderr else ""
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(curve(folder)) < 4
    continued = start(str(folder), str(policy), name)
    assert curve(folder) == curve(tmp_path / "whole")
    assert curve(folder, "samples") == curve(tmp_path / "whole", "samples")
    assert continued.metrics == whole.metrics
    weights = [(stage.dir / "policy" / "model.safetensors").read_bytes() for stage in (whole, continued)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_looks_are_ppos_looks(tmp_path, policy, name):
    start(str(tmp_path / "run"), str(policy), name, kl_coef=0.0)
    rows, samples = curve(tmp_path / "run"), curve(tmp_path / "run", "samples")
    assert [row["update"] for row in rows if "exact_kl" in row] == [
        1,
        2,
        4,
    ]  # the first, every second, the last
    assert [row["update"] for row in rows if "heldout_gold" in row] == [1, 2, 4]
    assert rows[0]["heldout"] == 5
    assert "kl" not in rows[0]  # trl measures none without a coefficient
    assert rows[0]["exact_kl"] == pytest.approx(0, abs=1e-6)  # before the first step
    assert rows[3]["exact_kl"] > rows[1]["exact_kl"] > 1e-5
    assert [row["update"] for row in samples] == [1] * 4 + [2] * 4 + [4] * 4
    assert list(samples[0]) == [
        "update",
        "policy_version",
        "prompt_id",
        "prompt",
        "response",
        "score",
        "log_prob",
        "kl",
        "exact_kl",
        "tokens",
        "ended",
    ]
    assert len({row["prompt_id"] for row in samples[:4]}) == 2  # of both groups
    assert all(row["log_prob"] < 0 for row in samples)


def test_exact_kl_is_the_full_sum_over_the_vocabulary(tmp_path, policy, monkeypatch):
    """Against log-softmaxes of whole logits in fp64, for the responses of the last update and its policy."""
    from rlaif.engines.loading import load_causal_lm
    from rlaif.training import groups

    kept = []
    compare = groups.Actor.compare

    def watched(self, episodes):
        kept.append((copy.deepcopy(self.policy.state_dict()), episodes))
        return compare(self, episodes)

    monkeypatch.setattr(groups.Actor, "compare", watched)
    start(str(tmp_path / "run"), str(policy), "grpo", temperature=0.7)
    weights, episodes = kept[-1]
    first, trained = (load_causal_lm(str(policy), "cpu", "float32").double() for _ in range(2))
    trained.load_state_dict(weights)
    total = 0.0
    for ids, begin, length in zip(episodes.ids_BL, episodes.prompt_B, episodes.length_B, strict=True):
        row = ids[:length][None]
        own, other = (
            m(input_ids=row).logits[0, begin - 1 : -1].div(0.7).log_softmax(-1) for m in (trained, first)
        )
        total += float((own.exp() * (own - other)).sum().detach())
    assert curve(tmp_path / "run")[-1]["exact_kl"] == pytest.approx(total / len(episodes), rel=1e-4)


def test_watching_changes_nothing(tmp_path, policy):
    seen = start(str(tmp_path / "seen"), str(policy), "rloo")
    blind = start(str(tmp_path / "blind"), str(policy), "rloo", num_watched_prompts=0, sample_every=100)
    weights = [(stage.dir / "policy" / "model.safetensors").read_bytes() for stage in (seen, blind)]
    assert weights[0] == weights[1]
    assert "heldout_gold" not in curve(tmp_path / "blind")[0]


def test_the_judge_looks_and_a_tracker_is_told(tmp_path, policy, monkeypatch):
    from rlaif.training import tracking

    sent = []

    @contextmanager
    def tracker(stage):
        yield sent.append

    monkeypatch.setitem(tracking._TRACKERS, "wandb", tracker)
    start(str(tmp_path / "run"), str(policy), "rloo", judge_watched_prompts=True, tracker="wandb")
    rows = curve(tmp_path / "run")
    assert [row["update"] for row in rows if "heldout_judge" in row] == [1, 2, 4]
    assert sent == [{k: v for k, v in row.items() if k not in ("step", "epoch")} for row in rows]


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_alarms_ring_once_and_name_the_stages_own_options(tmp_path, policy, name):
    stage = start(str(tmp_path / "run"), str(policy), name, updates=8, max_tokens=1)
    alarms = [alarm for alarm in stage.metrics["alarms"] if alarm["kind"] == "truncated"]
    assert [alarm["update"] for alarm in alarms] == [1]  # nothing has to be waited for: all are cut off
    assert f"raise {name}.max_tokens, or raise {name}.missing_eos_penalty" in alarms[0]["advice"]
    assert any(f"01_{name}: update 1: " in line for line in told)
    assert sum("alarms" in row for row in curve(tmp_path / "run")) == 1
    assert any("alarms raised: truncated at update 1" in note for note in stage.notes)


def test_whole_groups_only_and_prompts_that_fit(tmp_path, policy):
    def config(**options):
        return Config.model_validate(
            {
                "name": "x",
                "constitution": "c",
                "prompts": "p",
                "policy": {"model": "m"},
                "feedback": {"model": "m"},
                "stages": [{"stage": "rloo", **options}],
            }
        )

    with pytest.raises(ValueError, match="batch_size 10 is no multiple of group_size 8"):
        config(batch_size=10)
    with pytest.raises(ValueError, match="batch_size 16 is no multiple of minibatches 3"):
        config(batch_size=16, minibatches=3)
    with pytest.raises(UserError, match=r"none of \d+ prompts leaves room for 63 new tokens"):
        start(str(tmp_path / "run"), str(policy), "rloo", max_tokens=63)


def test_a_reward_that_fails_says_so_and_loses_nothing(tmp_path, policy):
    with pytest.raises(UserError, match=r"the reward tests\.test_groups:broken failed"):
        start(str(tmp_path / "run"), str(policy), "rloo", rewards=[{"source": "tests.test_groups:broken"}])


def broken(prompts, texts):
    """A reward that raises."""
    raise RuntimeError("out of order")
