"""Best-of-n by its unbiased estimator, and Gao's forms fitted: against enumeration and against known
curves."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.stats import best_of_n, fit_overoptimisation, kl_best_of_n


def enumerated(proxy, gold, n):
    """The mean over all subsets of n; where several are best, the mean of their gold."""
    found = []
    for subset in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        winners = [gold[i] for i in subset if proxy[i] == top]
        found.append(sum(winners) / len(winners))
    return sum(found) / len(found)


def test_by_hand():
    proxy, gold = [3.0, 1.0, 2.0], [0.0, 1.0, 0.5]
    assert best_of_n(proxy, gold, 1) == pytest.approx(0.5)
    assert best_of_n(proxy, gold, 2) == pytest.approx((0.0 + 0.0 + 0.5) / 3)
    assert best_of_n(proxy, gold, 3) == 0.0


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.floats(-5, 5)), min_size=2, max_size=7, unique_by=lambda r: r[0]
    ),
    st.data(),
)
def test_it_is_the_mean_over_all_subsets(rows, data):
    proxy, gold = [float(p) for p, _ in rows], [g for _, g in rows]
    n = data.draw(st.integers(1, len(rows)))
    assert best_of_n(proxy, gold, n) == pytest.approx(enumerated(proxy, gold, n), abs=1e-9)


def test_samples_of_equal_proxy_share_their_gold():
    assert best_of_n([1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0], 3) == 0.5
    assert best_of_n([2.0, 1.0, 2.0], [1.0, 9.0, 0.0], 3) == 0.5


def test_its_divergence():
    assert kl_best_of_n(1) == 0
    assert kl_best_of_n(16) == pytest.approx(math.log(16) - 15 / 16)


@pytest.mark.parametrize("kind", ["bon", "rl"])
def test_gaos_forms_are_found_again(kind):
    d = np.linspace(0.1, 6, 30)
    gain = d * (1.2 - 0.2 * d) if kind == "bon" else d * (1.0 - 0.5 * np.log(d))
    found = fit_overoptimisation(d, gain, kind)
    alpha, beta = (1.2, 0.2) if kind == "bon" else (1.0, 0.5)
    assert (found["alpha"], found["beta"]) == (pytest.approx(alpha), pytest.approx(beta))
    assert found["peak"] == pytest.approx(3.0 if kind == "bon" else math.e)
    assert found["rmse"] < 1e-9


def test_a_curve_that_never_falls_has_no_peak_and_one_point_no_fit():
    d = np.linspace(0.1, 2, 9)
    assert fit_overoptimisation(d, d * (0.5 + 0.1 * d), "bon")["peak"] is None
    assert math.isnan(fit_overoptimisation([0.0, 1.0], [0.0, 1.0], "rl")["alpha"])
