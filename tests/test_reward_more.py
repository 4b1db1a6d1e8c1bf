"""Reward models beyond a pair at a time: K-wise elements, margins, sources, ensembles, held-out sets from
elsewhere."""

import json
import math
import random
from functools import partial

import pytest

from rlaif.errors import UserError
from rlaif.records import Preference
from rlaif.runs.storage import read_json
from rlaif.stages import reward
from rlaif.training.pairs import elements
from tests.oracle import equations
from tests.tiny_models import hand_made_run, preference, prompts_of, response, tiny_policy

WORDS = ("good", "thanks", "rain", "bad")  # best first


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("models") / "policy")


def stage_of(tmp_path, policy, prompts=12, **options):
    return hand_made_run(tmp_path / "run", policy, {"stage": "reward", "batch_size": 4, **options}, prompts)


def rank_all(stage, tie=()):
    """All pairs of four responses to every prompt, the earlier word better; `tie` names two that are
    equal."""
    for prompt in prompts_of(stage):
        responses = [response(stage, prompt, f"it is {word}", index) for index, word in enumerate(WORDS)]
        for i, a in enumerate(responses):
            for j, b in list(enumerate(responses))[i + 1 :]:
                preference(stage, a, b, 0.5 if {i, j} == set(tie) else 0.9)


def pair_of(prompt, a, b, p_a=0.9):
    return {"prompt_id": prompt, "start": 1, "chosen_ids": a, "rejected_ids": b, "p_a": p_a, "weight": 1.0}


def test_an_element_holds_every_response_of_a_prompt_once():
    a, b, c = [5, 1], [5, 2], [5, 3, 4]
    pairs = [pair_of("x", a, b), pair_of("x", a, c, 0.5), pair_of("x", b, c, 0.2), pair_of("y", a, c)]
    first, second = elements(pairs, 1.0, by_prompt=True)
    assert first["sequences"] == [a, b, c]
    assert (first["first"], first["second"]) == ([0, 0, 1], [1, 2, 2])
    assert first["p_a"] == [0.9, 0.5, 0.2]
    assert first["weight"] == pytest.approx([1 / 3] * 3)
    assert second["weight"] == [1.0]


def test_the_k_wise_loss_is_the_mean_over_elements_of_the_mean_over_their_pairs():
    import torch

    from rlaif.training.trainers import ElementCollator, soft_preference_loss

    a, b, c = [5, 1], [5, 2], [5, 3, 4]
    rows = elements([pair_of("x", a, b), pair_of("x", b, c), pair_of("y", a, c, 0.3)], 1.0, by_prompt=True)
    batch = ElementCollator(0)(rows)
    assert batch["input_ids"].tolist() == [[5, 1, 0], [5, 2, 0], [5, 3, 4], [5, 1, 0], [5, 3, 4]]
    assert batch["labels"].tolist() == [
        [-100, 1, -100],
        [-100, 2, -100],
        [-100, 3, 4],
        [-100, 1, -100],
        [-100, 3, 4],
    ]
    assert batch["pairs"].tolist() == [[0, 1, 3], [1, 2, 4]]
    r = torch.tensor([1.0, 0.5, -1.0, 2.0, 0.0])
    loss = soft_preference_loss(r[batch["pairs"].flatten()], batch["p_a"], batch["weight"])

    def entropy(lead, p):
        return -p * math.log(1 / (1 + math.exp(-lead))) - (1 - p) * math.log(1 / (1 + math.exp(lead)))

    by_hand = ((entropy(0.5, 0.9) + entropy(1.5, 0.9)) / 2 + entropy(2.0, 0.3)) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)


