"""Every model of the zoo through sample, critique, sft, sample, pair, label, reward, ppo and evaluate.

What is asserted is counted again from the rows, and encoded again by hand: text kept, dropped, trained on and
scored.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif import pipeline
from rlaif.engines.loading import load_reward_model, load_tokenizer
from rlaif.prompting.chat import encode_chat
from rlaif.records import Comparison, Evaluation, Label, Preference, Response, Revision
from rlaif.runs.folder import Run, Stage, read_json
from tests import zoo
from tests.test_zoo import added, chat_of

FAST = (
    "pad is EOS",
    "no pad, base model",
    "EOS appended, BOS in the template",
    "end marker added, not special",
    "SentencePiece with add_eos_token",
    "a system turn demanded",
)
EACH = [pytest.param(m, id=m.name, marks=() if m.name in FAST else pytest.mark.slow) for m in zoo.MODELS]
TOKENS = {"max_tokens": 8}
STAGES = [
    {"stage": "sample", **TOKENS},
    {"stage": "critique", "rounds": 2, "max_tokens": 24, "temperature": 1},
    {"stage": "sft", "batch_size": 8, "max_length": zoo.CONTEXT},
    {"stage": "sample", "k": 3, **TOKENS},
    {"stage": "pair"},
    {"stage": "label"},
    {"stage": "reward", "batch_size": 8, "max_length": zoo.CONTEXT, "learning_rate": 0.01, "heldout": 0.3},
    {"stage": "ppo", "updates": 2, "batch_size": 4, "num_watched_prompts": 0, **TOKENS},
    {"stage": "evaluate", **TOKENS},
]


@dataclass
class Seen:
    """What the trainers were given."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The sft's rows and the reward stage's pairs on their way to training."""
    from rlaif.stages import reward
    from rlaif.training import loop as training

    found, fit, elements = Seen(), training.fit_responses, reward.elements
    monkeypatch.setattr("rlaif.training.rewards.REFERENCE_SAMPLES", 8)
    monkeypatch.setattr(
        training,
        "fit_responses",
        lambda stage, model, tokenizer, rows, held: (
            found.rows.extend(rows),
            fit(stage, model, tokenizer, rows, held),
        ),
    )
    monkeypatch.setattr(
        reward, "elements", lambda pairs, *rest: (found.pairs.extend(pairs), elements(pairs, *rest))[1]
    )
    return found


