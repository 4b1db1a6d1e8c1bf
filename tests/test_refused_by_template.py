"""A conversation that a chat template refuses is dropped and counted; a template that refuses all of them is
an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif import pipeline
from rlaif.engines.loading import load_tokenizer
from rlaif.errors import UserError
from rlaif.records import Evaluation, Label, Prompt, Response, Revision
from rlaif.rl.reward import same_tokens
from rlaif.runs.folder import Run, read_json
from tests import zoo
from tests.tiny_models import hand_made_run, preference, prompts_of, response, revision

SYSTEM = {"role": "system", "content": "Be kind."}
NO_SYSTEM = zoo.Model("no system turn allowed", template=zoo.NO_SYSTEM + zoo.TURNS)
REASON = "refused by the chat template: System role not supported"
TOKENS = {"max_tokens": 8}
REWARDED = {"rewards": [{"source": "tests.test_refused_by_template:length"}]}
SMALL = {"updates": 1, "batch_size": 4, "num_watched_prompts": 0, **TOKENS, **REWARDED}


def length(prompts: list[Any], texts: list[str]) -> list[float]:
    """A reward that every response gets."""
    return [float(len(text)) for text in texts]


def refusing(word: str) -> zoo.Model:
    """A model whose template refuses every turn with a word in it."""
    raising = "{{ raise_exception('no such word') }}"
    check = (
        f"{{% for m in messages %}}{{% if '{word}' in m['content'] %}}{raising}{{% endif %}}{{% endfor %}}"
    )
    return zoo.Model(f"refuses {word}", template=check + zoo.TURNS)


def make(
    folder: Path, stages: list[dict[str, Any]], system: int, feedback: zoo.Model = zoo.MODELS[0]
) -> tuple[Path, Path]:
    """(config, run folder) of 16 prompts, of which each `system`-th opens with a system turn that the policy
    refuses."""
    models = {
        role: {"model": str(zoo.build(model, folder / role)), "device": "cpu"}
        for role, model in (("policy", NO_SYSTEM), ("feedback", feedback))
    }
    rows = [
        {"messages": [*([SYSTEM] if n % system == 0 else []), {"role": "user", "content": text}]}
        for n, text in enumerate(zoo.PROMPTS)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    principle = {"id": "kind", "text": zoo.PRINCIPLE}
    (folder / "constitution.yaml").write_text(json.dumps({"name": "zoo", "principles": [principle]}))
    (folder / "config.yaml").write_text(
        json.dumps(
            {
                "name": "zoo",
                "constitution": "constitution.yaml",
                "prompts": "prompts.jsonl",
                "heldout": 0.4,
                "templates": "brief",
                "threads": 1,
                **models,
                "stages": stages,
            }
        )
    )
    return folder / "config.yaml", folder / "run"


def dropped(run: Run, number: int) -> dict[str, int]:
    """What a stage's summary says it dropped, and why."""
    return {k: n for k, n in read_json(run.stages[number].dir / "stage.json")["dropped"].items() if n}


def with_system(prompts: list[Prompt]) -> int:
    """How many of these the policy's template refuses."""
    return sum(prompt.messages[0].role == "system" for prompt in prompts)


@pytest.fixture(autouse=True)
def _few_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.training.rewards.REFERENCE_SAMPLES", 4)


def test_some_prompts_are_dropped_by_every_stage_that_samples(tmp_path: Path):
    stages = [
        {"stage": "sample", "k": 2, **TOKENS},
        {"stage": "ppo", **SMALL},
        {"stage": "rloo", "group_size": 2, **SMALL},
        {"stage": "best_of_n", "n": 2, **TOKENS, **REWARDED},
        {"stage": "evaluate", **TOKENS},
    ]
    run = pipeline.run(*make(tmp_path, stages, 3))
    train, heldout = with_system(run.prompts("train")), with_system(run.prompts("heldout"))
    assert train > 0 < heldout
    assert dropped(run, 0) == {REASON: 2 * train}
    assert dropped(run, 1) == dropped(run, 2) == {REASON: train}
    assert dropped(run, 3) == {REASON: 2 * heldout}
    # base, ppo and rloo are asked; best-of-n has chosen no response to what it was refused
    assert dropped(run, 4) == {REASON: 3 * heldout, "no response was chosen": heldout}
    left = len(run.prompts("heldout")) - heldout
    assert len(run.stages[4].rows("evaluation", Evaluation)) == 4 * left


