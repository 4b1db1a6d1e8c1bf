"""Statistics against numbers worked by hand, published answers and exact properties."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif import stats

DATA = os.environ.get("RLAIF_TEST_DATA")


def test_wilson_by_hand():
    # z = 1.959964; 8 of 10: centre (8 + 1.92073)/13.84146, half z·sqrt(1.6 + 0.96036)/13.84146
    assert stats.wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert stats.wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert stats.wilson(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)
    assert stats.wilson(0, 0) == (0.0, 1.0)


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilson_holds_the_proportion(k, extra):
    low, high = stats.wilson(k, k + extra)
    assert 0 <= low <= k / (k + extra) <= high <= 1


def test_bootstrap_is_seeded_and_close_to_the_normal_interval():
    values = np.arange(100.0)
    low, high = stats.bootstrap_mean(values, seed=3)
    half = 1.96 * values.std() / 10
    assert (low, high) == stats.bootstrap_mean(values, seed=3)
    assert low == pytest.approx(49.5 - half, abs=0.6)
    assert high == pytest.approx(49.5 + half, abs=0.6)


def test_bootstrap_of_whole_prompts_is_wider_when_answers_repeat():
    values = np.repeat(np.arange(40.0), 5)
    single = stats.bootstrap_mean(values, 0)
    whole = stats.bootstrap_mean(values, 0, groups=[i // 5 for i in range(200)])
    assert (whole[1] - whole[0]) / (single[1] - single[0]) == pytest.approx(math.sqrt(5), rel=0.15)


def test_bootstrap_keeps_columns_paired():
    a = np.linspace(0, 1, 50)
    rows = np.stack([a + 0.25, a], 1)
    low, high = stats.bootstrap(rows, lambda r: float((r[:, 0] - r[:, 1]).mean()))
    assert low == pytest.approx(0.25)
    assert high == pytest.approx(0.25)


def test_calibration_by_hand():
    p, y = [0.1, 0.1, 0.9, 0.9], [0, 1, 1, 1]
    assert stats.reliability(p, y) == [(pytest.approx(0.1), 0.5, 2), (pytest.approx(0.9), 1.0, 2)]
    assert stats.ece(p, y) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert stats.ece(p, y, weights=[1, 1, 0, 0]) == pytest.approx(0.4)
    assert stats.reliability([1.0, 0.0], [1, 0]) == [(0.0, 0.0, 1), (1.0, 1.0, 1)]


def test_temperature_is_recovered():
    logits = np.linspace(-4, 4, 201)
    assert stats.fit_temperature(logits * 3, stats.sigmoid(logits)) == pytest.approx(3.0, rel=1e-3)
    assert stats.fit_temperature(logits, stats.sigmoid(logits * 2)) == pytest.approx(0.5, rel=1e-3)


def test_cross_entropy_by_hand():
    assert stats.cross_entropy([0.0], [0.3]) == pytest.approx(math.log(2))
    assert stats.cross_entropy([800.0, -800.0], [1.0, 0.0]) == pytest.approx(0.0)


def test_kappa_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5·0.6 + 0.5·0.4 = 0.5
    a = ["y"] * 25 + ["n"] * 25
    b = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert stats.agreement(a, b) == pytest.approx(0.7)
    assert stats.cohen_kappa(a, b) == pytest.approx(0.4)
    assert stats.cohen_kappa([*a, None, "y"], [*b, "n", None]) == pytest.approx(0.4)
    assert math.isnan(stats.cohen_kappa(["y", "y"], ["y", "y"]))


def test_win_rate_counts_ties_half_and_leaves_the_unreadable_out():
    found = stats.win_rate([0.9, 0.9, 0.2, 0.52, None])
    assert found["value"] == pytest.approx(2.5 / 4)
    assert (found["ties"], found["invalid"], found["n"]) == (0.25, pytest.approx(0.2), 4)
    assert found["ci"][0] < 0.625 < found["ci"][1]


def test_nothing_measured_is_nan_not_zero():
    found = stats.win_rate([])
    assert math.isnan(found["value"])
    assert math.isnan(found["ci"][0])
    for value in (stats.ece([], []), stats.cohen_kappa([], []), stats.length_controlled_win_rate([], [])):
        assert math.isnan(value)


def test_length_control_removes_what_length_explains():
    rng = np.random.default_rng(0)
    delta = rng.normal(5, 5, 4000)
    shown = stats.sigmoid(0.4 + 2.0 * np.tanh(delta / delta.std()))
    wins = (rng.random(4000) < shown).astype(float)
    assert wins.mean() > 0.75
    assert stats.length_controlled_win_rate(wins, delta) == pytest.approx(stats.sigmoid(0.4), abs=0.04)


def test_length_control_comes_with_an_interval():
    found = stats.length_controlled([1.0, 0.0] * 50, [0.0] * 100)
    assert found["value"] == pytest.approx(0.5)
    assert found["ci"] == (pytest.approx(0.40, abs=0.03), pytest.approx(0.60, abs=0.03))
    assert math.isnan(stats.length_controlled([], [])["ci"][0])


def test_length_control_is_finite_and_fair():
    assert stats.length_controlled_win_rate([1.0] * 9, [0.0] * 9) == pytest.approx(0.95)  # (9 + ½)/(9 + 1)
    assert stats.length_controlled_win_rate([1, 1, 0, 0], [3, 2, -2, -3]) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-50, 50)), min_size=1, max_size=30))
def test_length_control_turns_round_with_the_pair(rows):
    p, delta = [row[0] for row in rows], [row[1] for row in rows]
    there = stats.length_controlled_win_rate(p, delta)
    back = stats.length_controlled_win_rate([1 - x for x in p], [-d for d in delta])
    assert there + back == pytest.approx(1.0, abs=1e-6)


@pytest.mark.skipif(DATA is None, reason="RLAIF_TEST_DATA is not set")
def test_published_agreement_of_pandalm_annotators():
    rows = json.loads((Path(str(DATA)) / "pandalm" / "testset-v1.json").read_text())
    votes = {i: [row[f"annotator{i}"] for row in rows] for i in (1, 2, 3)}
    kappas = [stats.cohen_kappa(votes[i], votes[j]) for i, j in ((1, 2), (1, 3), (2, 3))]
    assert kappas == pytest.approx([0.8520, 0.8789, 0.8617], abs=5e-5)
    raw = [stats.agreement(votes[i], votes[j]) for i, j in ((1, 2), (1, 3), (2, 3))]
    assert np.mean(raw) == pytest.approx(0.9199, abs=5e-5)