def test_k_responses_take_k_forwards_and_give_the_gradient_of_their_pairs(policy):
    import torch

    from rlaif.engines.loading import load_reward_model
    from rlaif.rl.forward import final_scores, score_by_length
    from rlaif.training.trainers import ElementCollator, soft_preference_loss

    rng = random.Random(0)
    responses = [[7, 8, *rng.choices(range(9, 40), k=n)] for n in (3, 5, 2, 4)]
    pairs = [pair_of("x", a, b, 0.8) for i, a in enumerate(responses) for b in responses[i + 1 :]]

    def gradient(by_prompt):
        model = load_reward_model(policy, "cpu", new_head=True)
        torch.manual_seed(0)
        model.score.weight.data = torch.randn(model.score.weight.shape)
        batch = ElementCollator(0)(elements(pairs, 1.0, by_prompt))
        rewards = score_by_length(
            partial(final_scores, model), batch["input_ids"], batch["attention_mask"].sum(1), 4
        )
        soft_preference_loss(rewards[batch["pairs"].flatten()], batch["p_a"], batch["weight"]).backward()
        return len(rewards), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    (k, together), (many, apart) = gradient(True), gradient(False)
    assert (k, many) == (4, 12)
    assert (together - apart).norm() < 1e-5 * apart.norm()


def test_a_ranking_with_a_tie_is_learned_k_wise(tmp_path, policy):
    from rlaif.engines.loading import load_reward_model, load_tokenizer
    from rlaif.prompting.chat import encode_turn, end_of_turn
    from rlaif.rl.forward import score_sequences

    stage = stage_of(tmp_path, policy, by_prompt=True, epochs=30, learning_rate=1e-2)
    rank_all(stage, tie=(1, 2))
    reward.run(stage)
    assert stage.summary["kept"] == 12 * 6
    tokenizer = load_tokenizer(policy)
    chat, end = prompts_of(stage)[0].chat, end_of_turn(tokenizer)
    turns = [encode_turn(tokenizer, chat, f"it is {word}", end) for word in WORDS]
    rows = [prompt + response for prompt, response in turns]
    good, thanks, rain, bad = score_sequences(load_reward_model(stage.dir / "reward_model", "cpu"), rows, 4)
    assert good > thanks + 0.5
    assert rain > bad + 0.5
    assert thanks == pytest.approx(rain, abs=0.3)
    assert stage.metrics["excess_cross_entropy"] == pytest.approx(
        stage.metrics["cross_entropy"] - stage.metrics["label_entropy"]
    )


def test_a_margin_adds_to_the_lead_of_a_certain_winner():
    import torch

    from rlaif.training.trainers import soft_preference_loss

    p = torch.tensor([0.8])
    lead = torch.tensor([0.0, 0.0], requires_grad=True)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(soft_preference_loss(lead, p, torch.ones(1), margin=2.0), lead)
        lead = (lead - 2 * gradient).detach().requires_grad_()
    assert (lead[0] - lead[1]).item() == pytest.approx(math.log(4) + 2 * 0.6, abs=1e-2)
    tie = torch.tensor([1.0, 0.0]), torch.tensor([0.5]), torch.ones(1)
    assert soft_preference_loss(*tie, margin=2.0) == soft_preference_loss(*tie)


def test_sources_weigh_what_the_config_says_and_are_measured_apart(tmp_path, policy):
    stage = stage_of(tmp_path, policy, heldout=0.3, source_weights={"human": 3.0, "simulated": 0.0})
    who = [("human",), ("ai",), ("ai", "human"), ("simulated",)]
    for n, prompt in enumerate(prompts_of(stage)):
        row = preference(stage, response(stage, prompt, "good"), response(stage, prompt, "bad", 1), 0.8)
        path = stage.run.stages[3].dir / "preferences.jsonl"
        rows = [Preference.model_validate_json(line) for line in path.read_text().splitlines()]
        rows[-1] = row.model_copy(update={"sources": who[n % 4]})
        path.write_text("".join(r.to_json() + "\n" for r in rows))
    from rlaif.engines.loading import load_tokenizer
    from rlaif.training.pairs import load_pairs

    pairs = load_pairs(stage, load_tokenizer(policy), 64)
    assert {pair["sources"]: pair["weight"] for pair in pairs} == {
        ("human",): 3.0,
        ("ai",): 1.0,
        ("ai", "human"): 2.0,
    }
    assert stage.dropped["weight 0"] == 3
    reward.run(stage)
    by_source = stage.metrics["by_source"]
    assert sum(row["n"] for row in by_source.values()) == stage.metrics["n_decided"]


