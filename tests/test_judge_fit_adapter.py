"""`rlaif judge fit --train`: an adapter on the playground's judge, what it learns, what is refused, and that
nothing of it stays in the model."""

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise, product
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from peft import set_peft_model_state_dict
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from rlaif.audit import fit_adapter
from rlaif.audit.fit import Fitting
from rlaif.audit.fit_adapter import Training
from rlaif.audit.fit_numerics import Opinions, Readings
from rlaif.cli import app
from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, ScoreRequest, Scripted, open_engine
from rlaif.engines.fit import FILE, JudgeFit
from rlaif.engines.fitted import FittedEngine
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge
from rlaif.feedback.labelled import LabelledPair
from rlaif.options import LoraOptions
from rlaif.playground import FEEDBACK, POLICY
from rlaif.prompting.templates import Templates
from rlaif.records import ORDERS, Comparison, Label, Prompt, Response
from rlaif.rl.lora import attach
from tests.test_judge_fit import PERSON, RULES, biased, some_pairs
from tests.test_judge_fit_command import labels_folder

BRIEF = Templates.load("brief")
SMALL = {"OUTER": 2, "BATCH": 4, "RATE": 0.06, "TRAIN_FROM": 20}  # two folds of 20 pairs, 20 steps each


def red_pairs(count: int, wrong: float = 0.0) -> list[LabelledPair]:
    """Pairs of which the response that names red is the better one; it is a in half of them."""
    rng, found = Random(0), []
    for n in range(count):
        texts = (f"It is red. {n}", f"It is blue. {n}")[:: rng.choice((1, -1))]
        said = texts[0].startswith("It is red") != (rng.random() < wrong)
        prompt = Prompt.model_validate({"messages": [{"role": "user", "content": f"question {n}"}]})
        a, b = (Response(prompt_id=prompt.id, text=text) for text in texts)
        pair = Comparison(prompt_id=prompt.id, a=a.id, b=b.id)
        about = {"comparison_id": pair.id, "annotator": PERSON, "principle_id": "one"}
        label = Label(**about, p_a=float(said), verdict="a" if said else "b")
        found.append(LabelledPair(pair, prompt, *texts, (label,)))
    return found


def engine_of(fit=None, cache=None):
    name = None if fit is None else str(fit)
    return open_engine(ModelConfig(model=str(FEEDBACK), dtype="float32", fit=name), cache)


def training(folder, engine, **more) -> Fitting:
    return Fitting(Judge(engine, BRIEF), RULES, True, folder, **more)


