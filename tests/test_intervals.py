"""Intervals against scipy's, numbers worked by hand, exact properties and simulated truth."""

import importlib.util
import inspect
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from rlaif import equal_length, forecasts, intervals
from rlaif.intervals import ANY, GAP, POSITIVE, UNIT, mean_interval
from rlaif.metrics import METRICS
from rlaif.report.measures import arm_delta
from rlaif.workbench import sparse_fit

SOURCE = Path(__file__).parent.parent / "benchmarks" / "coverage.py"


def benchmark():
    sys.path.insert(0, str(SOURCE.parent))  # it imports its data from beside it
    spec = importlib.util.spec_from_file_location("coverage_benchmark", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(SOURCE.parent))
    return module


@pytest.mark.parametrize(("k", "n"), [(0, 10), (5, 5), (8, 10), (97, 100), (1, 1)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_a_rate_has_wilsons_interval(k, n, level):
    expected = binomtest(k, n).proportion_ci(level, method="wilson")
    assert mean_interval([1.0] * k + [0.0] * (n - k), level=level) == pytest.approx(
        (expected.low, expected.high)
    )


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.integers(0, 5)), min_size=1, max_size=30
    )
)
def test_an_interval_holds_the_mean_and_stays_within_its_bounds(rows):
    x, of = [row[0] for row in rows], [row[1] for row in rows]
    low, high = mean_interval(x, UNIT, of)
    assert 0 <= low <= np.mean(x) + 1e-12
    assert np.mean(x) - 1e-12 <= high <= 1
    turned = mean_interval([1 - value for value in x], UNIT, of)
    assert (1 - turned[1], 1 - turned[0]) == pytest.approx((low, high), abs=1e-9)


def test_five_of_five_wins_do_not_show_that_all_are_won():
    found = intervals.win_rate([0.9] * 5)
    assert found["value"] == 1.0
    assert found["ci"][0] == pytest.approx(0.5655, abs=1e-4)  # 5 / (5 + 1.96²)
    assert not found["different"]


def test_ties_alone_do_not_show_an_even_match_exactly():
    low, high = mean_interval([0.5] * 20)
    assert low == pytest.approx(1 - high)
    assert 0.3 < low < 0.45


def test_many_bounded_values_have_students_interval():
    x = np.random.default_rng(0).beta(30, 30, 4000)
    expected = ttest_1samp(x, 0).confidence_interval()
    assert mean_interval(x) == pytest.approx((expected.low, expected.high), abs=2e-5)
    numbers = np.random.default_rng(0).normal(0, 1, 4000)
    expected = ttest_1samp(numbers, 0).confidence_interval()
    assert mean_interval(numbers, ANY) == pytest.approx((expected.low, expected.high), abs=2e-4)