def test_members_differ_by_seed_and_are_measured_together_and_each(tmp_path, policy):
    from rlaif.engines.loading import load_reward_model

    stage = stage_of(tmp_path, policy, members=3, epochs=3, learning_rate=3e-3)
    rank_all(stage)
    reward.run(stage)
    folders = [stage.dir / "reward_model", *(stage.dir / f"member_{n}" / "reward_model" for n in (2, 3))]
    heads = [load_reward_model(folder, "cpu").score.weight for folder in folders]
    assert not any((heads[i] == heads[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))
    figures = stage.metrics
    assert len(figures["members"]) == 3
    assert figures["members"][0]["reward_std"] == figures["reward_std"] > 0
    reliability = figures["reliability"]  # of the mean of all three, as the figures beside it
    share = sum(n * abs(forecast - label) for forecast, label, n in reliability) / figures["n_heldout"]
    assert figures["ece"] == pytest.approx(share)
    assert figures["ece"] != pytest.approx(figures["members"][0]["ece"])
    assert 0 <= figures["disagreement"] <= 1
    written = [(folder / "model.safetensors").stat().st_mtime_ns for folder in folders]
    stage.begin()
    reward.run(stage)
    assert written == [(folder / "model.safetensors").stat().st_mtime_ns for folder in folders]


def test_margins_of_members_by_hand():
    assert reward.mean_of([[1.0, -2.0], [3.0, 0.0]]) == [2.0, -1.0]
    pairs = [{"cluster": name} for name in "aab"]
    found = reward.disagreement([[1.0, -2.0, 3.0], [3.0, 1.0, 1.0]], pairs)
    assert found["disagreement"] == pytest.approx(1 / 3)
    assert found["disagreement_ci"] == pytest.approx(
        equations.counted([(0, 1, "a"), (1, 1, "a"), (0, 1, "b")]), rel=1e-5
    )


def hh_file(path, rows=6):
    lines = [
        {
            "chosen": f"\n\nHuman: tell me about number {n}\n\nAssistant: it is good",
            "rejected": f"\n\nHuman: tell me about number {n}\n\nAssistant: it is bad",
        }
        for n in range(rows)
    ]
    lines.append(
        {"chosen": "\n\nHuman: x\n\nAssistant: ", "rejected": "\n\nHuman: x\n\nAssistant: it is bad"}
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_named_sets_are_measured_with_their_baselines_and_never_trained_on(tmp_path, policy):
    sets = {"hh": str(hh_file(tmp_path / "hh.jsonl"))}
    stage = stage_of(tmp_path, policy, epochs=10, learning_rate=5e-3, heldout_sets=sets)
    rank_all(stage)
    reward.run(stage)
    found = stage.metrics["heldout_sets"]["hh"]
    assert (found["n"], found["dropped"]) == (6, {"empty chosen response": 1})
    assert found["heldout_accuracy"] == 1.0
    assert found["baselines"]["longer"] == 0.5
    assert stage.metrics["n_train"] + stage.metrics["n_heldout"] == 72
    assert read_json(stage.dir / "heldout" / "hh" / "import.json")["kept"] == 6


def test_a_named_set_is_read_before_training_and_no_further_than_the_context(tmp_path, policy):
    path = hh_file(tmp_path / "hh.jsonl")
    with path.open("a") as file:
        long = "it is good " * 40
        file.write(
            json.dumps(
                {"chosen": f"\n\nHuman: x\n\nAssistant: {long}", "rejected": "\n\nHuman: x\n\nAssistant: bad"}
            )
        )
    stage = stage_of(tmp_path, policy, heldout_sets={"hh": str(path)}, max_length=1024)
    rank_all(stage)
    reward.run(stage)
    found = stage.metrics["heldout_sets"]["hh"]
    assert found["n"] == 6
    assert any(reason.startswith("longer than") for reason in found["dropped"])
    path.write_text("{broken")
    (tmp_path / "again").mkdir()
    again = stage_of(tmp_path / "again", policy, heldout_sets={"hh": str(path)})
    rank_all(again)
    with pytest.raises(UserError):
        reward.run(again)
    assert not (again.dir / "metrics.jsonl").exists()


def test_an_imported_folder_is_a_set_too(tmp_path):
    from rlaif.human.heldout import load_heldout
    from rlaif.human.importers import import_hh

    import_hh(hh_file(tmp_path / "hh.jsonl"), tmp_path / "folder")
    found = load_heldout(tmp_path / "folder", tmp_path / "unused")
    assert len(found.pairs) == 6
    assert all((row.a.text == "it is good") == (row.p_a == 1.0) for row in found.pairs)
    (tmp_path / "folder" / "labels.jsonl").write_text("")
    assert load_heldout(tmp_path / "folder", tmp_path / "unused").dropped["no readable label"] == 6


def test_a_folder_of_datasets_is_a_set_and_nothing_is_done_in_silence(tmp_path, policy):
    from datasets import Dataset

    rows = [
        {
            "prompt": [{"role": "user", "content": f"tell me about number {n}"}],
            "chosen": [{"role": "assistant", "content": "it is good"}],
            "rejected": [{"role": "assistant", "content": "it is bad"}],
        }
        for n in range(6)
    ]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    stage = stage_of(tmp_path, policy, heldout_sets={"mine": str(tmp_path / "saved")})
    shown = []

    class Progress:
        def __init__(self, what, total, done=0):
            shown.append((what, total))

        def __enter__(self):
            return lambda n=1, note="": None

        def __exit__(self, *_):
            pass

    stage.run.progress = Progress
    kept, dropped = reward._named_set(
        stage, "mine", tmp_path / "saved", reward_tokenizer(policy), stage.options.max_length
    )
    assert (len(kept), dropped) == (6, {})
    assert {what for what, _ in shown} == {
        f"{stage.dir.name} saved, rows",
        f"{stage.dir.name} pairs of mine tokenised",
    }


def reward_tokenizer(policy):
    from rlaif.engines.loading import load_tokenizer

    return load_tokenizer(policy)


def test_hhh_in_both_shapes(tmp_path):
    from rlaif.human.heldout import load_heldout

    def rubric(response):
        return (
            "###The instruction to evaluate:\nHi?\n\nAssistant: Hello.\n\nHuman: And?\n\n###Response "
            f"to evaluate:\n{response}\n\n###Score Rubrics:\n[x]"
        )

    rows = [
        {"source": "honest", "chosen_instruction": rubric("True."), "rejected_instruction": rubric("False.")},
        {"source": "honest", "chosen_instruction": "x", "rejected_instruction": "y"},
    ]
    (tmp_path / "rubrics.json").write_text(json.dumps(rows))
    task = {"examples": [{"input": "Hi?", "target_scores": {"Go away.": 0, "Hello.": 1}}]}
    (tmp_path / "harmless").mkdir()
    (tmp_path / "harmless" / "task.json").write_text(json.dumps(task))
    first = load_heldout(tmp_path / "rubrics.json", tmp_path / "a")
    (prompt,) = first.prompts.values()
    assert [m.role for m in prompt.messages] == ["user", "assistant", "user"]
    assert first.pairs[0].annotator == "hhh-alignment/honest"
    assert first.dropped == {"neither a rubric prompt nor target scores": 1}
    (pair,) = load_heldout(tmp_path / "harmless" / "task.json", tmp_path / "b").pairs
    assert {pair.a.text, pair.b.text} == {"Hello.", "Go away."}
    assert (pair.a if pair.p_a == 1 else pair.b).text == "Hello."
    assert pair.annotator == "hhh-alignment/harmless"
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_heldout(tmp_path / "broken.json", tmp_path / "c")


def test_real_sets_work_out_of_the_box(test_data, tmp_path):
    from rlaif.human.heldout import load_heldout

    hhh = load_heldout(test_data / "hhh_alignment" / "hhh_alignment_eval.json", tmp_path / "hhh")
    assert len(hhh.pairs) + hhh.dropped.total() == 221
    assert len(hhh.pairs) > 200
    assert {row.annotator.rpartition("/")[2] for row in hhh.pairs} == {
        "honest",
        "helpful",
        "harmless",
        "other",
    }
    hh = load_heldout(test_data / "hh_rlhf" / "harmless-base-test.jsonl.gz", tmp_path / "hh")
    assert len(hh.pairs) + hh.dropped.total() == 2312
