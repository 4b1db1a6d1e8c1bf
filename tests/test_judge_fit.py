"""`rlaif judge fit`: the numbers against other code, what is refused, and the fitted judge as an engine."""

import math
import re
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from rlaif.audit import fit as fit_module
from rlaif.audit import fit_numerics
from rlaif.audit.fit import Fitting, opinions_of
from rlaif.audit.fit_numerics import (
    Opinions,
    Readings,
    Setting,
    fit_logistic,
    fit_numbers,
    folds,
    forecast,
    order_priors,
    unfitted,
)
from rlaif.audit.fit_verdict import flips, verdict
from rlaif.config import ModelConfig
from rlaif.constitution import Constitution
from rlaif.engines import ScoreRequest, Scripted, Subject, open_engine
from rlaif.engines.fit import SHARED, JudgeFit
from rlaif.engines.fitted import FittedEngine
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge
from rlaif.feedback.labelled import LabelledPair
from rlaif.playground import FEEDBACK
from rlaif.prompting.templates import Templates
from rlaif.records import Annotator, Comparison, Label, Prompt, Response, content_hash
from rlaif.stats import fit_temperature

RULES = Constitution.model_validate(
    {"name": "two", "principles": [{"id": "one", "text": "Be one."}, {"id": "other", "text": "Be other."}]}
)
TEMPLATES = Templates.load("default")
PERSON = Annotator(kind="human", id="ann")


def quality(text: str) -> float:
    """What a response of these tests is worth, which stands in it."""
    return float(text.split()[-1])


def biased(asked, suffix, choices):
    """A judge that sees the quality with noise, three times too sure, and likes the first by 0.8."""
    found = re.findall(r"worth (-?\d\.\d+)", asked[0]["content"])
    values = [float(x) for x in [*found, "0", "0"][:2]]
    noise = Random(content_hash(sorted(values), suffix)).gauss(0, 1.0) * (1 if values[0] < values[1] else -1)
    z = 3 * (values[0] - values[1] + noise) + 0.8
    return [1 / (1 + math.exp(-z)), 1 / (1 + math.exp(z))]


def pair_of(number: int, rng: Random, wrong: float = 0.0, principle: str | None = "one") -> LabelledPair:
    prompt = Prompt.model_validate({"messages": [{"role": "user", "content": f"question {number}"}]})
    texts = [f"worth {rng.gauss(0, 1):.3f}" for _ in range(2)]
    a, b = (Response(prompt_id=prompt.id, text=text) for text in texts)
    pair = Comparison(prompt_id=prompt.id, a=a.id, b=b.id)
    said = (quality(texts[0]) > quality(texts[1])) != (rng.random() < wrong)
    label = Label(
        comparison_id=pair.id,
        annotator=PERSON,
        principle_id=principle,
        p_a=float(said),
        verdict="a" if said else "b",
    )
    return LabelledPair(pair, prompt, *texts, (label,))


def fitting(tmp_path, engine=None, **more) -> Fitting:
    judge = Judge(engine or Scripted(on_score=biased), TEMPLATES)
    return Fitting(judge, RULES, False, tmp_path / "readings", **more)


def some_pairs(count: int, seed: int = 0, wrong: float = 0.1, principle: str | None = "one"):
    rng = Random(seed)
    return [pair_of(n, rng, wrong, principle) for n in range(count)]


# ---- the numbers


def test_the_temperature_is_that_of_a_bounded_search():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 300)
    y = (rng.random(300) < 1 / (1 + np.exp(-z / 2.5))).astype(float)
    scale, head = fit_logistic(z, np.zeros((300, 0)), y, 0.0)
    assert 1 / scale == pytest.approx(fit_temperature(z, y), rel=1e-3)
    assert head.shape == (0,)