@pytest.fixture
def small(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(fit_adapter, name, value)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A fit on 40 pairs, and what was seen of the model's weights meanwhile."""
    folder, engine = tmp_path_factory.mktemp("made"), engine_of()
    before = {name: w.clone() for name, w in engine.model.state_dict().items()}
    moved: set[str] = set()

    class Watch:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return lambda _: moved.update(
                name for name, w in engine.model.named_parameters() if w.grad is not None or w.requires_grad
            )

        def __exit__(self, *_):
            pass

    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(fit_adapter, name, value)
        fit, report = training(folder / "readings", engine, progress=Watch).from_training(red_pairs(40))
    fit.save(folder / "fit")
    return SimpleNamespace(folder=folder, engine=engine, before=before, moved=moved, fit=fit, report=report)


def test_what_the_labels_say_is_learned_and_measured_on_other_prompts(made):
    row = made.report["heldout"]["all"]
    assert made.report["taken"], made.report["why"]
    assert made.report["kind"] == made.fit.kind == "adapter"
    assert row["n"] == 40
    assert row["accuracy"]["before"]["value"] < 0.6
    assert row["accuracy"]["after"]["value"] > 0.9
    assert row["brier"]["after"]["value"] < row["brier"]["before"]["value"] / 2


def test_only_the_adapter_is_trained_and_nothing_of_it_stays(made):
    assert made.moved
    assert {name for name in made.moved if ".lora_A." not in name and ".lora_B." not in name} == set()
    after = made.engine.model.state_dict()
    assert after.keys() == made.before.keys()
    assert all(torch.equal(w, made.before[name]) for name, w in after.items())
    assert not any(module._forward_hooks for module in made.engine.model.modules())


def log_odds(engine, questions):
    """Of the first-shown response, by pair, order and principle, as labels have it."""
    labels = [label for batch in Judge(engine, BRIEF).compare(questions) for label in batch]
    p = [row.p_a if row.order == "ab" else 1 - row.p_a for row in labels]
    keys = [(row.comparison_id, row.order, row.principle_id) for row in labels]
    return {key: math.log(x / (1 - x)) for key, x in zip(keys, p, strict=True)}


def both_principles(count):
    return [replace(p.question(RULES), principles=RULES.principles) for p in red_pairs(count)]


def test_the_fit_of_a_config_says_what_was_said_when_it_was_trained(made, tmp_path):
    questions = both_principles(12)
    opened = engine_of(made.folder / "fit", tmp_path / "cache.sqlite")
    said = log_odds(opened, questions)
    assert opened.usage.shared_tokens > 0
    assert said == pytest.approx(log_odds(FittedEngine(made.engine, made.fit), questions), abs=1e-5)
    assert said == log_odds(engine_of(made.folder / "fit", tmp_path / "cache.sqlite"), questions)  # as kept
    plain = log_odds(made.engine, questions)
    assert max(abs(said[key] - plain[key]) for key in said) > 1


def test_shared_prefixes_plain_forwards_and_peft_say_the_same(made):
    """In double precision, so that no rounding hides a difference; two principles share each prefix."""
    questions, engine = both_principles(6), engine_of()
    engine.model.double()
    weights = {name: w.astype(float) for name, w in made.fit.adapter.items()}
    fit = replace(made.fit, adapter=weights, scale=np.ones(3))
    shared = log_odds(FittedEngine(engine, fit), questions)
    used = engine.usage.shared_tokens
    engine.shared_limit = 0
    assert shared == pytest.approx(log_odds(FittedEngine(engine, fit), questions), abs=1e-5)
    assert 0 < engine.usage.shared_tokens == used
    wrapped = attach(engine.model, LoraOptions(rank=fit_adapter.RANK, alpha=fit_adapter.ALPHA), "", 3)
    set_peft_model_state_dict(wrapped, {name: torch.tensor(w) for name, w in fit.adapter.items()})
    wrapped.double()
    judge, expected = Judge(engine, BRIEF), {}
    for q, order, p in product(questions, ORDERS, RULES.principles):
        row = engine.tokens_of(judge.request(q, order, [p]))
        a, b = engine.choice_logprobs([row], ("A", "B"))[0].tolist()
        expected[q.comparison.id, order, p.id] = max(-8.0, min(8.0, a - b))
    assert shared == pytest.approx(expected, abs=1e-5)


def test_other_questions_and_texts_are_the_models_own(made):
    opened, plain = engine_of(made.folder / "fit"), engine_of()
    pair = red_pairs(1)[0]
    question, chat = pair.question(RULES), pair.prompt.chat
    asked = [Judge(opened, BRIEF).request(question, order, question.principles) for order in ("ab", "ba")]
    asked.insert(1, ScoreRequest(chat, (" Say Yes or No.",), ("Yes", "No")))
    writes = [GenerateRequest(chat, 12, temperature=0.0)]
    read = opened.score_choices(asked)
    first = next(read)
    assert list(opened.generate(writes)) == list(plain.generate(writes))  # between two verdicts
    scores = dict([first, *read])
    assert sorted(scores) == [0, 1, 2]
    assert scores[1] == dict(plain.score_choices([asked[1]]))[0]
    item = (pair.prompt, pair.a, RULES.principles)
    assert list(Judge(opened, BRIEF).pointwise([item])) == list(Judge(plain, BRIEF).pointwise([item]))


def test_the_adapter_is_part_of_the_fingerprint(made):
    opened, plain = engine_of(made.folder / "fit"), made.engine
    assert opened.fingerprint == f"{plain.fingerprint}+fit@{made.fit.fingerprint}"
    principle = RULES.principles[0]
    assert Judge(opened, BRIEF).identity(principle) != Judge(plain, BRIEF).identity(principle)
    name = next(iter(made.fit.adapter))
    other = {**made.fit.adapter, name: made.fit.adapter[name] + 1e-3}
    assert replace(made.fit, adapter=other).fingerprint != made.fit.fingerprint
    assert replace(made.fit, alpha=1.0).fingerprint != made.fit.fingerprint


def test_an_adapter_elsewhere_is_refused(made, tmp_path):
    with pytest.raises(UserError, match="another model"):
        open_engine(ModelConfig(model=str(POLICY), fit=str(made.folder / "fit")))
    replace(made.fit, model="scripted:scripted").save(tmp_path)
    served = ModelConfig(
        engine="scripted", model="tests.test_judge_fit_command:engine", fit=str(tmp_path / FILE)
    )
    with pytest.raises(UserError, match="an adapter, which engine: scripted does not load"):
        open_engine(served)


@pytest.mark.parametrize("change", ["numbers", "unsealed", "kind"])
def test_a_changed_adapter_is_refused(made, tmp_path, change):
    if change == "kind":
        replace(made.fit, kind="temperature").save(tmp_path)
    else:
        with safe_open(made.folder / "fit" / FILE, "np") as opened:
            names, facts = opened.keys(), opened.metadata()
            arrays = {name: opened.get_tensor(name) for name in names}
        if change == "unsealed":
            del facts["checksum"]
        else:
            arrays[next(name for name in arrays if "lora_B" in name)][0, 0] += 1
        save_file(arrays, tmp_path / FILE, facts)
    with pytest.raises(UserError, match=r"checksum|its adapter"):
        JudgeFit.load(tmp_path)


def rules_file(folder):
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES.model_dump(mode="json", exclude_defaults=True)))
    return folder / "rules.yaml"