def test_values_of_one_cluster_count_once_where_they_are_alike():
    x, of = np.repeat([1.0, 0.0, 1.0, 1.0] * 10, 5), np.repeat(np.arange(40), 5)
    alone, apart, whole = mean_interval(x[::5]), mean_interval(x), mean_interval(x, UNIT, of.tolist())
    assert whole[1] - whole[0] == pytest.approx(alone[1] - alone[0], rel=0.1)
    assert (whole[1] - whole[0]) / (apart[1] - apart[0]) == pytest.approx(math.sqrt(5), rel=0.1)
    ones = mean_interval([1.0] * 20, UNIT, [i // 4 for i in range(20)])
    assert ones[0] == pytest.approx(mean_interval([1.0] * 5)[0])  # five groups, which may be alike


def test_values_that_are_all_the_same_have_no_spread_by_rounding():
    member = intervals.members(20, [n // 3 for n in range(20)])
    for value in (0.9, np.nextafter(0.9, 0.0), 0.75):
        assert intervals.dispersion(np.full(20, value), UNIT, member)[1] == math.inf


def test_heavy_tails_open_the_upper_end_and_too_few_numbers_have_no_interval():
    low, high = mean_interval([0.1] * 18 + [20.0, 45.0], POSITIVE)
    assert low > 0
    assert math.isinf(high)
    assert math.isnan(mean_interval(list(range(19)), ANY)[0])
    assert not math.isnan(mean_interval(list(range(20)), ANY)[0])
    assert math.isnan(mean_interval([0.0] * 100, POSITIVE)[0])  # no spread was seen
    assert math.isnan(mean_interval([], POSITIVE)[0])
    assert mean_interval([]) == UNIT
    estimates = [-0.1, *np.linspace(0, 2, 30)]  # of what is positive, and not always positive themselves
    assert mean_interval(estimates, POSITIVE) == mean_interval(estimates, ANY)


@pytest.mark.parametrize(("up", "down"), [(4, 0), (5, 0), (6, 0), (5, 1), (9, 2), (3, 3), (0, 0)])
def test_the_sign_test_is_mcnemars(up, down):
    expected = binomtest(up, up + down).pvalue if up + down else 1.0
    assert intervals.sign_flip([1] * up + [-1] * down + [0] * 30) == pytest.approx(expected)


def test_four_prompts_against_none_are_not_different():
    for up, shown in ((4, False), (5, False), (6, True)):
        gaps = [1.0] * up + [0.0] * 60
        ci = mean_interval(gaps, GAP)
        assert intervals.shown(gaps, ci) == shown
    assert not intervals.shown([1.0] * 6 + [0.0] * 60, ci, [0, 0, 1, 1, 2, 2, *range(3, 63)])  # three groups
    assert not intervals.shown([1.0] * 19, (0.5, 1.0))


def test_seeds_widen_an_interval_by_students_t():
    gaps = [0.1, 0.2, 0.4]
    expected = ttest_1samp(gaps, 0).confidence_interval()
    middle = float(np.mean(gaps))
    assert intervals.with_seed_variance(middle, (middle, middle), gaps) == pytest.approx(
        (expected.low, expected.high)
    )
    assert intervals.with_seed_variance(0.5, (0.4, 0.6), [0.5]) == (0.4, 0.6)


def test_differences_of_matched_pairs_have_tangos_interval():
    for up, down, n in ((3, 1, 20), (0, 0, 20), (9, 2, 40), (5, 0, 7)):
        low, high = mean_interval([1.0] * up + [-1.0] * down + [0.0] * (n - up - down), GAP)
        for edge in (low, high):
            # The shares by brute force, of all that have this mean: the likeliest, and the score at their
            # variance.
            losses = np.linspace(max(0.0, -edge), (1 - edge) / 2, 200_001)[1:-1]
            wins = losses + edge
            log = down * np.log(losses) + up * np.log(wins) + (n - up - down) * np.log(1 - wins - losses)
            q = losses[log.argmax()]
            z = (edge - (up - down) / n) / math.sqrt((2 * q + edge - edge**2) / n)
            assert abs(z) == pytest.approx(1.959964, abs=2e-3)
    wins = mean_interval([1.0] * 3 + [0.5] * 16 + [0.0], UNIT)  # the same, counted as a win rate
    gaps = mean_interval([1.0] * 3 + [0.0] * 16 + [-1.0], GAP)
    assert wins == pytest.approx([0.5 + edge / 2 for edge in gaps])


def test_differences_of_probabilities_have_more_degrees_of_freedom_where_few_differ_and_equally():
    def freedom(*differ):
        return intervals.dispersion(np.r_[differ, [0.0] * 15], GAP, np.arange(20))[1]

    x = np.r_[0.8, 0.9, 0.8, 0.9, -0.8, [0.0] * 15]
    each = 1 - x.mean() ** 2 - 2 * x.mean() * (x - x.mean())  # of independent values with these bounds
    plain = intervals.degrees_of_freedom(x - x.mean(), each / each.mean())
    equal = (4.2 / 5) ** 2 / (sum(x**2) / 5)
    assert freedom(*x[:5]) == pytest.approx(plain / (1 - 0.75 * equal**3))
    assert freedom(*x[:5]) > 3 * plain


def test_skewed_positive_numbers_need_25_times_their_squared_skewness_for_an_upper_end():
    x = np.r_[np.linspace(1, 3, 60), 10.0]
    assert scipy.stats.skew(x) ** 2 * 25 > 61
    low, high = mean_interval(x, POSITIVE)
    assert 1 < low < x.mean()
    assert math.isinf(high)
    assert math.isfinite(mean_interval(np.linspace(1, 3, 60), POSITIVE)[1])


def test_the_mean_of_positive_numbers_lies_t_standard_errors_from_the_lower_end():
    x = np.r_[np.linspace(0.1, 2, 40), 9.0]
    low, m, error = mean_interval(x, POSITIVE)[0], x.mean(), x.std(ddof=1) / math.sqrt(len(x))
    freedom = 1.5 * intervals.degrees_of_freedom(x - m, 1 + 3 * (x - m) / m)
    t = (m - low) / error / (low / m) ** 1.5  # the standard error at μ is that of the sample times (μ/m)^1.5
    assert scipy.stats.t.cdf(t, freedom) == pytest.approx(0.975)


def test_the_skewness_of_positive_numbers_is_at_least_twice_their_coefficient_of_variation():
    x = np.r_[[0.1] * 30, [2.0] * 30]  # not skewed; 25 times the square of twice 0.91 is 83
    assert math.isinf(mean_interval(x, POSITIVE)[1])
    assert math.isfinite(mean_interval(np.r_[x, x], POSITIVE)[1])


def test_probabilities_alike_leave_no_room_for_unseen_ones_and_very_unequal_ones_do():
    alike = np.linspace(0.7, 0.9, 20)
    student = ttest_1samp(alike, 0).confidence_interval()
    low, high = mean_interval(alike)
    assert high - low == pytest.approx(student.high - student.low, rel=0.05)
    sure = 1 - np.geomspace(1e-5, 0.2, 50)  # as of a judge who would be at 0 for few prompts
    student = ttest_1samp(sure, 0).confidence_interval()
    assert sure.mean() - mean_interval(sure)[0] > 1.5 * (sure.mean() - student.low)


def test_two_seeds_against_one_need_50_prompts():
    def edges(groups, *arms):
        return intervals.with_seed_variance(0.5, (0.4, 0.6), *arms, chance=0.5, groups=groups)

    assert math.isnan(edges(49, [0.5, 0.6], [0.1])[0])
    assert math.isfinite(edges(50, [0.5, 0.6], [0.1])[0])
    assert math.isfinite(edges(20, [0.5, 0.6], [0.1, 0.2])[0])
    assert edges(20, [0.5], [0.1]) == (0.4, 0.6)


def test_kappa_has_no_interval_where_chance_makes_nearly_all_agree():
    a = ["a"] * 36 + ["b"] * 4
    for n, known in ((40, False), (80, True)):  # by chance 1 − (0.9² + 0.1²) = 0.18 of them disagree
        found = forecasts.kappa_interval(a * (n // 40), a * (n // 40))
        assert found["kappa"] == pytest.approx(1.0)
        assert math.isfinite(found["kappa_ci"][0]) == known


def test_a_difference_in_kl_has_no_interval():
    gap = next(metric.gap for metric in METRICS if metric.key == "kl")
    after = {str(i): 2.0 + i % 3 for i in range(400)}
    found = arm_delta([after], [dict.fromkeys(after, 1.0)], {}, bounds=gap)
    assert (found["value"], found["n"]) == (pytest.approx(2.0, abs=0.01), 400)
    assert math.isnan(found["ci"][0])
    assert not found["different"]


def test_skewed_numbers_without_bounds_need_25_times_their_squared_skewness():
    x = np.r_[np.linspace(-1, 1, 60), 8.0]
    assert scipy.stats.skew(x) ** 2 * 25 > 61
    assert math.isnan(mean_interval(x, ANY)[0])
    assert not math.isnan(mean_interval(np.linspace(-1, 1, 60) ** 3, ANY)[0])


def test_the_chance_of_seeds_with_prompts_is_the_interaction_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 1)) + rng.normal(size=40) + rng.normal(size=(3, 40))
    rows, columns, grand = x.mean(1, keepdims=True), x.mean(0), x.mean()
    interaction = ((x - rows - columns + grand) ** 2).sum() / (2 * 39)  # its mean square
    prompts = 3 * ((columns - grand) ** 2).sum() / 39
    assert intervals.seed_chance(x) == pytest.approx(interaction / prompts)
    assert intervals.seed_chance(x[:1]) == 0.0  # one seed tells nothing of it
    same = np.repeat(rng.normal(size=(1, 40)), 3, 0)
    assert intervals.seed_chance(same) == pytest.approx(0.0, abs=1e-12)
    # Chance alone: all of the prompts' variance is of seeds with prompts, and counts once.
    _, high = intervals.with_seed_variance(0.5, (0.4, 0.6), [0.5, 0.6], chance=1.0)
    assert high - 0.5 == pytest.approx(
        scipy.stats.t.ppf(0.975, 1) * np.std([0.5, 0.6], ddof=1) / math.sqrt(2)
    )


def test_kappa_has_the_variance_of_fleiss_cohen_and_everitt():
    rng = np.random.default_rng(0)
    a = rng.choice(list("xyz"), 4000, p=[0.5, 0.3, 0.2])
    b = np.where(rng.random(4000) < 0.4, a, rng.choice(list("xyz"), 4000))
    table = np.array([[((a == i) & (b == j)).mean() for j in "xyz"] for i in "xyz"])
    left, right = table.sum(1), table.sum(0)
    agreed, chance = np.trace(table), left @ right
    kappa = (agreed - chance) / (1 - chance)
    diagonal = sum(table[i, i] * (1 - (left[i] + right[i]) * (1 - kappa)) ** 2 for i in range(3))
    others = (1 - kappa) ** 2 * sum(
        table[i, j] * (right[i] + left[j]) ** 2 for i in range(3) for j in range(3) if i != j
    )
    error = math.sqrt((diagonal + others - (kappa - chance * (1 - kappa)) ** 2) / 4000) / (1 - chance)
    found = forecasts.kappa_interval(a.tolist(), b.tolist())
    assert found["kappa"] == pytest.approx(kappa)
    assert found["kappa_ci"] == pytest.approx((kappa - 1.96 * error, kappa + 1.96 * error), abs=5e-4)
    twice = forecasts.kappa_interval([*a, *a], [*b, *b], [*range(4000), *range(4000)])
    assert twice["kappa_ci"] == pytest.approx(found["kappa_ci"], abs=1e-5)  # each item twice tells no more


def test_kappa_where_all_agree_and_where_few_are_asked():
    low, high = forecasts.kappa_interval(list("ab") * 20, list("ab") * 20)["kappa_ci"]
    assert 0.7 < low < 0.9
    assert high == 1.0
    assert math.isnan(forecasts.kappa_interval(list("ab") * 9, list("ab") * 9)["kappa_ci"][0])
    assert math.isnan(
        forecasts.kappa_interval(["a"] * 30, ["a"] * 30)["kappa_ci"][0]
    )  # chance explains it all


def test_win_rate_counts_ties_half_and_leaves_the_unreadable_out():
    found = intervals.win_rate([0.9, 0.9, 0.2, 0.52, None], ["x", "x", "y", "z", "w"])
    assert found["value"] == pytest.approx(2.5 / 4)
    assert (found["ties"], found["invalid"], found["n"], found["groups"]) == (0.25, pytest.approx(0.2), 4, 3)
    assert found["ci"][0] < 0.625 < found["ci"][1]
    nothing = intervals.win_rate([])
    assert math.isnan(nothing["value"])
    assert math.isnan(nothing["ci"][0])


def test_length_control_removes_what_length_explains():
    rng = np.random.default_rng(0)
    delta = rng.normal(5, 5, 4000)
    shown = 1 / (1 + np.exp(-0.4 - 2.0 * np.tanh(delta / delta.std())))
    wins = (rng.random(4000) < shown).astype(float)
    assert wins.mean() > 0.75
    found = equal_length.length_controlled(wins, delta)
    assert found["value"] == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.03)
    assert found["ci"][0] < 1 / (1 + math.exp(-0.4)) < found["ci"][1]


def test_length_control_removes_what_rises_in_proportion_to_length():
    delta = np.random.default_rng(1).normal(10, 10, 20_000)
    chances = 1 / (1 + np.exp(-1.0 - 2.0 * delta / delta.std()))
    wins = (np.random.default_rng(2).random(20_000) < chances).astype(float)
    # By the curve that levels off alone it would be 0.747.
    assert equal_length.length_controlled(wins, delta)["value"] == pytest.approx(0.731, abs=0.006)


def test_length_control_by_hand():
    found = equal_length.length_controlled([1.0, 0.0] * 50, [0.0] * 100)
    assert found["value"] == pytest.approx(0.5)
    k = 1.959964**2 / 101  # Wilson's interval of the 100 outcomes and the added tie
    assert found["ci"] == pytest.approx(intervals.score_edges(0.5, UNIT, k), abs=1e-6)
    wins = equal_length.length_controlled([1.0] * 19, [0.0] * 19)
    assert wins["value"] == pytest.approx(0.975)  # (19 + ½)/(19 + 1)
    ties = equal_length.length_controlled([1.0] * 15 + [0.0] * 15 + [0.5] * 30, [2.0, -2.0] * 30)
    assert ties["value"] == pytest.approx(0.5, abs=1e-6)
    alone = equal_length.length_controlled([1.0] * 15 + [0.0] * 15, [2.0, -2.0] * 15)
    assert ties["ci"] == pytest.approx([0.25 + edge / 2 for edge in alone["ci"]])  # half of them are ties


def test_length_control_holds_what_the_score_test_does_not_reject():
    rng = np.random.default_rng(3)
    delta = rng.normal(2, 5, 60)
    wins = (rng.random(60) < 1 / (1 + np.exp(-delta / 5))).astype(float)
    low, high = equal_length.length_controlled(wins, delta)["ci"]
    whole = equal_length.length_controlled(np.r_[wins, wins], np.r_[delta, delta])["ci"]
    assert 0 < low < 0.5 < high < 1
    assert (whole[1] - whole[0]) / (high - low) == pytest.approx(math.sqrt(0.5), rel=0.05)
    won = equal_length.length_controlled([1.0] * 40, [1.0, -1.0] * 20)  # nothing tells how high it is
    assert won["value"] > 0.9
    assert won["ci"][0] > 0.8
    assert won["ci"][1] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "delta", [list(range(15, 45)), [-5.0] * 9 + [5.0] * 21, [*range(10, 160), *([-1] * 14)]]
)
def test_without_overlap_in_length_nothing_is_told(delta):
    found = equal_length.length_controlled([1.0] * len(delta), delta)
    assert math.isnan(found["value"])
    assert "needed" in found["reason"]


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-50, 50)), min_size=20, max_size=60))
def test_length_control_turns_round_with_the_pair(rows):
    wins, delta = [row[0] for row in rows], [row[1] for row in rows]
    there = equal_length.length_controlled(wins, delta)
    back = equal_length.length_controlled([1 - x for x in wins], [-d for d in delta])
    assert (there["reason"] is None) == (back["reason"] is None)
    if there["reason"] is None:
        assert there["value"] + back["value"] == pytest.approx(1.0, abs=1e-6)
        assert there["ci"][0] + back["ci"][1] == pytest.approx(1.0, abs=1e-6)