@pytest.mark.parametrize(
    "stage",
    [
        {"stage": "sample", **TOKENS},
        {"stage": "ppo", **SMALL},
        {"stage": "grpo", "group_size": 2, **SMALL},
        {"stage": "best_of_n", "n": 2, **TOKENS, **REWARDED},
        {"stage": "evaluate", **TOKENS},
    ],
    ids=lambda stage: stage["stage"],
)
def test_a_template_that_refuses_every_prompt_is_an_error(stage: dict[str, Any], tmp_path: Path):
    config = make(tmp_path, [stage], 1)
    for _ in range(2):  # and stays one when the command is given again
        with pytest.raises(UserError, match="System role not supported") as error:
            pipeline.run(*config)
        assert error.value.code == 2


def test_a_continued_run_with_nothing_but_refused_prompts_to_ask_is_none(tmp_path: Path):
    config = make(tmp_path, [{"stage": "sample", **TOKENS}], 3)
    run = pipeline.run(*config)
    rows = list(run.stages[0].rows("responses", Response))
    (run.stages[0].dir / "stage.json").unlink()
    again = pipeline.run(*config)
    assert list(again.stages[0].rows("responses", Response)) == rows
    assert dropped(again, 0) == {REASON: with_system(run.prompts("train"))}


def test_questions_that_the_feedback_models_template_refuses_are_counted(tmp_path: Path):
    stages = [
        {"stage": "sample", "k": 2, **TOKENS},
        {"stage": "critique", "rounds": 1, "max_tokens": 24, "temperature": 1},
        {"stage": "sample", "k": 2, **TOKENS},
        {"stage": "pair"},
        {"stage": "label"},
        {"stage": "evaluate", **TOKENS},
    ]
    run = pipeline.run(*make(tmp_path, stages, 99, refusing("number 1")))
    odd = {
        p.id
        for split in ("train", "heldout")
        for p in run.prompts(split)
        if "number 1" in p.messages[-1].content
    }
    reason = "refused by the chat template: no such word"
    revisions = list(run.stages[1].rows("revisions", Revision))
    assert {r.prompt_id for r in revisions if r.reason == reason} == odd & {r.prompt_id for r in revisions}
    assert dropped(run, 1)[f"revision {reason}"] == sum(r.prompt_id in odd for r in revisions) > 0
    pairs = {
        c["id"]: c["prompt_id"] for c in map(json.loads, (run.stages[3].dir / "comparisons.jsonl").open())
    }
    labels = list(run.stages[4].rows("labels", Label))
    unread = [row for row in labels if pairs[row.comparison_id] in odd]
    assert unread
    assert {(row.verdict, row.reason) for row in unread} == {("invalid", "refused")}
    usage = read_json(run.stages[4].dir / "stage.json")["usage"]
    assert usage["refused: chat template: no such word"] == len(unread)
    rows = list(run.stages[5].rows("evaluation", Evaluation))
    assert {row.prompt_id for row in rows if row.unread == ("kind",)} >= odd & {row.prompt_id for row in rows}


