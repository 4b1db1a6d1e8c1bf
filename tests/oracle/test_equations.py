"""The project's intervals against the same equations solved by scipy, on samples that the oracles' runs do
not hold."""

import math
from typing import Any

import numpy as np
import pytest

from rlaif import equal_length, forecasts, intervals
from tests.oracle import equations
from tests.oracle.leaves import close

SEEDS = range(25)
BOUNDS = {"rate": (0.0, 1.0), "gap": (-1.0, 1.0), "positive": (0.0, math.inf), "any": (-math.inf, math.inf)}


def sample(seed: int, kind: str) -> tuple[list[float], list[Any]]:
    """Values within bounds, of clusters of unequal size, or each its own: 0/1, soft, nearly all the same,
    heavy-tailed."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 5, 20, 45, 120]))
    keys = list(range(n)) if seed % 3 == 0 else [int(k) for k in rng.integers(0, max(1, n // 3), n)]
    hard = (rng.random(n) < rng.choice([0.1, 0.5, 0.98])).astype(float)
    soft = np.where(rng.random(n) < 0.3, rng.random(n), hard)
    values = {
        "rate": hard if seed % 2 else soft,
        "gap": hard - (rng.random(n) < 0.3) if seed % 2 else soft - rng.random(n),
        "positive": np.round(rng.lognormal(1, 1.2 if seed % 2 else 0.3, n), 1 if seed % 4 else 6),
        "any": rng.standard_t(3, n) + (np.array(keys) % 3 if seed % 2 else 0),
    }[kind]
    return [float(x) for x in values], keys


@pytest.mark.parametrize("kind", BOUNDS)
def test_intervals_of_means(kind: str) -> None:
    known = 0
    for seed in SEEDS:
        (values, keys), bounds = sample(seed, kind), BOUNDS[kind]
        for level in (0.95, 0.9875):
            printed = intervals.mean_interval(values, bounds, keys, level)
            computed = equations.interval(values, keys, *bounds, level)
            assert close(printed, computed, 1e-6), f"seed {seed}: {printed} {computed} of {values} {keys}"
            known += math.isfinite(printed[0])
    assert known > len(SEEDS) / 2


def test_win_rates_and_differences() -> None:
    for seed in SEEDS:
        values, keys = sample(seed, "rate")
        chances = [None if at % 7 == 6 else x for at, x in enumerate(values)]
        printed, computed = intervals.win_rate(chances, keys), equations.win_rate(chances, keys)
        assert printed.keys() == computed.keys()
        wrong = [name for name, value in printed.items() if not close(value, computed[name], 1e-6)]
        assert not wrong, f"seed {seed}: {wrong} {printed} {computed}"


def test_win_rates_at_equal_length() -> None:
    known = 0
    for seed in SEEDS:
        values, keys = sample(seed, "rate")
        rng = np.random.default_rng(seed)
        wins = [equations.outcome(x) for x in values]
        longer = [float(x) for x in np.round(rng.normal(3 * np.array(wins) - 1, 4))]
        printed = equal_length.length_controlled(wins, longer, keys)
        computed = equations.at_equal_length(wins, longer, keys)
        assert close(printed["value"], computed["value"], 1e-4), f"seed {seed}: {printed} {computed}"
        assert close(printed["ci"], computed["ci"], 1e-4), f"seed {seed}: {printed} {computed}"
        known += printed["reason"] is None
    assert known > 3


def test_calibration_errors() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.choice([8, 40, 200]))
        p = rng.beta(2, 2, n)
        y = (rng.random(n) < np.clip(p + 0.2 * (seed % 3), 0, 1)).astype(float)
        y = y if seed % 2 else 0.8 * y + 0.1
        keys = list(range(n)) if seed % 4 == 0 else [at // 3 for at in range(n)]
        printed, computed = (
            forecasts.calibration_error(p, y, keys),
            equations.calibration(list(p), list(y), keys),
        )
        for name, tolerance in (("ece", 1e-9), ("ece_floor", 1e-6)):
            assert close(dict(printed)[name], computed[name], tolerance), (
                f"seed {seed}: {name} {printed} {computed}"
            )


def test_kappas() -> None:
    known = 0
    for seed in SEEDS:
        values, keys = sample(seed, "rate")
        rng = np.random.default_rng(seed)
        a = [equations.outcome(x) for x in values]
        b = [x if rng.random() < 0.6 else float(rng.choice([0.0, 0.5, 1.0])) for x in a]
        printed, computed = forecasts.kappa_interval(a, b, keys), equations.kappa_interval(a, b, keys)
        assert close(printed["kappa_ci"], computed, 1e-4), f"seed {seed}: {printed} {computed}"
        known += math.isfinite(computed[0])
    assert known > 5


def test_seeds_beside_prompts() -> None:
    """Half-widths over prompts and over seeds joined as independent errors, seeds' by a pooled variance."""
    arms = [[0.5, 0.6, 0.55], [0.4, 0.48]]
    value = np.mean(arms[0]) - np.mean(arms[1])
    squares = sum(((np.array(arm) - np.mean(arm)) ** 2).sum() for arm in arms)
    half = equations.two_sided(3, 0.95) * math.sqrt(squares / 3 * (1 / 3 + 1 / 2))
    computed = value - math.hypot(0.05, half), value + math.hypot(0.08, half)
    printed = intervals.with_seed_variance(value, (value - 0.05, value + 0.08), *arms)
    assert close(printed, computed, 1e-9)