def test_a_killed_command_goes_on_and_comes_to_the_same(made, tmp_path, small, monkeypatch):
    """The adapter of one fold is lost and trained again, the others are read; so are the readings."""
    shutil.copytree(made.folder / "readings", tmp_path / "fit.readings")
    adapters = sorted(tmp_path.glob("fit.readings/adapter-*"))
    assert len(adapters) == SMALL["OUTER"] + 1
    lost = adapters[0] / FILE
    lost.write_bytes(lost.read_bytes()[:-9])  # cut off
    trained, train = [], Training._train
    monkeypatch.setattr(Training, "_train", lambda *given: trained.append(1) or train(*given))
    labels = labels_folder(tmp_path / "people", red_pairs(40))
    words = ["judge", "fit", str(FEEDBACK), "--constitution", str(rules_file(tmp_path)), "--json", "--train"]
    words += ["--templates", "brief", "--labels", str(labels), "--seed", "0", "--out", str(tmp_path / "fit")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads(done.stdout)
    assert trained == [1]
    assert report["heldout"] == json.loads(json.dumps(made.report["heldout"]))
    assert report["fit"] == made.fit.fingerprint  # the same numbers, trained once more
    assert JudgeFit.load(tmp_path / "fit").about["labels"] == 40
    assert not (tmp_path / "fit.readings").exists()


def test_no_prompt_is_measured_by_an_adapter_that_was_trained_on_it(tmp_path, made, small, monkeypatch):
    trained, measured, ask = [], [], fit_adapter.collect

    def train(own, opinions, places, tick):
        trained.append({places[at][0] for at in opinions.reading})
        return made.fit.adapter

    def asked(judge, questions, *more):
        measured.append({q.comparison.id for q in questions})
        return ask(judge, questions, *more)

    monkeypatch.setattr(Training, "_train", train)
    monkeypatch.setattr(fit_adapter, "collect", asked)
    _, report = training(tmp_path / "kept", made.engine).from_training(red_pairs(24))
    every = {pair.comparison.id for pair in red_pairs(24)}
    assert [len(pairs) for pairs in (*trained, *measured)] == [12, 12, 24, 12, 12]
    assert all(own | other == every for own, other in zip(trained[:2], measured, strict=True))
    assert trained[2] == every
    assert report["heldout"]["all"]["n"] == 24


def test_coin_flips_are_refused_and_no_adapter_is_trained_on_all(tmp_path, small):
    fit, report = training(tmp_path / "kept", engine_of()).from_training(red_pairs(24, wrong=0.5))
    assert fit is None
    assert not report["taken"]
    assert "coin" in report["why"]
    assert len(list(tmp_path.glob("kept/adapter-*"))) == SMALL["OUTER"]


def test_few_labels_are_refused_with_their_number_before_anything_is_asked(tmp_path):
    engine = Scripted(on_score=biased)
    with pytest.raises(UserError, match="--train: 49 opinions"):
        training(tmp_path / "kept", engine).from_training(some_pairs(49))
    assert engine.usage.calls == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--labels", "people"], "feedback.engine is scripted"), ([], "no labels to train on")],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_asked(tmp_path, monkeypatch, more, message):
    judge = {"engine": "scripted", "model": "tests.test_judge_fit_adapter:unasked"}
    given = {"name": "x", "constitution": rules_file(tmp_path).name, "prompts": "prompts/starter.jsonl"}
    given |= {"policy": judge, "feedback": judge, "stages": [{"stage": "sample"}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    labels_folder(tmp_path / "people", some_pairs(60))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["judge", "fit", "config.yaml", "--out", "fit", "--train", *more])
    assert isinstance(done.exception, UserError)
    assert done.exception.code == 2
    assert f"--train: {message}" in str(done.exception)
    assert "leave --train out" in str(done.exception)
    assert not list(tmp_path.glob("fit*"))


def unasked():
    """For configs: a judge that must not be opened."""
    raise AssertionError


# ---- temperature and loss, against numbers worked by hand


def test_a_fold_is_measured_with_the_temperature_of_the_others():
    rng, every = np.random.default_rng(0), np.arange(1000)
    z = rng.normal(0, 2, 1000)
    y = 1 / (1 + np.exp(-z))
    later = Readings(3 * z, np.zeros(1000), np.zeros(1000, np.intp))  # three times too sure

    def scales(y):
        opinions = Opinions(y, every, np.zeros(1000, np.intp), every, every, np.ones(1000))
        own = Training(SimpleNamespace(seed=0), [], None, opinions, SimpleNamespace(keys=("one", "")))
        found, numbers = own.temperatures(later)
        assert (sum(held.astype(int) for held, _ in found) == 1).all()
        return found[0][0], [fold.scale[0] for _, fold in found], numbers

    held, before, numbers = scales(y)
    assert numbers.scale == pytest.approx([1 / 3, 1 / 3], abs=1e-3)
    assert before == pytest.approx([1 / 3] * 5, abs=1e-3)
    _, after, _ = scales(np.where(held, 1 - y, y))
    assert after[0] == before[0]
    assert all(a < b for a, b in zip(after[1:], before[1:], strict=True))


ANSWERS = [[-0.2, -2.0], [-1.0, -0.6], [-0.3, -1.5]]  # log-probabilities of A and B, by reading


class Fixed:
    """An engine whose answers to a row of tokens are the reading's, in the other order A and B swapped."""

    def choice_logprobs(self, rows, choices):
        assert choices == ("A", "B")
        return torch.tensor([ANSWERS[at][:: 1 if order == 0 else -1] for at, order in rows])


def by_hand(parts, y):
    """Of one opinion on readings with weights; both orders say the same here."""
    z = sum(w * (ANSWERS[at][0] - ANSWERS[at][1]) for at, w in parts)
    mass = sum(w * math.log(math.exp(ANSWERS[at][0]) + math.exp(ANSWERS[at][1])) for at, w in parts)
    said = 1 / (1 + math.exp(-z))
    return -y * math.log(said) - (1 - y) * math.log(1 - said) - mass / sum(w for _, w in parts)


def test_the_loss_is_the_cross_entropy_of_both_orders_and_of_the_answers_mass():
    opinions = Opinions(
        np.array([1.0, 0.25]),
        np.array([0, 1]),
        np.array([0, -1]),
        np.array([0, 1, 1]),
        np.array([1, 0, 2]),
        np.array([1.0, 2.0, 0.5]),
    )
    loss = Training._loss
    own = SimpleNamespace(judge=SimpleNamespace(engine=Fixed()))
    rows = [[[at, 0], [at, 1]] for at in range(3)]
    one, two = by_hand([(1, 1.0)], 1.0), by_hand([(0, 2.0), (2, 0.5)], 0.25)
    assert one == pytest.approx(1.0)  # of one verdict: −log P(A)
    assert float(loss(own, opinions, [0], rows)) == pytest.approx(one)
    assert float(loss(own, opinions, [1], rows)) == pytest.approx(two)
    assert float(loss(own, opinions, [1, 0], rows)) == pytest.approx(one + two)  # so batches may be split


def test_a_batch_is_split_by_tokens_and_keeps_its_opinions_whole(monkeypatch):
    monkeypatch.setattr(fit_adapter, "TOKENS", 40)
    every, none = np.arange(3), np.zeros(3, np.intp)
    opinions = Opinions(np.ones(3), every, none, np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0]), np.ones(4))
    rows = [[[0] * size] * 2 for size in (9, 10, 30)]
    assert fit_adapter._within([0, 1, 2], opinions, rows) == [[0, 1], [2]]
    assert fit_adapter._within([2, 1, 0], opinions, rows) == [[2], [1, 0]]


def test_the_rate_rises_and_falls():
    rates = [fit_adapter._rate(step, 40) for step in range(40)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert rates[-1] == pytest.approx(1 / 37)
    assert fit_adapter._rate(0, 1) == 1.0
