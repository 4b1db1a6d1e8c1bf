"""Which principles explain labels: the fit by hand and by simulation, real pairs, proposals, the command."""

import json
import math
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.playground.wordings import KINDS
from rlaif.records import Label
from rlaif.workbench import sparse_fit
from rlaif.workbench.induce import CandidateSources, induce
from rlaif.workbench.pairs import judge_labels, open_judge, read_pairs
from rlaif.workbench.proposals import proposed, rule_in, together
from tests import planted
from tests.fake_run import fake_run
from tests.icai_rules import KNOWN, OTHERS

WORDS = ("tower", "bottle", "ladder", "tent", "spoon", "carpet")


def own(n: int) -> np.ndarray:
    return np.arange(n)


def test_a_weight_solves_the_equation_of_its_fit():
    x, y = np.ones((10, 1)), np.array([1.0] * 8 + [0.0] * 2)
    (w,) = sparse_fit.fit(x, y)
    assert sum(y) - 10 / (1 + math.exp(-w)) == pytest.approx(w / sparse_fit.PRIOR**2, abs=1e-4)
    assert sparse_fit.fit(-x, y) == pytest.approx([0.0])  # never negative


def labels_of(rng: np.random.Generator, n: int, true: tuple[float, ...], candidates: int):
    """Verdicts [n, candidates] and the labels that the first of them give with their weights."""
    x = np.clip(rng.choice([-3.0, 0.0, 3.0], (n, candidates)) + rng.normal(0, 0.8, (n, candidates)), -4, 4)
    logits = x[:, : len(true)] @ np.array(true)
    return x, (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(float)


def test_standard_errors_are_those_of_the_weights_of_other_samples():
    rng, true = np.random.default_rng(1), (0.8, 0.4)
    weights, errors = [], []
    member = np.repeat(np.arange(60), 3)
    for _ in range(300):
        x, y = labels_of(rng, 180, true, 2)
        weights.append(sparse_fit.fit(x, y))
        errors.append(sparse_fit.standard_errors(x, y, member, weights[-1]))
    assert np.mean(errors, 0) == pytest.approx(np.std(weights, 0), rel=0.15)


def test_a_weights_interval_allows_for_its_having_been_chosen():
    usual = sparse_fit.weight_interval(20.0, 1.0, 1e9, 3.0)  # it was bound to be chosen
    assert usual == pytest.approx((20 - 1.95996, 20 + 1.95996), abs=1e-4)
    assert sparse_fit.weight_interval(2.0, 1.0, 1e9, 2.0) == (0.0, 2.0)  # it is the least that is let in
    draws = np.random.default_rng(0).normal(0, 1, 2_000_000)
    # Below the least that is let in the upper end misses none, and the lower one may miss 5 %.
    for least, missed in ((2.6, 0.05), (1.0, 0.025)):
        low, high = sparse_fit.weight_interval(4.0, 1.0, 1e9, least)
        assert (low < least) == (missed == 0.05)
        for true, share in ((low, missed), (high, 0.975)):
            chosen = draws[true + draws > least]
            assert (true + chosen > 4.0).mean() == pytest.approx(share, abs=0.002)
    # Between the two, the end is the least that is let in.
    assert sparse_fit.weight_interval(4.0, 1.0, 1e9, 2.03)[0] == pytest.approx(2.03)
    x, y = labels_of(np.random.default_rng(0), 49, (0.8,), 1)
    assert math.isnan(sparse_fit.explain(x, y, own(49))[0]["ci"][0])  # few labels do not tell an error


def test_the_least_weight_that_is_let_in_by_hand():
    # Of one candidate that always says yes the score is the sum of y - 1/2, with a standard deviation of 5:
    # two of them less is that of labels of which 0.7 say yes.
    x, y = np.ones((100, 1)), np.array([1.0] * 80 + [0.0] * 20)
    weights = sparse_fit.fit(x, y)
    for excess, share in ((2.0, 0.7), (4.0, 0.6), (6.0, 0.5), (7.0, 0.5)):
        least = sparse_fit.least_weight(x, y, own(100), weights, 0, excess)
        assert least == pytest.approx(math.log(share / (1 - share)), abs=1e-6)
    assert sparse_fit.least_weight(x, y, own(100), weights, 0, 0.0) == weights[0]
    # A second one that is chosen, too, and has nothing to do with it changes nothing.
    both = np.column_stack([x[:, 0], np.tile([1.0, -1.0], 50)])
    least = sparse_fit.least_weight(both, y, own(100), np.array([weights[0], 0.0]), 0, 2.0)
    assert least == pytest.approx(math.log(7 / 3), abs=1e-6)


def test_intervals_of_chosen_weights_hold_the_true_ones():
    rng, hits = np.random.default_rng(2), {"true": [], "wrong": []}
    for _ in range(250):
        x, y = labels_of(rng, 60, (0.8,), 8)
        for row in sparse_fit.explain(x, y, own(60)):
            kind, truth = ("wrong", 0.0) if row["at"] else ("true", 0.8)
            hits[kind].append(row["ci"][0] <= truth <= row["ci"][1])
    assert 0.90 <= np.mean(hits["true"]) <= 0.99  # with a standard error of 0.014
    assert len(hits["wrong"]) >= 5
    assert np.mean(hits["wrong"]) >= 0.7  # of a dozen; without the choice, the interval holds hardly one


def test_p_values_by_hand():
    # Of 2^10 changes of signs one leaves all ten equal sums positive.
    assert sparse_fit.positive(np.ones(10)) == 2**-10
    assert sparse_fit.positive(-np.ones(10)) == 1.0
    # ±3 ±2 ±1 is 4 or more in two of eight cases (3+2−1 and 3+2+1), and 2 or more in three.
    assert sparse_fit.positive(np.array([3.0, 2.0, -1.0])) == 2 / 8
    assert sparse_fit.positive(np.array([3.0, -2.0, 1.0, 0.0])) == 3 / 8
    # Beyond fourteen sums changes are drawn; of a hundred sums with a mean of 0.2 the normal one is near.
    sums = np.where(np.arange(100) % 5 < 3, 1.0, -1.0)
    assert sparse_fit.positive(sums) == pytest.approx(0.0285, abs=0.006)
    assert sparse_fit.positive(np.tile(sums, 9)) == pytest.approx(1e-9, abs=1e-9)


def test_without_a_connection_hardly_anything_is_chosen():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        x = rng.choice([-3.0, 0.0, 3.0], (120, 8), p=[0.2, 0.6, 0.2])
        hits += bool(sparse_fit.choose(x, rng.integers(0, 2, 120).astype(float), own(120) // 3))
    assert hits <= 8  # at a level of 0.05 three are expected; 9 or more have a chance of 0.003


def test_of_strong_candidates_the_strongest_is_let_in_first_whatever_their_order():
    # All have the least p-value that drawn changes of signs can give: one of two copies that agree with the
    # third, which makes the labels, in 85 % of the pairs came in with it where it stood first.
    rng = np.random.default_rng(4)
    common = rng.choice([-3.0, 0.0, 3.0], 120)
    alike = [np.where(rng.random(120) < 0.85, common, rng.choice([-3.0, 0.0, 3.0], 120)) for _ in range(3)]
    x = np.clip(np.column_stack(alike) + rng.normal(0, 0.3, (120, 3)), -4, 4)
    y = (rng.random(120) < 1 / (1 + np.exp(-0.5 * x[:, 2]))).astype(float)
    p = [sparse_fit.positive(s) for s in sparse_fit.scores(x, y, own(120), [], [0, 1, 2])]
    assert p[0] == p[1] == p[2]
    assert [j for j, *_ in sparse_fit.choose(x, y, own(120))] == [2]
    assert [j for j, *_ in sparse_fit.choose(x[:, ::-1], y, own(120))] == [0]


def test_labels_that_are_all_on_a_principles_side_leave_its_weight_open_above():
    # Eight labels of sixty: what the fit leaves of them is next to nothing, and said 1.19 to 1.49.
    x, y = np.zeros((60, 1)), np.arange(60) % 2 * 1.0
    x[:8], y[:8] = 4.0, 1.0
    weights = sparse_fit.fit(x, y)
    (error,) = sparse_fit.standard_errors(x, y, own(60), weights)
    p = 1 / (1 + math.exp(-4 * weights[0]))
    information = 8 * 16 * p * (1 - p)
    assert error == pytest.approx(math.sqrt(information) / (information + 1 / sparse_fit.PRIOR**2))
    # Labels that are the model's own probabilities leave no error, whatever chance would have added.
    x, _ = labels_of(np.random.default_rng(0), 60, (0.5,), 1)
    y = 1 / (1 + np.exp(-0.5 * x[:, 0]))
    assert sparse_fit.standard_errors(x, y, own(60), np.array([0.5])) == pytest.approx([0.0], abs=1e-6)


def test_intervals_hold_large_weights_of_principles_that_seldom_have_a_say():
    rng, hits = np.random.default_rng(3), []
    for _ in range(200):
        x = np.zeros((60, 1))
        x[:12, 0] = rng.uniform(2, 4, 12) * rng.choice([-1, 1], 12)
        y = (rng.random(60) < 1 / (1 + np.exp(-0.8 * x[:, 0]))).astype(float)
        hits += [row["ci"][0] <= 0.8 <= row["ci"][1] for row in sparse_fit.explain(x, y, own(60))]
    assert len(hits) > 150
    assert np.mean(hits) > 0.9  # 0.64 of them without the model's variance


def test_of_two_that_say_the_same_one_is_chosen():
    rng = np.random.default_rng(1)
    x = rng.choice([-3.0, 0.0, 3.0], (300, 3))
    x[:, 2] = x[:, 0]
    y = ((x[:, 0] + rng.normal(0, 1, 300)) > 0).astype(float)
    assert len(sparse_fit.choose(x, y, own(300))) == 1


def simulated(folder: Path, seed: int, count: int = 500, flips: float = 0.1) -> set[str]:
    """A folder of pairs with noisy verdicts under twelve candidates, and labels that three of them give, of
    which a tenth is turned; returns the three."""
    rng = Random(f"induce {seed}")
    texts = {f"no-{word}": f"Never say {word}." for word in WORDS}
    rules = planted.constitution(**texts)
    rules = rules.model_copy(update={"principles": tuple(p for p in rules.principles if p.id != "no-word")})
    true = set(rng.sample([kind for kind in KINDS if kind != "no-word"], 3))
    rows: dict[str, list] = {name: [] for name in ("prompts", "responses", "comparisons", "labels")}
    for number in range(count):
        prompt, comparison, better, sides = planted.pair(rng, number)
        for word in WORDS:
            better[f"no-{word}"] = (word in sides[1].text) - (word in sides[0].text)
        lead = sum(better[kind] for kind in true)
        says = (lead > 0) != (rng.random() < flips) if lead else rng.random() < 0.5
        rows["prompts"].append(prompt)
        rows["responses"] += sides
        rows["comparisons"].append(comparison)
        rows["labels"] += [planted.label(comparison, i, better[i], rng) for i in rules.ids]
        rows["labels"].append(planted.vote(comparison, says))
    for name, found in rows.items():
        unique = {row.id: row for row in found}
        (folder / f"{name}.jsonl").write_text("".join(row.to_json() + "\n" for row in unique.values()))
    (folder / "candidates.json").write_text(json.dumps(rules.model_dump(exclude_defaults=True)))
    return true


def test_the_true_principles_are_recovered_from_500_noisy_labels(tmp_path):
    right = wrong = missed = 0
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        true = simulated(folder, seed)
        found = induce(folder, CandidateSources(folder / "candidates.json"))
        chosen = {row["id"] for row in found.figures["candidates"] if row["chosen"]}
        right, wrong, missed = (
            right + len(chosen & true),
            wrong + len(chosen - true),
            missed + len(true - chosen),
        )
        held = found.figures["held_out"]
        assert held["over_chance"]["shown"]
        assert held["cross_entropy"]["model"] < held["cross_entropy"]["length"]
    assert right / (right + wrong) >= 0.9
    assert right / (right + missed) >= 0.9


def candidates(folder: Path) -> Path:
    rows = [{"id": name, "text": text} for name, (text, _) in (KNOWN | OTHERS).items()]
    path = folder / "candidates.yaml"
    path.write_text(json.dumps({"name": "guesses", "principles": rows}))
    return path


def checks(folder: Path, **model: str) -> str:
    """A config whose judge is the programs of tests/icai_rules.py."""
    feedback = {"engine": "scripted", "model": "tests.icai_rules:judge"} | model
    config = {
        "name": "checks",
        "constitution": "candidates.yaml",
        "prompts": "prompts.jsonl",
        "templates": "brief",
        "policy": feedback,
        "feedback": feedback,
        "stages": [{"stage": "sample"}],
    }
    (folder / "prompts.jsonl").write_text('{"prompt": "x"}\n')
    (folder / "judge.yaml").write_text(json.dumps(config))
    return str(folder / "judge.yaml")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("aligned_vqvtb", {"truthful", "specific", "willing"}),
        ("orthogonal_adcbg", {"cats", "blue", "lemon"}),
        ("mixed_vqvtb_adcbg", set(KNOWN)),
    ],
)
def test_the_known_principles_of_real_pairs(name, known, tmp_path, test_data):
    file = test_data / "icai_synthetic" / f"synthetic_data_{name}.csv"
    found = induce(file, CandidateSources(candidates(tmp_path), checks(tmp_path)))
    assert {row["id"] for row in found.figures["candidates"] if row["chosen"]} == known
    assert found.figures["over"] == "comparisons"  # three or six prompts are too few to resample
    assert found.figures["held_out"]["over_length"]["shown"] or len(known) == 3
    (tmp_path / "out.yaml").write_text(found.constitution_text())
    assert set(Constitution.load(tmp_path / "out.yaml").ids) == known


def test_a_runs_own_principles_explain_its_preferences(tmp_path):
    run = fake_run(tmp_path / "run", prompts=240)
    out = tmp_path / "found.yaml"
    shown = CliRunner().invoke(app, ["constitution", "induce", str(run), "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "the preferences of the run's own principles" in shown.stdout
    found = Constitution.load(out)
    assert set(found.ids) == {"no-rude", "no-wrong", "no-sad"}
    data = json.loads(CliRunner().invoke(app, ["constitution", "induce", str(run), "--json"]).stdout)
    # The fitted weights are those by which the preferences were added up, but for the prior.
    assert [row["weight"] for row in data["candidates"]] == pytest.approx([1, 1, 1], abs=0.15)
    assert data["held_out"]["agreement"]["value"] == 1.0


def test_what_cannot_be_explained_is_said(tmp_path):
    simulated(tmp_path, 0, count=10)
    with pytest.raises(UserError, match="10 labels on whole comparisons"):
        induce(tmp_path, CandidateSources(tmp_path / "candidates.json"))
    simulated(tmp_path, 0, count=40)
    rows = (tmp_path / "labels.jsonl").read_text()
    (tmp_path / "labels.jsonl").write_text(
        re.sub(r'"comparison_id":\s?"\w+"', '"comparison_id":"gone"', rows)
    )
    with pytest.raises(UserError, match=r"0 labels on whole comparisons \(left out: .*label on no pair"):
        induce(tmp_path, CandidateSources(tmp_path / "candidates.json"))
    (tmp_path / "labels.jsonl").write_text(rows)
    with pytest.raises(UserError, match="no candidates"):
        induce(tmp_path, CandidateSources())
    with pytest.raises(UserError, match="no verdict is stored under a candidate"):
        induce(tmp_path, CandidateSources(candidates(tmp_path)))
    with pytest.raises(UserError, match="no such file"):
        induce(tmp_path / "nowhere", CandidateSources())


def test_asked_labels_are_kept_and_not_asked_again(tmp_path):
    run = fake_run(tmp_path / "run", prompts=40)
    pairs = read_pairs(run)
    candidates(tmp_path)
    judge = open_judge(checks(tmp_path), (), Constitution.load(tmp_path / "candidates.yaml"))
    rules = Constitution.load(tmp_path / "candidates.yaml").principles[:3]
    questions = [pairs.question(pair, rules) for pair in pairs.comparisons]
    keep = tmp_path / "kept.jsonl"
    first = judge_labels(judge, questions, (), keep)
    lines = keep.read_text().splitlines(keepends=True)
    assert len(lines) == len(questions) * 3 * 2
    keep.write_text("".join(lines[:-7]) + lines[-7][:20])  # killed while it wrote
    again = judge_labels(judge, questions, (), keep)
    assert again == first
    assert len({Label.model_validate_json(line).id for line in keep.read_text().splitlines()}) == len(lines)


def test_proposed_rules_are_put_together(tmp_path):
    said = ["The reply must be kind to the user.", "- The reply must be kind to users and the user.", "No."]
    said += ["I'm sorry, but I cannot help with that request.", "", "Rule: the reply must name a source"]
    texts = iter(said * 50)
    run = fake_run(tmp_path / "run", prompts=60)
    pairs = read_pairs(run)
    asked_of: list[str] = []

    def propose(request):
        asked_of.append(request.messages[-1]["content"])
        return next(texts)

    engine = Scripted(on_generate=propose, name="proposer")
    shown = list(pairs.comparisons)[:18]
    found = proposed(engine, pairs, dict.fromkeys(pairs.comparisons, 1.0), shown, 5)
    assert [p.text for p in found.candidates.principles] == [said[0], "the reply must name a source"]
    assert found.times == [6, 3]
    preferred, other = pairs.texts(shown[0])
    assert asked_of[0].index(preferred) < asked_of[0].index("=== Other reply ===") < asked_of[0].index(other)
    assert found.dropped == {"fewer than 3 words": 3, "a refusal": 3, "empty": 3}
    assert len(set(found.candidates.ids)) == 2


def test_no_rule_proposed_is_an_error(tmp_path):
    pairs = read_pairs(fake_run(tmp_path / "run", prompts=60))
    engine = Scripted(on_generate=lambda request: "No.", name="proposer")
    with pytest.raises(UserError, match="proposed no rule for 5 comparisons"):
        proposed(engine, pairs, dict.fromkeys(pairs.comparisons, 0.0), list(pairs.comparisons)[:5], 5)


def test_rules_by_their_words():
    assert together(["Be kind.", "The reply must be kind", "Name a source."])[0] == [
        "Be kind.",
        "The reply must be kind",
    ]
    dropped: dict = {}
    from collections import Counter

    dropped = Counter()
    assert rule_in("x " * 60, dropped) is None
    assert dropped == {"more than 40 words": 1}