def test_the_head_is_that_of_newtons_method():
    rng = np.random.default_rng(1)
    own, x = rng.normal(size=200), rng.normal(size=(200, 5))
    y = (rng.random(200) < 1 / (1 + np.exp(-(0.5 * own + x @ [1, -1, 0, 0, 0.5])))).astype(float)
    w, design = np.zeros(6), np.column_stack([own, x])
    ridge = np.diag([0, 1, 1, 1, 1, 1]) * 2.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ w))
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + ridge
        w -= np.linalg.solve(hessian, design.T @ (p - y) + ridge @ w)
    scale, head = fit_logistic(own, x, y, 2.0)
    assert [scale, *head] == pytest.approx(w.tolist(), abs=1e-3)


def test_a_judge_that_is_wrong_more_often_than_right_is_not_turned_round():
    z = np.linspace(-2, 2, 60)
    scale, _ = fit_logistic(z, np.zeros((60, 0)), (z < 0).astype(float), 0.0)
    assert scale == 0


def test_labels_on_the_whole_are_the_principles_added_by_weight():
    """The forecast is that of `preferences.opinion` on the labels that the fitted judge would give."""
    from rlaif.feedback.preferences import opinion

    none = np.zeros((3, 0))
    readings = Readings(np.array([1.5, -0.4]), np.zeros(2), np.array([0, 1]))
    opinions = Opinions(
        np.array([1.0]),
        np.array([0]),
        np.array([-1]),
        np.array([0, 0]),
        np.array([0, 1]),
        np.array([2.0, 1.0]),
    )
    numbers = unfitted(2)
    numbers = type(numbers)(numbers.setting, np.array([0.5, 2.0, 1.0]), np.zeros(3), none, none)
    p = [1 / (1 + math.exp(-0.75)), 1 / (1 + math.exp(0.8))]
    expected = opinion(dict(zip(("one", "other"), p, strict=True)), {"one": 2.0, "other": 1.0})
    assert forecast(numbers, readings, opinions)[0] == pytest.approx(expected)


def test_the_prior_is_the_median_of_what_the_order_adds():
    lean = np.array([0.1, 0.9, 5.0] * 10 + [-1.0] * 25)
    readings = Readings(np.zeros(55), lean, np.array([0] * 30 + [1] * 25))
    assert order_priors(readings, 3).tolist() == [0.9, -1.0, np.median(lean), np.median(lean)]


def test_without_the_prior_fewer_verdicts_flip():
    rng = np.random.default_rng(0)
    readings = Readings(rng.normal(0, 1, 400), np.full(400, 0.8), np.zeros(400, np.intp))
    assert flips(unfitted(1), readings).mean() == pytest.approx(0.576, abs=0.05)  # P(|z| < 0.8)
    assert flips(unfitted(1, order_priors(readings, 1)), readings).mean() == 0


def test_folds_keep_prompts_together():
    cluster = np.repeat(np.arange(40), 3)
    fold = folds(cluster, 5, 0)
    assert all(len(set(fold[cluster == key])) == 1 for key in range(40))
    assert Counter(fold.tolist()) == dict.fromkeys(range(5), 24)


def test_a_head_finds_what_the_states_know_and_the_verdicts_do_not():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 1, 8))
    y = (states[:, 0, 3] > 0).astype(float)
    readings = Readings(rng.normal(size=400), np.zeros(400), np.zeros(400, np.intp), {"responses": states})
    every = np.arange(400)
    opinions = Opinions(y, every, np.zeros(400, np.intp), every, every, np.ones(400))
    half = every < 200
    numbers = fit_numbers(Setting("responses", 0, 0.3), readings, opinions.of(half), np.zeros(2))
    right = (forecast(numbers, readings, opinions) > 0.5) == (y > 0.5)
    assert right[~half].mean() > 0.9
    plain = (forecast(unfitted(1), readings, opinions) > 0.5) == (y > 0.5)
    assert plain.mean() < 0.6


# ---- whether a fit is taken


def test_an_overconfident_biased_judge_is_fitted_on_eighty_labels(tmp_path):
    fit, report = fitting(tmp_path).from_labels(some_pairs(80))
    row = report["heldout"]["all"]
    assert report["taken"], report["why"]
    assert report["kind"] == "temperature"
    assert report["prior"]["one"] == pytest.approx(0.8, abs=0.5)
    assert fit.scale[-1] < 0.6  # three times too sure
    assert row["brier"]["after"]["value"] < row["brier"]["before"]["value"]
    assert row["ece"]["after"]["ece"] < row["ece"]["before"]["ece"]