def test_a_perfect_forecaster_has_an_error_and_its_floor_says_how_large():
    rng = np.random.default_rng(1)
    p = rng.random(50)
    found = [forecasts.calibration_error(p, (rng.random(50) < p).astype(float)) for _ in range(200)]
    assert np.mean([one["ece"] for one in found]) == pytest.approx(found[0]["ece_floor"], rel=0.06)
    assert found[0]["ece_floor"] > 0.1


def test_a_forecaster_who_is_off_is_shown_to_be():
    p = np.full(400, 0.9)
    found = forecasts.calibration_error(p, (np.arange(400) % 10 < 6).astype(float))
    assert found["ece"] == pytest.approx(0.3)
    three = forecasts.calibration_error(
        p, (np.arange(400) % 10 < 6).astype(float), [i // 40 for i in range(400)]
    )
    assert three["ece_floor"] < found["ece_floor"]  # every group holds six of ten: they vary less than chance
    assert math.isnan(forecasts.calibration_error([], [])["ece"])


def printed():
    """The functions that return an interval, by their annotations."""
    kinds = ("Interval", "WinRate", "Controlled", "Kappa")
    return {
        name
        for module in (intervals, forecasts, equal_length, sparse_fit)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and name != "clip_interval"  # cuts one at the bounds of a figure
        and function.__annotations__["return"] in kinds
    }


def test_the_coverage_benchmark_holds_every_function_that_returns_an_interval():
    assert printed() == {case.function for case in benchmark().CASES}
    assert len(printed()) > 3


def test_no_other_interval_is_computed_elsewhere():
    measured = ("intervals.py", "forecasts.py", "equal_length.py", "sparse_fit.py", "coverage_cases.py")
    measured += ("coefficients.py", "prediction_powered.py", "agreement_cases.py")
    measured += ("bradley_terry.py", "comparing.py")  # in docs/results/comparing.md
    for path in [*SOURCE.parent.parent.glob("rlaif/**/*.py"), *SOURCE.parent.glob("*.py")]:
        if path.name not in measured:
            text = path.read_text()
            for word in ("1.96", "quantile(", "wilson", "bootstrap_", "t.ppf"):
                assert word not in text, f"{path.name}: {word}"


@pytest.mark.parametrize(("rate", "draws"), [(0.95, 2000), (0.97, 8000), (0.93, 8000), (0.8, 2000)])
def test_coverage_near_a_limit_of_the_aim_is_measured_with_more_draws(rate, draws):
    module = benchmark()
    case = module.Case("", "", lambda rng, n: ((0.0, float(rng.random() < rate)), 1.0, 0.5))
    found = module.measure(case, 20, 2000, most=8000)
    assert found["draws"] == draws
    assert found["coverage"] == pytest.approx(rate, abs=0.02)
    assert found["missed"] == pytest.approx(1 - found["coverage"])


@pytest.mark.slow
def test_intervals_cover_the_truth():
    module, wrong = benchmark(), []
    for case in module.CASES:
        for n in (5, 20, 100):
            if n < case.least or "none in the sample" in case.data:  # it says nothing of the rare value
                continue
            found = module.measure(case, n, 300, seed=1)
            if found["coverage"] is None or found["not_printed"] > 0.9:
                continue
            # No rule keeps the coverage of those printed where tails are heavy, only the share of all that
            # miss.
            covered = 1 - found["missed"] if case.heavy else found["coverage"]
            rare = "2 of 620" in case.data or "shares 0.8" in case.data
            least = 0.80 if rare else 0.87 if n < 20 else 0.88
            if covered < least or (case.function == "length_controlled" and abs(found["bias"]) > 0.03):
                wrong.append(found)
    assert not wrong, wrong
