"""Agreement of several annotators, against an independent library, published figures and numbers by hand."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.agreement.coefficients import (
    MISSING,
    agreement_by_item,
    counts_of,
    fleiss_kappa,
    krippendorff_alpha,
)
from rlaif.agreement.decisions import decide, false_discovery, p_below, power
from rlaif.agreement.prediction_powered import powered_mean
from rlaif.agreement.reliability import dawid_skene
from rlaif.agreement.stand_in import alternative_annotator_test, human_ceiling
from rlaif.forecasts import kappa_interval
from rlaif.intervals import GAP, mean_interval

SOURCE = Path(__file__).parent.parent / "benchmarks" / "agreement_coverage.py"


def benchmark():
    sys.path.insert(0, str(SOURCE.parent))  # it imports what stands beside it
    spec = importlib.util.spec_from_file_location("agreement_coverage", SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path.remove(str(SOURCE.parent))
    return module


def made(items=120, right=(0.9, 0.8, 0.7, 0.5)):
    """Ratings of annotators who know the truth with a chance and guess otherwise."""
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 3, items)
    shape = (items, len(right))
    return np.where(rng.random(shape) < right, truth[:, None], rng.integers(0, 3, shape))


# ---- coefficients


ratings = st.lists(st.tuples(*[st.integers(-1, 2)] * 4), min_size=3, max_size=30)


@given(ratings, st.sampled_from(["nominal", "ordinal"]))
def test_alpha_is_evalicas(rows, metric):
    evalica = pytest.importorskip("evalica")
    table = np.array(rows)
    found = krippendorff_alpha(table, 3, metric)
    twice = table[(table != MISSING).sum(1) >= 2]
    if len({x for row in twice.tolist() for x in row if x != MISSING}) < 2:
        assert math.isnan(found["value"])
        return
    frame = pd.DataFrame(np.where(twice == MISSING, np.nan, twice).T)
    assert found["value"] == pytest.approx(evalica.alpha(frame, distance=metric).alpha, abs=1e-9)
    assert found["n"] == len(twice)


FLEISS = (
    """0 0 0 0 14|0 2 6 4 2|0 0 3 5 6|0 3 9 2 0|2 2 8 1 1|7 7 0 0 0|3 2 6 3 0|2 5 3 2 2|6 5 2 1 0|0 2 2 3 7"""
)
KRIPPENDORFF = (
    """1 2 3 3 2 1 4 1 2 . . .|1 2 3 3 2 2 4 1 2 5 . 3|. 3 3 3 2 3 4 2 2 5 1 .|1 2 3 3 2 4 4 1 2 5 1 ."""
)


def test_published_examples():
    counts = [[int(n) for n in row.split()] for row in FLEISS.split("|")]  # ten items by fourteen annotators
    table = np.array([[c for c, n in enumerate(row) for _ in range(n)] for row in counts])
    assert fleiss_kappa(table, 5)["value"] == pytest.approx(0.210, abs=5e-4)
    rows = [[MISSING if x == "." else int(x) - 1 for x in row.split()] for row in KRIPPENDORFF.split("|")]
    table = np.array(rows).T  # Krippendorff, Computing Krippendorff's alpha-reliability, section E
    assert krippendorff_alpha(table, 5)["value"] == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(table, 5, "ordinal")["value"] == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(table, 5)["n"] == 11, "one unit has a single value"


def test_fleiss_kappa_is_that_of_statsmodels():
    # statsmodels 0.15.0: inter_rater.fleiss_kappa(inter_rater.aggregate_raters(made())[0])
    assert fleiss_kappa(made(), 3)["value"] == pytest.approx(0.5172602954429686)


def test_an_interval_of_two_annotators_is_nearly_cohens():
    """With equal shares Fleiss' kappa, alpha and Cohen's kappa measure one thing."""
    table = made(400, (0.9, 0.9))
    cohen = kappa_interval(*table.T.tolist())
    for found in (fleiss_kappa(table, 3), krippendorff_alpha(table, 3)):
        assert found["value"] == pytest.approx(cohen["kappa"], abs=0.005)
        assert found["ci"] == pytest.approx(cohen["kappa_ci"], abs=0.005)


def test_an_interval_is_wider_where_whole_groups_are_alike():
    table, of = np.repeat(made(60), 5, 0), np.repeat(np.arange(60), 5).tolist()
    grouped, plain = (krippendorff_alpha(table, 3, "ordinal", keys)["ci"] for keys in (of, None))
    assert grouped[1] - grouped[0] == pytest.approx(math.sqrt(5) * (plain[1] - plain[0]), rel=0.1)


def test_nothing_is_said_of_too_little():
    assert math.isnan(fleiss_kappa(np.empty((0, 2), int), 3)["value"])
    assert math.isnan(krippendorff_alpha(np.zeros((30, 2), int), 3)["value"]), "chance alone agrees always"
    few = krippendorff_alpha(made(19), 3)
    assert math.isfinite(few["value"])
    assert math.isnan(few["ci"][0])
    assert math.isnan(agreement_by_item(counts_of(np.array([[0, MISSING]]), 3))[0])


# ---- verdicts


def test_the_three_verdicts():
    assert decide(0.8, (0.75, 0.85), 0.7, 0.05, 100)["verdict"] == "holds"
    assert decide(0.6, (0.55, 0.65), 0.7, 0.05, 100)["verdict"] == "fails"
    assert decide(0.8, (0.75, 0.85), 0.7, 0.05, 100, at_least=False)["verdict"] == "fails"
    assert decide(0.6, (0.55, 0.65), 0.7, 0.05, 100, at_least=False)["verdict"] == "holds"
    assert decide(0.8, (math.nan, math.nan), 0.7, 0.05, 5)["verdict"] == "inconclusive"
    open_ = decide(0.75, (0.65, 0.85), 0.7, 0.1, 100)
    assert open_["verdict"] == "inconclusive"
    error = 0.1 / 1.959964
    assert open_["detectable"] == pytest.approx((1.959964 + 0.841621) * error, rel=1e-5)
    assert open_["power"] == pytest.approx(power(0.1, error), rel=1e-5)
    # As many labels as make five points detectable: (0.1430 / 0.05)² times as many.
    assert open_["more"] == math.ceil(100 * ((open_["detectable"] / 0.05) ** 2 - 1))
    assert decide(0.7001, (0.6, 0.8), 0.7, 0.1, 100)["more"] is None, "no number of labels is advice"


@given(st.floats(0, 1), st.floats(0.001, 0.5), st.floats(0, 1))
def test_inconclusive_is_a_sample_without_the_power_to_show_what_it_found(value, half, limit):
    found = decide(value, (value - half, value + half), limit, 0.05, 50)
    assert (found["verdict"] == "inconclusive") == (value - half < limit <= value + half)
    if found["verdict"] == "inconclusive":
        assert power(abs(value - limit), half / 1.959964) < 0.8


@pytest.mark.parametrize(("k", "n", "limit"), [(3, 40, 0.2), (0, 30, 0.1), (18, 40, 0.5)])
def test_a_p_value_of_a_rate_is_that_of_the_score_test(k, n, limit):
    z = (k / n - limit) / math.sqrt(limit * (1 - limit) / n)
    expected = 0.5 * math.erfc(-z / math.sqrt(2))
    assert p_below([1.0] * k + [0.0] * (n - k), limit) == pytest.approx(expected, rel=1e-4)


def test_a_p_value_and_its_interval_agree():
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(40), 3).tolist()
    gaps = rng.choice([-1.0, 0.0, 1.0], 40, p=[0.2, 0.5, 0.3]).repeat(3).tolist()
    for limit in (0.15, 0.3, 0.5):
        p = p_below(gaps, limit, GAP, of)
        assert mean_interval(gaps, GAP, of, 1 - 2 * p)[1] == pytest.approx(limit, abs=1e-6)
    assert p_below([1.0] * 30, 0.5) == 1.0


def test_false_discoveries_by_hand():
    # c(3) = 1 + 1/2 + 1/3 = 11/6
    p = [0.01, 0.04, 0.03]
    assert false_discovery(p) == pytest.approx([0.01 * 3 * 11 / 6, 0.04 * 11 / 6, 0.04 * 11 / 6])


# ---- standing in


def by_loops(people, judge, h):
    """The scores of Calderon et al., section 3.1, as loops: (person, judge) is at least as good."""
    wins = []
    for row, said in zip(people.tolist(), judge.tolist(), strict=True):
        others = [x for k, x in enumerate(row) if k != h and x != MISSING]
        if row[h] == MISSING or not others:
            continue
        mine = sum(x == row[h] for x in others) / len(others)
        its = sum(x == said for x in others) / len(others)
        wins.append((mine >= its, its >= mine))
    return wins


def test_the_alternative_annotator_test_is_that_of_its_paper():
    table = made(200, (0.9, 0.8, 0.85, 0.7))
    people, judge = table[:, :3].copy(), table[:, 3]
    people[::7, 1] = MISSING
    judge[::31] = MISSING
    found = alternative_annotator_test(people, judge, ["x", "y", "z"], 0.15)
    for h, row in enumerate(found["people"]):
        wins = np.array(by_loops(people, judge, h))
        assert (row["own"], row["judge"], row["n"]) == (*wins.mean(0), len(wins))
        assert row["gap"] == pytest.approx(wins[:, 0].mean() - wins[:, 1].mean())
    assert found["advantage"] == pytest.approx(np.mean([row["judge"] for row in found["people"]]))


def test_a_judge_as_good_as_people_may_stand_in_and_a_guessing_one_may_not():
    table = made(600, (0.8, 0.8, 0.8, 0.8, 0.0, 0.72))
    names = ["x", "y", "z"]
    good = alternative_annotator_test(table[:, :3], table[:, 3], names)
    bad = alternative_annotator_test(table[:, :3], table[:, 4], names)
    assert (good["verdict"], good["winning_rate"], bad["verdict"], bad["winning_rate"]) == (
        "holds",
        1,
        "fails",
        0,
    )
    few = alternative_annotator_test(table[:60, :3], table[:60, 5], names, 0.1)
    assert few["verdict"] == "inconclusive"
    assert 0 < few["more"] < 4000
    alone = alternative_annotator_test(table[:, :1], table[:, 3], ["x"])
    assert (alone["verdict"], alone["people"]) == ("inconclusive", [])
    assert "two people" in alone["reason"]
    assert alternative_annotator_test(table[:12, :3], table[:12, 3], names, 0.9)["verdict"] == "inconclusive"


def test_the_ceiling_by_hand():
    people = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 1, MISSING]])
    judge = np.array([0, 1, 2, MISSING])
    found = human_ceiling(people, judge)
    # Majorities without one person. Row 1: all agree. Row 2: {0, 1} shared twice, then 0 alone. Row 3: each
    # time the other two share the lead. Row 4: one other.
    assert found["people"] == pytest.approx((3 + (0.5 + 0.5 + 0) + 0 + 0) / 11)
    assert found["judge"] == pytest.approx((3 + (0.5 + 0.5 + 0) + (0.5 + 0.5 + 0) + 0) / 11)
    assert found["n"] == 11


# ---- few labels, many predictions


def predicted():
    rng = np.random.default_rng(3)
    y = (rng.random(80) < 0.6).astype(float)
    f = np.abs(y - (rng.random(80) < 0.2))
    return y.tolist(), f.tolist(), (rng.random(800) < 0.58).astype(float).tolist()


def test_a_powered_mean_is_that_of_its_authors():
    # ppi_python 0.2.3: ppi_mean_pointestimate and ppi_mean_ci of predicted()
    found = powered_mean(*predicted())
    assert found["value"] == pytest.approx(0.58116, abs=0.002)
    assert found["ci"] == pytest.approx((0.49759, 0.66474), abs=0.005)
    y, f, g = map(np.array, predicted())
    assert found["value"] == pytest.approx(y.mean() + found["weight"] * (g.mean() - f.mean()))


def test_what_predictions_save():
    y, f, g = predicted()
    alone = mean_interval(y)
    none = powered_mean(y, [0.5] * 80, [0.5] * 800)
    assert (none["weight"], none["saved"], none["ci"]) == (0.0, 0.0, pytest.approx(alone))
    perfect = powered_mean(y, y, (y * 10)[:800])
    assert perfect["weight"] == pytest.approx(10 / 11, rel=0.02)
    assert perfect["labels_alone"] == pytest.approx(880, rel=0.05), "as if all had been labelled"
    assert powered_mean(y, f, [])["ci"] == pytest.approx(alone)
    assert powered_mean(y, [1 - x for x in f], [1 - x for x in g])["weight"] == 0, "never against the judge"
    assert math.isnan(powered_mean([1.0] * 10, [1.0] * 10, [1.0] * 10)["ci"][0]), "no interval below 20"
    assert math.isnan(powered_mean([], [], g)["value"])


def test_groups_that_hold_labelled_and_other_items_count_once():
    y, f, _ = predicted()
    of = list(range(80))
    apart = powered_mean(y, f, f * 3, of, [100 + i for i in of] * 3)
    shared = powered_mean(y, f, f * 3, of, of * 3)
    assert shared["weight"] == 0.0, "predictions of the labelled items' own groups tell nothing new"
    assert apart["weight"] > 0.3


# ---- reliability


def test_dawid_and_skene_are_those_of_crowd_kit(monkeypatch):
    # crowd-kit 1.4.2: DawidSkene(n_iter=200, tol=1e-9).fit of made(), which has no prior
    monkeypatch.setattr("rlaif.agreement.reliability.PRIOR", 1e-9)
    found = dawid_skene(made(), 3)
    expected = [[0.9370, 0.0260, 0.0369], [0.1331, 0.8515, 0.0154], [0.0, 0.0396, 0.9604]]
    assert found["confusion_ACC"][0] == pytest.approx(np.array(expected), abs=2e-4)
    assert found["confusion_ACC"][3, 2] == pytest.approx([0.2580, 0.1358, 0.6062], abs=2e-4)
    assert found["shares_C"] == pytest.approx([0.241674, 0.427424, 0.330903], abs=1e-4)


def test_reliability_puts_annotators_in_their_order():
    table = made(600)
    table[::5, 3] = MISSING
    found = dawid_skene(table, 3)
    assert np.all(np.diff(found["accuracy_A"]) < 0)
    right = [p + (1 - p) / 3 for p in (0.9, 0.8, 0.7, 0.5)]
    assert found["accuracy_A"] == pytest.approx(right, abs=0.05)
    assert found["truth_IC"].sum(1) == pytest.approx(np.ones(600))


# ---- by simulation


@pytest.mark.slow
@pytest.mark.parametrize("case", benchmark().CASES, ids=lambda c: f"{c.table}: {c.data}")
def test_a_smaller_version_of_the_measurement(case):
    """300 draws at n = 100: four standard errors around the aim."""
    module = benchmark()
    figures = {name: row["mean"] for name, row in module.measure(case, 100, 300)["figures"].items()}
    for name, mean in figures.items():
        if module.aimed(case.table, name):
            assert 0.90 <= mean <= 1.0, name
        if "wrongly" in name:
            assert mean <= 0.10, name
        if name in ("at the limit: holds", "fails"):
            assert mean <= 0.06, name
        if name == "beyond it: holds":
            assert 0.65 <= mean <= 0.95, name


def test_the_measurement_runs():
    module = benchmark()
    cases = {case.table: case for case in module.CASES}
    for case in cases.values():
        row = module.measure(case, 30, 3)
        assert all(0 <= figure["printed"] <= 1 for figure in row["figures"].values())
        assert row["data"] in module.tables([row])
    assert sys.modules["agreement_cases"].gap_of(0.9, 0.9) == pytest.approx(0)