@pytest.mark.parametrize("seed", range(5))
def test_labels_without_information_are_refused(tmp_path, seed):
    pairs = some_pairs(80, seed, wrong=0.5)
    _, report = fitting(tmp_path, seed=seed).from_labels(pairs)
    assert not report["taken"]
    assert "coin" in report["why"]


def test_a_judge_that_needs_no_fit_is_refused(tmp_path):
    def sure(asked, suffix, choices):
        values = [quality(x) for x in asked[0]["content"].splitlines() if x.startswith("worth ")][:2]
        return [0.9, 0.1] if values[0] > values[1] else [0.1, 0.9]

    _, report = fitting(tmp_path, Scripted(on_score=sure)).from_labels(some_pairs(80))
    assert not report["taken"]
    assert report["heldout"]["all"]["accuracy"]["before"]["value"] == pytest.approx(0.9, abs=0.1)


def test_what_is_better_and_what_is_worse_is_named(tmp_path):
    _, report = fitting(tmp_path).from_labels(some_pairs(80))
    row, worse = report["heldout"]["all"], {"gain": {"value": -0.2, "ci": (-0.3, -0.1)}}
    assert report["why"].startswith("on held-out labels better: ")
    assert (
        verdict(row | {"brier": row["brier"] | worse})["why"] == "on held-out labels worse: the Brier score"
    )


def test_without_labels_the_order_is_removed(tmp_path):
    questions = [p.question(RULES) for p in some_pairs(120, principle=None)]
    fit, report = fitting(tmp_path).from_orders(questions)
    assert report["taken"], report["why"]
    assert fit.kind == "prior"
    assert (fit.scale == 1).all()
    assert report["heldout"]["all"]["n"] == 240


TIE = {"verdict": "tie", "p_a": 0.5}


def test_labels_of_one_side_are_refused(tmp_path):
    pairs = [p for p in some_pairs(60, wrong=0.0) if p.labels[0].verdict == "a"]
    with pytest.raises(UserError, match=f"of {len(pairs)} labels {len(pairs)} prefer the first response"):
        fitting(tmp_path).from_labels(pairs)
    ties = [replace(p, labels=tuple(row.model_copy(update=TIE) for row in p.labels)) for p in pairs]
    with pytest.raises(UserError, match=f"none of {len(pairs)} labels prefers a response"):
        fitting(tmp_path).from_labels(ties)
    with pytest.raises(UserError, match=f"of {len(pairs)} labels 1 prefer the first response"):
        fitting(tmp_path).from_labels([*ties[1:], pairs[0]])


def test_what_was_asked_before_a_kill_is_not_asked_again(tmp_path):
    engine = Scripted(on_score=biased)
    fitting(tmp_path, engine).from_labels(some_pairs(80))
    asked = engine.usage.calls
    _, again = fitting(tmp_path, engine).from_labels(some_pairs(80))
    assert asked == 160
    assert engine.usage.calls == asked
    files = (tmp_path / "readings").glob("*.safetensors")
    file = max(files, key=lambda path: path.stat().st_size)  # 64 questions, not the last 32
    file.write_bytes(file.read_bytes()[:-9])  # cut off
    _, repaired = fitting(tmp_path, engine).from_labels(some_pairs(80))
    assert engine.usage.calls == asked + 64
    assert repaired["heldout"] == again["heldout"]


# ---- the fit as a file and as an engine


def a_fit(**changes) -> JudgeFit:
    width = 4 if changes.get("kind") in ("responses", "verdicts") else 0
    numbers = {
        "kind": "temperature",
        "model": "scripted:scripted",
        "wording": Judge(Scripted(), TEMPLATES).wording,
        "keys": (content_hash(TEMPLATES.comparison_suffix(RULES.principles[0])), SHARED),
        "prior": np.array([0.5, 0.25]),
        "scale": np.array([2.0, 0.5]),
        "head": np.ones((2, width)),
        "middle": np.zeros((2, width)),
    }
    return JudgeFit(**{**numbers, **changes})