@pytest.mark.parametrize("last", ["critique", "label", "label with reasons"])
def test_a_feedback_model_whose_template_refuses_every_question_is_an_error(last: str, tmp_path: Path):
    before = [{"stage": "sample", "k": 2, **TOKENS}, {"stage": "pair"}]
    stages = {
        "critique": [before[0], {"stage": "critique", "max_tokens": 24}],
        "label": [*before, {"stage": "label"}],
        "label with reasons": [*before, {"stage": "label", "cot": True, "max_tokens": 8}],
    }
    config = make(tmp_path, stages[last], 99, refusing("Tell me"))
    for _ in range(2):
        with pytest.raises(UserError, match="no such word"):
            pipeline.run(*config)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A model that takes no system turn."""
    return zoo.build(NO_SYSTEM, tmp_path / "policy")


def texts(stage: Any, system: bool) -> list[tuple[Response, Response]]:
    """Two responses to each of four prompts, of which half, or all, open with a system turn."""
    rows = [
        Prompt.model_validate(
            {"messages": [*([SYSTEM] if n % 2 or system else []), {"role": "user", "content": f"tell {n}"}]}
        )
        for n in range(4)
    ]
    path = stage.run.path / "prompts.jsonl"
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    return [
        (response(stage, p, f"good {p.id}"), response(stage, p, f"bad {p.id}", 1)) for p in prompts_of(stage)
    ]


@pytest.mark.parametrize("system", [False, True], ids=["some", "every"])
@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "rejection"])
def test_rows_to_train_on_from_elsewhere(name: str, system: bool, tmp_path: Path, policy: Path):
    from rlaif.stages import sft
    from rlaif.training.examples import tokenise
    from rlaif.training.pairs import load_pairs

    stage = hand_made_run(
        tmp_path / "run", policy, {"stage": name, **(REWARDED if name == "rejection" else {})}
    )
    for good, bad in texts(stage, system):
        revision(stage, bad, good)
        preference(stage, good, bad, 0.9)
    tokenizer = load_tokenizer(policy)

    def prepared() -> int:
        if name == "sft":
            return len(sft._training_rows(stage, tokenizer, zoo.CONTEXT)[0])
        if name == "rejection":
            made, prompts = stage.load("responses", Response), stage.prompts_by_id()
            return len(tokenise(stage, tokenizer, [(prompts[r.prompt_id], r) for r in made], zoo.CONTEXT))
        return len(load_pairs(stage, tokenizer, zoo.CONTEXT))

    if system and name != "rejection":  # which looks at its rows in `run`
        with pytest.raises(UserError, match="System role not supported"):
            prepared()
        return
    each = 2 if name == "rejection" else 1
    assert prepared() == (0 if system else 2 * each)
    assert stage.dropped[REASON] == (4 if system else 2) * each


def test_grades_and_a_named_held_out_set_leave_refused_prompts_out(tmp_path: Path, policy: Path):
    from rlaif.engines.loading import load_reward_model
    from rlaif.rl.reward import ModelReward, Rewards, Source
    from rlaif.training.rewards import Opened, grade

    open_to_all = zoo.build(zoo.MODELS[0], tmp_path / "other")
    stage = hand_made_run(tmp_path / "run", open_to_all, {"stage": "rejection", **REWARDED})
    responses = [row for pair in texts(stage, False) for row in pair]
    strict, plain = load_tokenizer(policy), load_tokenizer(open_to_all)
    model = load_reward_model(policy, "cpu", "float32", new_head=True)
    score = ModelReward(model, strict, zoo.CONTEXT, 2, policy_tokenizer=plain, own_tokens=False)
    opened = Opened(Rewards([Source(REWARDED["rewards"][0]["source"], 1.0, score)]), {}, zoo.CONTEXT)
    rewards = grade(stage, opened, plain, responses)
    assert len(rewards) == 4
    assert dict(stage.dropped) == {REASON: 4}
    prompts = prompts_of(stage)
    assert same_tokens(strict, strict, prompts)
    assert not same_tokens(strict, plain, prompts)


def test_pairs_of_a_named_held_out_set(tmp_path: Path, policy: Path):
    from rlaif.stages import reward

    stage = hand_made_run(tmp_path / "run", policy, {"stage": "reward"})
    pairs = texts(stage, False)
    folder = tmp_path / "set"
    folder.mkdir()
    prompts = {p.id: p for p in prompts_of(stage)}
    write(folder / "prompts.jsonl", [p.to_json() for p in prompts.values()])
    write(folder / "responses.jsonl", [r.to_json() for pair in pairs for r in pair])
    comparisons = [{"prompt_id": a.prompt_id, "a": a.id, "b": b.id} for a, b in pairs]
    from rlaif.records import Comparison

    made = [Comparison.model_validate(row) for row in comparisons]
    write(folder / "comparisons.jsonl", [row.to_json() for row in made])
    someone = {"kind": "human", "id": "ann"}
    labels = [
        Label.model_validate(
            {"comparison_id": c.id, "annotator": someone, "verdict": "a", "p_a": 1.0, "order": "ab"}
        )
        for c in made
    ]
    write(folder / "labels.jsonl", [row.to_json() for row in labels])
    (stage.dir / "heldout").mkdir(parents=True, exist_ok=True)
    kept, left_out = reward._named_set(stage, "set", folder, load_tokenizer(policy), zoo.CONTEXT)
    assert len(kept) == 2
    assert left_out[REASON] == 2


def write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines))
