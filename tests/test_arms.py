"""The arms beside PPO on tiny models: what is graded, what is chosen, and that each learns a task it can
learn."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.options.rewarded import RewardSourceOptions
from rlaif.records import Evaluation, Grade, Prompt, Response
from rlaif.runs.folder import Run, read_json, write_json
from rlaif.runs.rows import RowFile
from rlaif.stages import best_of_n, evaluate, rejection
from rlaif.stats import kl_best_of_n
from rlaif.training.rewards import grade, member_folders, open_rewards, totals
from tests.tiny_models import hand_made_run, prompts_of, response, tiny_policy

HERE = "tests.test_arms"


def likes_good(prompts, texts):
    """A reward: how often a response says good, and a little for being short."""
    return [text.split().count("good") - 0.01 * len(text.split()) for text in texts]


def unsure(prompts, texts):
    """A reward without an opinion of rude responses."""
    return [None if "rude" in text else 0.0 for text in texts]


def gold(messages, response, principles):
    """A truth: kind responses hold the word good."""
    return {p["id"]: "good" in response.split() for p in principles}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


def every_other(prompts, texts):
    """A reward with no opinion of half the texts."""
    return [None if at % 2 else 0.0 for at in range(len(texts))]


def source(name="likes_good", **more):
    return {"source": f"{HERE}:{name}", **more}


def run_of(folder: Path, policy: Path, *stages: dict, prompts: int = 24, wordings: float = 0.0) -> Run:
    """A run of some stages with a gold scorer and half of the prompts held out, its stages begun.

    Where a share of wordings is held out, three prompts each make a group.
    """
    folder.mkdir(exist_ok=True)
    config = Config.model_validate(
        {
            "name": "tiny",
            "constitution": "c",
            "prompts": "p",
            "heldout": 0.5,
            "threads": 1,
            "templates": "brief",
            "heldout_wordings": wordings,
            "policy": {"model": str(policy), "device": "cpu"},
            "feedback": {"engine": "scripted", "model": "tests.scripts:feedback"},
            "gold": f"{HERE}:gold",
            "stages": stages,
        }
    )
    principles = [{"id": "no-rude", "text": "Never say rude."}]
    run = Run(folder, config, Constitution.model_validate({"name": "tiny", "principles": principles}))
    rows = [
        Prompt(
            messages=({"role": "user", "content": f"tell me about number {n}"},),
            group=f"{n // 3}" if wordings else "",
        )
        for n in range(prompts)
    ]
    (folder / "prompts.jsonl").write_text("".join(row.to_json() + "\n" for row in rows))
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_json(folder / "constitution.json", run.constitution.model_dump(mode="json"))
    write_json(folder / "manifest.json", {"config_folder": "."})
    for stage in run.stages:
        stage.begin()
    return run


def test_totals_by_hand():
    grades = [
        Grade(prompt_id="p", response_id=i, scores={"x": x, "y": y})
        for i, x, y in (("a", 1.0, 5.0), ("b", 3.0, 7.0))
    ]
    sources = [RewardSourceOptions(source="x"), RewardSourceOptions(source="y", weight=0.5, scale=False)]
    assert totals(grades, sources) == {"a": -1 + 2.5, "b": 1 + 3.5}


def test_what_a_source_cannot_read_is_left_out_and_counted_and_nothing_is_graded_twice(tmp_path, policy):
    from rlaif.engines.loading import load_tokenizer

    options = {"stage": "rejection", "rewards": [source(), source("unsure")]}
    stage = hand_made_run(tmp_path / "run", policy, options)
    good = [response(stage, prompt, "it is good") for prompt in prompts_of(stage)]
    rude = response(stage, prompts_of(stage)[0], "rude", 1)
    tokenizer = load_tokenizer(policy)
    found = grade(stage, open_rewards(stage, tokenizer), tokenizer, [*good, rude])
    assert set(found) == {row.id for row in good}
    assert stage.dropped["no reward could be read"] == 1
    written = (stage.dir / "grades.jsonl").read_bytes()
    opened = open_rewards(stage, tokenizer)
    for each in opened.rewards.sources:  # what grades again fails
        each.score = SimpleNamespace(why_unscorable=lambda prompt: None)
    assert grade(stage, opened, tokenizer, [*good, rude]) == found
    assert (stage.dir / "grades.jsonl").read_bytes() == written


def test_a_reward_model_grades_responses_as_it_was_trained_to(tmp_path, policy):
    from rlaif.engines.loading import load_reward_model, load_tokenizer
    from rlaif.prompting.chat import encode_turn, end_of_turn
    from rlaif.rl.forward import score_sequences
    from tests.test_ppo_stage import tiny_reward_model

    tiny_reward_model(tmp_path / "rm", policy)
    options = {"stage": "rejection", "rewards": [{"source": str(tmp_path / "rm"), "scale": False}]}
    stage = hand_made_run(tmp_path / "run", policy, options)
    prompt = prompts_of(stage)[0]
    rows = [
        response(stage, prompt, "it is good"),
        response(stage, prompt, "rude rain", 1, finish_reason="length"),
    ]
    tokenizer = load_tokenizer(policy)
    found = grade(stage, open_rewards(stage, tokenizer), tokenizer, rows)
    end = end_of_turn(tokenizer)
    turns = [
        encode_turn(tokenizer, prompt.chat, row.text, end if row.finish_reason == "stop" else None)
        for row in rows
    ]
    plain = score_sequences(load_reward_model(tmp_path / "rm", "cpu"), [a + b for a, b in turns], 2)
    assert [found[row.id] for row in rows] == pytest.approx(plain, abs=1e-5)


def test_the_best_of_each_prompt_are_kept_with_different_texts():
    rows = [
        Response(id=i, prompt_id=p, text=t, index=n)
        for n, (i, p, t) in enumerate(
            [("a", "x", "one"), ("b", "x", "one"), ("c", "x", "two"), ("d", "y", "three")]
        )
    ]
    rewards = {"a": 1.0, "b": 1.0, "c": 0.5, "d": -3.0}
    assert [row.id for row in rejection.best(rows, rewards, 1)] == ["a", "d"]
    assert [row.id for row in rejection.best(rows, rewards, 2)] == ["a", "c", "d"]


def share_of_good(folder, stage):
    """How probable the end of "it is good" is among the words of the task."""
    import torch

    from rlaif.engines.loading import load_causal_lm, load_tokenizer
    from rlaif.prompting.chat import encode_chat

    model, tokenizer = load_causal_lm(folder, "cpu"), load_tokenizer(folder)
    start = (
        encode_chat(tokenizer, prompts_of(stage)[0].chat)
        + tokenizer("it is", add_special_tokens=False)["input_ids"]
    )
    good, bad = (tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("good", "bad"))
    with torch.no_grad():
        row = model(torch.tensor([start])).logits[0, -1].softmax(-1)
    return (row[good] / (row[good] + row[bad])).item()


def test_rejection_learns_to_say_what_was_graded_best(tmp_path, policy):
    stage = hand_made_run(
        tmp_path / "run",
        policy,
        {"stage": "rejection", "rewards": [source()], "epochs": 10, "learning_rate": 5e-3, "batch_size": 4},
    )
    for prompt in prompts_of(stage):
        for index, text in enumerate(("it is bad", "it is good", "it is good good good good " * 20)):
            response(stage, prompt, text, index)
    options = stage.options.model_copy(update={"max_length": 40})
    stage.options = options.model_copy(update={"keep": 2})
    rejection.run(stage)
    assert stage.dropped["longer than 40 tokens"] == 12
    assert (stage.summary["in"], stage.summary["kept"]) == (36, 12)
    assert share_of_good(stage.dir / "policy", stage) > 0.95
    # Computed again: the grades file, its two best texts of each prompt, and 5 % of 12 prompts held out.
    grades = [json.loads(line) for line in (stage.dir / "grades.jsonl").read_text().splitlines()]
    raw = {row["response_id"]: next(iter(row["scores"].values())) for row in grades}
    spread = math.sqrt(sum((x - sum(raw.values()) / 36) ** 2 for x in raw.values()) / 36)
    scores = {i: (x - sum(raw.values()) / 36) / spread for i, x in raw.items()}
    texts = {r.id: r for r in stage.load("responses", Response)}
    best = sorted(scores, key=lambda i: (texts[i].prompt_id, -scores[i], texts[i].index))
    assert stage.metrics["reward_all"] == pytest.approx(sum(scores.values()) / 36)
    kept = [i for at, i in enumerate(best) if at % 3 < 2]
    assert stage.metrics["reward_kept"] == pytest.approx(sum(scores[i] for i in kept) / 24)
    assert stage.metrics["reward_kept"] > stage.metrics["reward_all"]
    assert stage.metrics["n_heldout"] == 1
    assert stage.metrics["loss_end"] < stage.metrics["loss_start"]


def test_rejection_without_a_grade_is_the_users_to_mend(tmp_path, policy):
    stage = hand_made_run(tmp_path / "run", policy, {"stage": "rejection", "rewards": [source()]})
    for prompt in prompts_of(stage):
        response(stage, prompt, "it is good " * 40)
    with pytest.raises(UserError, match="none of 12 responses can be trained on"):
        rejection.run(stage)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory, policy) -> Run:
    """A finished best_of_n stage and an evaluation of it."""
    stages = (
        {"stage": "best_of_n", "n": 8, "rewards": [source()], "max_tokens": 6},
        {"stage": "evaluate", "max_tokens": 6},
    )
    run = run_of(tmp_path_factory.mktemp("runs") / "run", policy, *stages)
    best_of_n.run(run.stages[0])
    run.stages[0].save("done")
    evaluate.run(run.stages[1])
    run.stages[1].save("done")
    return run


def test_best_of_n_chooses_the_best_and_its_curve_ends_there(chosen):
    stage = chosen.stages[0]
    rows = list(stage.rows("responses", Response))
    best = list(stage.rows("best", Response))
    heldout = chosen.prompts("heldout")
    assert len(rows) == 8 * len(heldout)
    assert len(best) == len(heldout) == stage.metrics["prompts"]
    for row in best:
        scores = likes_good([], [r.text for r in rows if r.prompt_id == row.prompt_id])
        assert likes_good([], [row.text])[0] == max(scores)
    curve = stage.metrics["curve"]
    assert [point["n"] for point in curve] == [1, 2, 4, 8]
    assert [point["kl"] for point in curve] == [kl_best_of_n(n) for n in (1, 2, 4, 8)]
    rewards = [point["reward"] for point in curve]
    assert rewards == sorted(rewards)
    assert rewards[0] == pytest.approx(0, abs=1e-9)  # scaled over all samples
    share = sum("good" in row.text.split() for row in rows) / len(rows)
    assert curve[0]["gold"] == pytest.approx(share)
    assert curve[-1]["gold"] >= curve[0]["gold"]
    assert set(stage.metrics["gao"]) == {"alpha", "beta", "peak", "rmse"}


def test_responses_that_best_of_n_cannot_grade_are_not_kept(tmp_path, policy):
    stages = {"stage": "best_of_n", "n": 4, "rewards": [source("every_other")], "max_tokens": 6}
    stage = run_of(tmp_path / "run", policy, stages, {"stage": "evaluate"}).stages[0]
    best_of_n.run(stage)
    found = stage.summary
    assert found["in"] == 4 * len(stage.run.prompts("heldout"))
    assert found["kept"] == found["in"] / 2 == stage.dropped["no reward could be read"]


def test_prompts_that_the_gold_scorer_does_not_know_are_left_out_of_its_curve(tmp_path, policy, monkeypatch):
    stages = {"stage": "best_of_n", "n": 2, "rewards": [source()], "max_tokens": 6}, {"stage": "evaluate"}
    run = run_of(tmp_path / "run", policy, *stages)
    known = {prompt.id for prompt in run.prompts("heldout")[::2]}
    monkeypatch.setattr(
        best_of_n, "load_gold", lambda *_: lambda p, text: {"kind": True} if p.id in known else {}
    )
    best_of_n.run(run.stages[0])
    assert [point["gold"] for point in run.stages[0].metrics["curve"]] == [1.0, 1.0]
    every = len(run.prompts("heldout"))
    assert any(f"{every - len(known)} of {every} prompts" in note for note in run.stages[0].notes)


def test_it_stands_in_the_evaluation_like_a_policy(chosen):
    from rlaif.report.summary import summarise

    stage = chosen.stages[1]
    policies = stage.metrics["policies"]
    assert list(policies) == ["base", "best_of_n"]
    assert policies["best_of_n"]["n"] == len(chosen.prompts("heldout"))
    # It chooses among the base policy's own samples, so its distance is what choosing costs.
    assert policies["best_of_n"]["kl"] == pytest.approx(kl_best_of_n(8), abs=1e-5)
    assert policies["best_of_n"]["gold"]["all"] >= policies["base"]["gold"]["all"]
    assert summarise(chosen.path)["best_of_n"]["n"] == 8
    assert list(chosen.policies) == ["base"]  # a folder that can be loaded it is not


def test_held_out_wordings_are_evaluated_apart(tmp_path, policy):
    from rlaif.preflight.estimate import estimate
    from rlaif.prompting.templates import Templates
    from rlaif.report.report import details, policies
    from rlaif.report.run_reader import RunReader

    stages = (
        {"stage": "best_of_n", "n": 2, "rewards": [source()], "max_tokens": 6},
        {"stage": "evaluate", "max_tokens": 6},
    )
    run = run_of(tmp_path / "run", policy, *stages, prompts=60, wordings=0.3)
    heldout, wordings = run.prompts("heldout"), run.prompts("wordings")
    assert len(heldout) > len(wordings) > 0
    best_of_n.run(run.stages[0])
    run.stages[0].save("done")
    assert {row.prompt_id for row in run.stages[0].rows("responses", Response)} == {
        p.id for p in (*heldout, *wordings)
    }
    texts = [
        row.text
        for row in run.stages[0].rows("responses", Response)
        if row.prompt_id in {p.id for p in heldout}
    ]
    share = sum("good" in text.split() for text in texts) / len(texts)
    assert run.stages[0].metrics["curve"][0]["gold"] == pytest.approx(share)
    evaluate.run(run.stages[1])
    run.stages[1].save("done")
    assert not sum(run.stages[1].dropped.values())
    rows = list(run.stages[1].rows("evaluation", Evaluation))
    for name, figures in run.stages[1].metrics["policies"].items():
        for split, part, shown in (
            ("heldout", heldout, figures),
            ("wordings", wordings, figures["wordings"]),
        ):
            own = [row for row in rows if row.policy == name and row.split == split]
            assert {row.prompt_id for row in own} == {p.id for p in part}
            assert shown["n"] == len(part)
            assert shown["gold"]["all"] == pytest.approx(sum(row.gold["all"] for row in own) / len(own))
    reader = RunReader(run.path)
    assert set(reader.evaluations["base"]) == {p.id for p in heldout}
    assert [row["wordings"][0] for row in policies(reader)] == [
        figures["wordings"]["gold"]["all"] for figures in run.stages[1].metrics["policies"].values()
    ]
    assert any(f"On {len(wordings)} held-out wordings" in line for line in details(reader))
    every = list(RowFile(run.path / "prompts.jsonl", Prompt))
    plan = estimate(run.config, run.constitution, every, Templates.load("brief"))
    assert plan["prompts"] == {split: len(run.prompts(split)) for split in ("train", "heldout", "wordings")}
    assert plan["stages"][0]["rows"] == 2 * (len(heldout) + len(wordings))
    assert plan["stages"][1]["rows"] == len(rows)


def test_a_continued_evaluation_is_the_same(chosen):
    stage = chosen.stages[1]
    before, responses = stage.metrics, (stage.dir / "responses.jsonl").read_bytes()
    (stage.dir / "evaluation.jsonl").unlink()
    stage.begin()
    evaluate.run(stage)
    assert stage.metrics == before
    assert (stage.dir / "responses.jsonl").read_bytes() == responses


def test_a_run_can_be_compared_by_its_best_of_n(chosen, tmp_path, policy):
    from rlaif.report.compare import compare
    from rlaif.report.report import write_report

    result = compare([chosen.path, chosen.path])
    assert result["runs"]["A"]["policy"] == "best_of_n"
    page = write_report(chosen.path).read_text()
    assert "Best of n" in page


def test_stage_names_and_what_they_need():
    def config(*stages):
        return Config.model_validate(
            {
                "name": "x",
                "constitution": "c",
                "prompts": "p",
                "policy": {"model": "m"},
                "feedback": {"model": "m"},
                "stages": stages,
            }
        )

    (stage,) = config({"stage": "best_of_n"}).stages
    assert stage.required_artefacts == ("prompts", "policy", "reward_model")
    (stage,) = config({"stage": "rejection", "rewards": [{"source": "judge"}]}).stages
    assert stage.required_artefacts == ("responses", "policy")
    with pytest.raises(ValueError, match="each source once"):
        config({"stage": "rejection", "rewards": [{"source": "judge"}, {"source": "judge"}]})


def test_pooling_by_hand():
    import torch

    from rlaif.rl.ensemble import pool

    scores = torch.tensor([[1.0, 4.0], [3.0, 0.0]])
    assert pool(scores, "mean").tolist() == [2.0, 2.0]
    assert pool(scores, "worst").tolist() == [1.0, 0.0]
    assert pool(scores, "mean_minus_std", 0.5).tolist() == [1.5, 1.0]


@pytest.mark.parametrize("how", ["mean", "worst", "mean_minus_std"])
def test_an_ensemble_is_pooled_on_one_scale_and_drives_ppo(tmp_path, policy, how):
    import torch

    from rlaif.engines.loading import load_tokenizer
    from rlaif.rl.ensemble import pool
    from rlaif.rl.episodes import join
    from rlaif.stages import ppo
    from tests.test_ppo_stage import stage_of, tiny_reward_model

    stage = stage_of(tmp_path / "run", policy, updates=1, rewards=[{"source": "reward_model", "pool": how}])
    before = stage.run.stages[0].dir
    tiny_reward_model(before / "member_2" / "reward_model", policy, head=50.0)
    write_json(
        before / "reward_model" / "calibration.json",
        {"members": [{"reward_mean": 0.0, "reward_std": 1.0}, {"reward_mean": 5.0, "reward_std": 100.0}]},
    )
    tokenizer = load_tokenizer(policy)
    score = open_rewards(stage, tokenizer).rewards.sources[0].score
    episodes = join([[5, 6], [7, 8]], [[9, 10], [11]], torch.tensor([True, True]), 0)
    prompts = stage.run.prompts("train")[:2]
    each = torch.stack([member(episodes, prompts) for member in score.members])
    assert each[1].abs().max() > 10 * each[0].abs().max()
    expected = pool(torch.stack([each[0], (each[1] - 5) / 100]), how)
    assert score(episodes, prompts).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    ppo.run(stage)
    assert math.isfinite(stage.metrics["reward_end"])
    assert "reward_model" in read_json(stage.dir / "reward_scale.json")


def test_ten_members_and_more_stand_in_the_order_of_their_scales(tmp_path):
    names = ["reward_model", *(f"member_{number}/reward_model" for number in range(2, 12))]
    for name in reversed(names):
        (tmp_path / name).mkdir(parents=True)
    assert member_folders(tmp_path / "reward_model") == [tmp_path / name for name in names]


def test_the_judge_can_grade_and_its_calls_are_counted(tmp_path, policy):
    from rlaif.engines.loading import load_tokenizer

    sampled, rejects = run_of(
        tmp_path / "run",
        policy,
        {"stage": "sample"},
        {"stage": "rejection", "rewards": [{"source": "judge"}]},
    ).stages
    rows = [
        Response(prompt_id=prompt.id, text=text, index=index)
        for prompt in sampled.run.prompts("train")
        for index, text in enumerate(("it is rude", "it is good"))
    ]
    sampled.rows("responses", Response).append(rows)
    tokenizer = load_tokenizer(policy)
    found = grade(rejects, open_rewards(rejects, tokenizer), tokenizer, rows)
    assert all(found[rude.id] < found[kind.id] for rude, kind in zip(rows[::2], rows[1::2], strict=True))
    assert rejects.run.ledger.figures(rejects.dir.name)["calls"] == len(rows)