def test_the_fit_of_another_model_is_refused(tmp_path):
    a_fit(model="transformers:x@abc:float32").require("transformers:y@abc:bfloat16", tmp_path)
    with pytest.raises(UserError, match="another model"):
        a_fit(model="transformers:x@abc:float32").require("transformers:x@abd:float32", tmp_path)
    with pytest.raises(UserError, match="another model"):
        a_fit(model="openai:one").require("openai:two", tmp_path)


def asked_once(engine, principle):
    judge = Judge(engine, TEMPLATES)
    question = some_pairs(1, principle=principle)[0].question(RULES)
    return [label for batch in judge.compare([question]) for label in batch]


def test_labels_are_the_corrected_verdicts():
    before = asked_once(Scripted(on_score=biased), "one")
    after = asked_once(FittedEngine(Scripted(on_score=biased), a_fit()), "one")
    for raw, fitted in zip(before, after, strict=True):
        first = raw.p_a if raw.order == "ab" else 1 - raw.p_a
        z = 2.0 * (max(-8.0, min(8.0, math.log(first / (1 - first)))) - 0.5)
        expected = 1 / (1 + math.exp(-z))
        assert fitted.p_a == pytest.approx(expected if raw.order == "ab" else 1 - expected)
        assert fitted.answer_mass == pytest.approx(raw.answer_mass)
        assert fitted.judge["model"] == raw.judge["model"] + "+fit@" + a_fit().fingerprint  # so it is stale


def test_principles_that_the_fit_has_not_seen_have_the_shared_numbers():
    engine = FittedEngine(Scripted(on_score=biased), a_fit())
    raw, fitted = asked_once(Scripted(on_score=biased), "other")[0], asked_once(engine, "other")[0]
    z = 0.5 * (min(8.0, math.log(raw.p_a / (1 - raw.p_a))) - 0.25)  # a verdict's log-odds are bounded by 8
    assert fitted.p_a == pytest.approx(1 / (1 + math.exp(-z)))
    assert len(engine.notes) == 1


def test_verdicts_asked_otherwise_are_refused():
    engine = FittedEngine(Scripted(on_score=biased), a_fit())
    shots = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "A"})
    question = some_pairs(1)[0].question(RULES)
    with pytest.raises(UserError, match="asked about otherwise"):
        list(Judge(engine, TEMPLATES, shots).compare([question]))


def test_a_head_on_responses_moves_verdicts_and_scores_alike():
    class WithStates(Scripted):
        def response_states(self, asked, layers):
            assert layers == [2]
            for index, (_, texts) in enumerate(asked):
                yield index, np.array([[[quality(t), 0, 0, 0]] for t in texts])

    fit = a_fit(kind="responses", layer=2, scale=np.zeros(2), prior=np.zeros(2))
    engine = FittedEngine(WithStates(on_score=lambda *_: [0.5, 0.5]), fit)
    chat = [{"role": "user", "content": "?"}]
    texts = ("worth 1.5", "worth 0.3")
    asked = [ScoreRequest(chat, ("x",), ("A", "B"), subject=Subject(chat, texts, fit.wording))]
    asked += [
        ScoreRequest(chat, ("x",), ("Yes", "No"), subject=Subject(chat, (t,), "", (1, 0))) for t in texts
    ]
    odds = {
        index: scores.logprobs[0][0] - scores.logprobs[0][1] for index, scores in engine.score_choices(asked)
    }
    assert odds[0] == pytest.approx(1.2)
    assert odds[1] - odds[2] == pytest.approx(1.2)


# ---- hidden states


@pytest.fixture(scope="module")
def small():
    return open_engine(ModelConfig(model=str(FEEDBACK), dtype="float32"))


