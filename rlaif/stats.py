"""Statistics: intervals, agreement, calibration, win rates. Pure functions of numbers, seeded where they draw.

Probabilities and outcomes lie in [0, 1], intervals are (low, high), and what is undefined (no values, no variance)
is `nan`: never a made-up 0. Missing values are taken out by the caller, who counts them, except where None is named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlaif.records import TIE_MARGIN

Interval = tuple[float, float]
Array = NDArray[np.float64]
NAN = float("nan")


class WinRate(TypedDict):
    """A win rate over prompts: ties count half, unreadable verdicts not at all."""

    value: float
    ci: Interval
    ties: float
    invalid: float
    n: int


def mean(values: ArrayLike) -> float:
    """Arithmetic mean, nan of nothing."""
    array = np.asarray(values, float)
    return float(array.mean()) if array.size else NAN


def spread(values: ArrayLike) -> float:
    """Standard deviation of a whole population, nan of nothing."""
    array = np.asarray(values, float)
    return float(array.std()) if array.size else NAN


def wilson(k: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of a proportion k/n (Wilson 1927): sound at 0, at n and for small n; (0, 1) for n = 0."""
    if n <= 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (k * (n - k) / n + z2 / 4)) / (n + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(
    rows: ArrayLike,
    statistic: Callable[[Array], float],
    seed: int = 0,
    level: float = 0.95,
    draws: int = 500,
) -> Interval:
    """Percentile bootstrap interval of `statistic` over `rows` [n, …], each resampled whole: columns stay paired."""
    array = np.asarray(rows, float)
    rng = np.random.default_rng(seed)
    return quantiles(
        [
            statistic(array[rng.integers(len(array), size=len(array))])
            for _ in range(draws if len(array) else 0)
        ],
        level,
    )


def bootstrap_mean(
    values: ArrayLike,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """Percentile bootstrap interval of a mean; of a paired difference if the values are differences.

    With `groups` (one key a value, such as its prompt) whole groups are resampled: answers to one prompt are not
    independent of each other.
    """
    array = np.asarray(values, float)
    keys = range(len(array)) if groups is None else groups
    place = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    group = [place[key] for key in keys]
    sums, sizes = np.bincount(group, array, len(place)), np.bincount(group, minlength=len(place))
    rng = np.random.default_rng(seed)
    found: list[float] = []
    while place and len(found) < draws:
        block = min(draws - len(found), max(1, 1_000_000 // len(place)))  # bounded memory
        drawn = rng.integers(len(place), size=(block, len(place)))
        found += list(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return quantiles(found, level)


def quantiles(draws: Sequence[float], level: float) -> Interval:
    """The interval that holds the middle `level` of bootstrap draws; nan of none."""
    if not draws:
        return NAN, NAN
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def reliability(p: ArrayLike, y: ArrayLike, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean forecast, mean outcome, n) of each filled bin of equal width; outcomes may be soft."""
    forecast, outcome = np.asarray(p, float), np.asarray(y, float)
    where = np.minimum((forecast * bins).astype(int), bins - 1)
    return [(mean(forecast[where == b]), mean(outcome[where == b]), int((where == b).sum()))
            for b in range(bins) if (where == b).any()]  # fmt: skip


def ece(p: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None, bins: int = 10) -> float:
    """Expected calibration error over bins of equal width (Guo et al., arXiv 1706.04599, section 2)."""
    forecast, outcome = np.asarray(p, float), np.asarray(y, float)
    weight = np.ones_like(forecast) if weights is None else np.asarray(weights, float)
    if not weight.sum():
        return NAN
    where = np.minimum((forecast * bins).astype(int), bins - 1)
    gaps = np.bincount(where, weight * (forecast - outcome), bins)
    return float(np.abs(gaps).sum() / weight.sum())


def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + e^-x) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, float)))


def cross_entropy(logits: ArrayLike, targets: ArrayLike) -> float:
    """Mean binary cross-entropy of sigmoid(logits) against targets in [0, 1], in nats."""
    x, y = np.asarray(logits, float), np.asarray(targets, float)
    return mean(np.logaddexp(0.0, x) - y * x)


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """The T in [0.01, 100] that minimises the cross-entropy of sigmoid(logits / T) (arXiv 1706.04599, section 4.2)."""
    from scipy.optimize import minimize_scalar

    x, y = np.asarray(logits, float), np.asarray(targets, float)
    if not x.any():
        return NAN
    edge = math.log(100.0)
    # The loss is convex in 1/T, so there is one minimum; bounded search in log T finds it.
    found: Any = minimize_scalar(
        lambda t: cross_entropy(x / math.exp(t), y), bounds=(-edge, edge), method="bounded"
    )
    return float(math.exp(found.x))


def agreement(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> float:
    """Share of equal verdicts among the items both annotators judged (None = not judged)."""
    return mean([x == y for x, y in _both(a, b)])


def cohen_kappa(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> float:
    """Agreement of two annotators beyond chance: (observed − expected) / (1 − expected) (Cohen 1960)."""
    pairs = _both(a, b)
    left, right = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    expected = sum(left[key] * right[key] for key in left) / max(1, len(pairs)) ** 2
    return (agreement(a, b) - expected) / (1 - expected) if pairs and expected < 1 else NAN


def _both(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> list[tuple[Hashable, Hashable]]:
    return [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]


def outcomes(p: ArrayLike, tie_margin: float = TIE_MARGIN) -> Array:
    """Probabilities as wins: 1 above ½, 0 below, ½ (a tie) within `tie_margin` of it."""
    chance = np.asarray(p, float)
    return np.where(np.abs(chance - 0.5) <= tie_margin, 0.5, (chance > 0.5).astype(float))


def win_rate(
    p: Sequence[float | None], seed: int = 0, tie_margin: float = TIE_MARGIN, level: float = 0.95
) -> WinRate:
    """Win rate from one probability a prompt (None = unreadable), as `outcomes`, with a bootstrap over prompts.

    `ties` is the share of the readable verdicts, `invalid` the share of all, `n` the number of readable ones.
    """
    wins = outcomes([x for x in p if x is not None], tie_margin)
    return {
        "value": mean(wins),
        "ci": bootstrap_mean(wins, seed, level=level),
        "ties": mean(wins == 0.5),
        "invalid": 1 - len(wins) / len(p) if p else NAN,
        "n": len(wins),
    }


class Controlled(TypedDict):
    """A length-controlled win rate with its interval."""

    value: float
    ci: Interval


def length_controlled(wins: ArrayLike, length_difference: ArrayLike, seed: int = 0) -> Controlled:
    """`length_controlled_win_rate` with a bootstrap interval over prompts."""
    rows = np.stack([np.asarray(wins, float), np.asarray(length_difference, float)], 1)
    return {
        "value": length_controlled_win_rate(rows[:, 0], rows[:, 1]),
        "ci": bootstrap(rows, lambda r: length_controlled_win_rate(r[:, 0], r[:, 1]), seed),
    }


def length_controlled_win_rate(wins: ArrayLike, length_difference: ArrayLike) -> float:
    """The win rate expected between answers of equal length, from outcomes in [0, 1] and length differences.

    In the spirit of length-controlled AlpacaEval (arXiv 2404.04475, section 3): a logistic model of the outcome on
    θ + φ·tanh(Δ/sd Δ), read at Δ = 0; there is no term for an instruction's difficulty, since each is seen once. One
    tie between equal lengths and a standard normal prior on φ keep a separable set finite.
    """
    outcome, delta = np.asarray(wins, float), np.asarray(length_difference, float)
    if not outcome.size:
        return NAN
    spread = delta.std() or 1.0
    x = np.stack([np.ones(len(delta) + 1), np.append(np.tanh(delta / spread), 0.0)], 1)
    y, prior = np.append(outcome, 0.5), np.diag([0.0, 1.0])
    theta = np.zeros(2)
    for _ in range(50):  # damped Newton; the objective is strictly convex
        fitted = sigmoid(x @ theta)
        gradient = x.T @ (fitted - y) + prior @ theta
        step = np.linalg.solve((x.T * (fitted * (1 - fitted) + 1e-9)) @ x + prior, gradient)
        theta = theta - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return float(sigmoid(theta[0]))


def best_of_n(proxy: ArrayLike, gold: ArrayLike, n: int) -> float:
    """Unbiased estimate of E[gold of the best by proxy among n samples] from N ≥ n samples, proxy and gold [N].

    Σ_{i=n..N} C(i−1, n−1)/C(N, n)·gold_(i) over the samples sorted by proxy (arXiv 2112.09332, appendix I; arXiv
    2210.10760, section 2); samples of equal proxy share their gold. With gold = proxy it is the expected maximum.
    """
    scores, truth = np.asarray(proxy, float), np.asarray(gold, float)
    _, place, size = np.unique(scores, return_inverse=True, return_counts=True)
    shared = np.bincount(place, truth) / size
    ranked, total = np.sort(place), len(scores)
    weights = [math.comb(i, n - 1) / math.comb(total, n) for i in range(total)]
    return float(np.dot(weights, shared[ranked]))


def kl_best_of_n(n: int) -> float:
    """KL of best-of-n from the policy it samples, in nats: log n − (n − 1)/n (exact without ties, else a bound)."""
    return math.log(n) - (n - 1) / n


class Overoptimisation(TypedDict):
    """R(d) of d = √KL by Gao et al., and where it peaks (None where it never falls)."""

    alpha: float
    beta: float
    peak: float | None
    rmse: float


def fit_overoptimisation(d: ArrayLike, gain: ArrayLike, kind: str) -> Overoptimisation:
    """Least squares of Gao's forms to gold gains over the start, at distances d = √KL (arXiv 2210.10760, section 3.1).

    "bon": R(d) = d(α − βd), peak α/2β. "rl": R(d) = d(α − β·log d), peak exp(α/β − 1).
    """
    x, y = np.asarray(d, float), np.asarray(gain, float)
    x, y = x[x > 0], y[x > 0]
    design = np.stack([x, -x * (x if kind == "bon" else np.log(x))], 1)
    if np.linalg.matrix_rank(design) < 2:
        return {"alpha": NAN, "beta": NAN, "peak": None, "rmse": NAN}
    (alpha, beta), *_ = np.linalg.lstsq(design, y, rcond=None)
    peak = None
    if beta > 0:
        peak = alpha / (2 * beta) if kind == "bon" else math.exp(min(alpha / beta - 1, 700))
    error = float(np.sqrt(((design @ [alpha, beta] - y) ** 2).mean()))
    return {"alpha": float(alpha), "beta": float(beta), "peak": peak, "rmse": error}