def make(model: zoo.Model, folder: Path) -> Run:
    """A whole run of the model, which is policy and judge alike."""
    path = zoo.build(model, folder / "model")
    prompts = [
        {"messages": [*chat_of(model)[:-1], {"role": "user", "content": text}]} for text in zoo.PROMPTS
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    principle = {"id": "kind", "text": zoo.PRINCIPLE}
    (folder / "constitution.yaml").write_text(json.dumps({"name": "zoo", "principles": [principle]}))
    used = {"model": str(path), "device": "cpu", "chat_template_kwargs": model.switches}
    (folder / "config.yaml").write_text(
        json.dumps(
            {
                "name": "zoo",
                "constitution": "constitution.yaml",
                "prompts": "prompts.jsonl",
                "heldout": 0.25,
                "templates": "brief",
                "threads": 1,
                "policy": used,
                "feedback": used,
                "stages": STAGES,
            }
        )
    )
    return pipeline.run(folder / "config.yaml", folder / "run")


def counts(stage: Stage) -> tuple[int, int, int]:
    """(in, kept, dropped) of a stage's summary."""
    summary = read_json(stage.dir / "stage.json")
    assert summary["status"] == "done"
    return summary["in"], summary["kept"], sum(summary["dropped"].values())


def check_counts(run: Run) -> None:
    first, critique, sft, sample, pair, label, reward, ppo, evaluate = run.stages
    prompts, heldout = len(run.prompts("train")), len(run.prompts("heldout"))
    assert counts(first) == (prompts, len(first.rows("responses", Response)), 0) == (prompts, prompts, 0)
    revisions = critique.rows("revisions", Revision)
    valid = sum(row.status != "invalid" for row in revisions)
    assert counts(critique) == (2 * prompts, valid, 2 * prompts - valid)
    total, kept, dropped = counts(sft)
    assert total == kept + dropped == 2 * prompts
    assert (
        counts(sample)
        == (3 * prompts, len(sample.rows("responses", Response)), 0)
        == (3 * prompts, 3 * prompts, 0)
    )
    comparisons = len(pair.rows("comparisons", Comparison))
    total, kept, dropped = counts(pair)
    assert (kept, total) == (comparisons, 3 * prompts) == (total - dropped, kept + dropped)
    preferences = len(label.rows("preferences", Preference))
    assert counts(label) == (comparisons, preferences, comparisons - preferences)
    assert len(label.rows("labels", Label)) >= 2 * preferences  # in both orders
    total, kept, dropped = counts(reward)
    assert total == kept + dropped == preferences
    assert counts(ppo) == (prompts, prompts, 0)
    assert len(evaluate.rows("evaluation", Evaluation)) == 3 * heldout  # of base, sft and ppo


def texts_of(run: Run) -> list[str]:
    """Every text a model wrote in the run."""
    rows = [
        row.text
        for stage in run.stages
        if (stage.dir / "responses.jsonl").exists()
        for row in stage.rows("responses", Response)
    ]
    lines = (run.stages[7].dir / "samples.jsonl").read_text().splitlines()
    return [*rows, *(json.loads(line)["response"] for line in lines)]


def check_scores(model: zoo.Model, run: Run, pairs: list[dict[str, Any]]) -> None:
    """The reward model says the same of a sequence in training, calibration and PPO."""
    from rlaif.rl.episodes import join
    from rlaif.rl.forward import score_at_last_token, score_by_length, score_sequences
    from rlaif.rl.reward import ModelReward

    folder = run.stages[6].dir / "reward_model"
    tokenizer, net = load_tokenizer(folder), load_reward_model(folder, "cpu", "float32")
    end = tokenizer.convert_tokens_to_ids(model.end)
    whole = [(pair[key], pair["start"]) for pair in pairs for key in ("chosen_ids", "rejected_ids")]
    whole = [
        (ids if ids[-1] == end else [*ids, end] * (n % 2) or ids, start)
        for n, (ids, start) in enumerate(whole)
    ]
    starts, responses = [ids[:start] for ids, start in whole], [ids[start:] for ids, start in whole]
    ended = torch.tensor([ids[-1] == end for ids in responses])
    assert 0 < int(ended.sum()) <= len(ended) > 4
    episodes = join(starts, responses, ended, tokenizer.pad_token_id)
    ppo = ModelReward(net, tokenizer, zoo.CONTEXT, 4)(episodes, [])
    own = torch.tensor(score_sequences(net, [ids for ids, _ in whole], 4))
    alone = torch.tensor([score_sequences(net, [ids], 1)[0] for ids, _ in whole])
    assert float((ppo - own).abs().max()) <= 1e-5
    assert float((alone - own).abs().max()) <= 1e-5
    with torch.no_grad():
        trained = score_by_length(score_at_last_token(net), episodes.ids_BL, episodes.length_B, 8)
    assert float((trained - own).abs().max()) <= 1e-5
    assert float(own.std()) > 1e-3  # of scores that differ


@pytest.mark.parametrize("model", EACH)
def test_a_whole_pass(model: zoo.Model, tmp_path: Path, seen: Seen):
    run = make(model, tmp_path)
    check_counts(run)
    tokenizer = load_tokenizer(tmp_path / "model", model.switches)
    marks = [t for t in tokenizer.get_added_vocab() if t not in model.added or t == model.end]
    assert not [text for text in texts_of(run) if any(mark in text for mark in marks)]
    ended = [
        row
        for stage in (run.stages[0], run.stages[3])
        for row in stage.rows("responses", Response)
        if row.finish_reason == "stop"
    ]
    assert 0 < len(ended) < 48  # some of them end, and some are cut off
    prompts = {prompt.id: encode_chat(tokenizer, prompt.chat) for prompt in run.prompts("train")}
    rows = [(row["input_ids"], row["start"], row["prompt_id"]) for row in seen.rows]
    rows += [
        (pair[key], pair["start"], pair["prompt_id"])
        for pair in seen.pairs
        for key in ("chosen_ids", "rejected_ids")
    ]
    for ids, start, prompt_id in rows:
        assert ids[:start] == prompts[prompt_id]
        within = [
            token for token in added(tokenizer, ids[start:]) if token not in ("<think>", "</think>")
        ]  # are text
        assert within in ([], [model.end])
        assert model.end not in added(tokenizer, ids[start:-1])
    for stage, name in (
        (run.stages[2], "policy"),
        (run.stages[6], "reward_model"),
        (run.stages[7], "policy"),
    ):
        again = load_tokenizer(stage.dir / name)
        assert [encode_chat(again, p.chat) for p in run.prompts("train")] == list(prompts.values())
    check_scores(model, run, seen.pairs)