def test_states_are_those_of_a_plain_forward(small):
    """Against transformers' own `output_hidden_states` on each text alone, shared prefixes and plain rows."""
    import torch

    from rlaif.engines.shared import mean_states_plain, score_with_states_plain
    from rlaif.prompting.chat import encode_turn, end_of_turn

    chat = [{"role": "user", "content": "What is the capital of France?"}]
    texts, layers = ["The capital of France is Paris.", "I do not know."], [1, 3]
    ((_, read),) = small.response_states([(chat, texts)], layers)
    for text, own in zip(texts, read, strict=True):
        prompt, response = encode_turn(small.tokenizer, chat, text, end_of_turn(small.tokenizer))
        with torch.inference_mode():
            out = small.model(torch.tensor([prompt + response]), output_hidden_states=True)
        expected = [out.hidden_states[layer][0, len(prompt) :].mean(0) for layer in layers]
        assert own == pytest.approx(torch.stack(expected).numpy(), abs=2e-5)
        plain = mean_states_plain(small.model, [prompt], [[response]], layers)
        assert plain.numpy()[0] == pytest.approx(own, abs=2e-5)
    asked = ScoreRequest(chat, (" Say A.", " Say B or A."), ("A", "B"))
    ((_, scores, states),) = small.score_with_states([asked], layers)
    question = small._question(0, asked)
    _, expected = score_with_states_plain(small.model, [question.prefix], [question.suffixes], layers)
    assert states == pytest.approx(expected.numpy(), abs=2e-5)
    for row, suffix in zip(states, question.suffixes, strict=True):
        with torch.inference_mode():
            out = small.model(torch.tensor([question.prefix + suffix]), output_hidden_states=True)
        assert row[1] == pytest.approx(out.hidden_states[3][0, -1].numpy(), abs=2e-5)
    assert dict(small.score_choices([asked]))[0] == scores


def test_a_head_needs_an_engine_with_states(tmp_path):
    a_fit(kind="responses", layer=2).save(tmp_path)
    with pytest.raises(UserError, match="does not give"):
        open_engine(
            ModelConfig(engine="scripted", model="tests.test_judge_fit_command:engine", fit=str(tmp_path))
        )


@pytest.mark.parametrize("kind", ["responses", "verdicts"])
def test_a_head_is_fitted_and_used_as_it_was_fitted(tmp_path, monkeypatch, small, kind):
    """The labels of the fitted engine are the forecasts of the numbers, on the playground's judge."""
    monkeypatch.setattr(fit_module, "HEAD_FROM", 20)
    monkeypatch.setattr(fit_module, "settings_for", lambda *_: [Setting(kind, 1, 1.0)])
    rng = Random(0)
    pairs = []
    for n in range(24):
        texts = [
            rng.choice(("Sure! It is red.", "You fool! It is red.", "It is blue.")) + f" {n}" for _ in "ab"
        ]
        made = pair_of(n, rng)
        pairs.append(LabelledPair(made.comparison, made.prompt, *texts, made.labels))
    judge = Judge(small, TEMPLATES)
    made = Fitting(judge, RULES, True, tmp_path / "readings", kinds=(kind,))
    fit, report = made.from_labels(pairs)
    fit.save(tmp_path / "fit")
    config = ModelConfig(model=str(FEEDBACK), dtype="float32", fit=str(tmp_path / "fit"))
    opened = open_engine(config, tmp_path / "cache.sqlite")
    questions = [pair.question(RULES) for pair in pairs]
    labels = [label for batch in Judge(opened, TEMPLATES).compare(questions) for label in batch]
    said = combined(labels)
    read = made._collect(questions, True)
    numbers = fit_numerics.fit_numbers(
        Setting(kind, 1, 1.0),
        read.readings,
        opinions_of(pairs, read, RULES, Counter()),
        order_priors(read.readings, 2),
    )
    z, rest = numbers.logits(read.readings)
    for (pair, _), at in read.place.items():
        assert said[pair]["ab"] == pytest.approx(z[at] + rest[at], abs=1e-3)
        assert said[pair]["ba"] == pytest.approx(z[at] - rest[at], abs=1e-3)
    assert report["opinions"] == 24


def combined(labels):
    found: dict = {}
    for label in labels:
        found.setdefault(label.comparison_id, {})[label.order] = math.log(label.p_a / (1 - label.p_a))
    return found
