"""Statistics against numbers worked by hand, published answers and exact properties."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from rlaif import stats

DATA = os.environ.get("RLAIF_TEST_DATA")


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


def test_a_sum_is_known_where_all_its_values_are():
    assert stats.sum_known([1, 2.5]) == 3.5
    assert stats.sum_known([1, None]) is None
    assert stats.sum_known([]) == 0


def test_nothing_measured_is_nan_not_zero():
    for value in (stats.ece([], []), stats.cohen_kappa([], [])):
        assert math.isnan(value)


@pytest.mark.skipif(DATA is None, reason="RLAIF_TEST_DATA is not set")
def test_published_agreement_of_pandalm_annotators():
    rows = json.loads((Path(str(DATA)) / "pandalm" / "testset-v1.json").read_text())
    votes = {i: [row[f"annotator{i}"] for row in rows] for i in (1, 2, 3)}
    kappas = [stats.cohen_kappa(votes[i], votes[j]) for i, j in ((1, 2), (1, 3), (2, 3))]
    assert kappas == pytest.approx([0.8520, 0.8789, 0.8617], abs=5e-5)
    raw = [stats.agreement(votes[i], votes[j]) for i, j in ((1, 2), (1, 3), (2, 3))]
    assert np.mean(raw) == pytest.approx(0.9199, abs=5e-5)
