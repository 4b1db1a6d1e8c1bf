"""Intervals of everything that is printed: means and rates, differences, win rates, win rates at equal length, ECE.

All are 95 % unless told otherwise, cover the choice of prompts, and take whole clusters of them (`clusters`, one key a
value) as independent: an answer's own prompt, or the group of prompts that ask the same. Where nothing can be said an
edge is open (`inf`) or `nan`. How often each covers the truth is measured by benchmarks/coverage.py and printed in
docs/results/coverage.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlaif.records import TIE_MARGIN
from rlaif.stats import ece, mean, outcomes, sigmoid

Interval = tuple[float, float]
Array = NDArray[np.float64]
Clusters = Sequence[Hashable] | None
NAN = float("nan")
UNIT: Interval = (0.0, 1.0)  # bounds of a rate
GAP: Interval = (-1.0, 1.0)  # bounds of a difference of two rates
POSITIVE: Interval = (0.0, math.inf)  # lengths, divergences
ANY: Interval = (-math.inf, math.inf)
FEW_GROUPS = 30  # clusters of several values below which a calibration error gets no interval
ROUNDING = 1e-12  # of a dispersion
LEAST = 20  # clusters below which values that nothing bounds get no interval


def by_cluster(member: NDArray[np.intp], values: Array) -> Array:
    """The sum of each cluster's values."""
    return np.bincount(member, values).astype(float)


def members(n: int, clusters: Clusters) -> NDArray[np.intp]:
    """The number of each value's cluster, counted from 0; every value is its own where there are none."""
    keys = range(n) if clusters is None else clusters
    place = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    return np.array([place[key] for key in keys], np.intp)


def count(n: int, clusters: Clusters) -> int:
    """How many clusters there are."""
    return n if clusters is None else len(set(clusters))


def known_edges(ci: Interval) -> list[float | None]:
    """An interval for a JSON file: None where an edge is open or cannot be told."""
    return [edge if math.isfinite(edge) else None for edge in ci]


def quantile(freedom: float, level: float) -> float:
    """The two-sided quantile of Student's t, of the normal distribution for infinite degrees of freedom."""
    from scipy.special import stdtrit

    return (
        NormalDist().inv_cdf(0.5 + level / 2)
        if math.isinf(freedom)
        else float(stdtrit(freedom, 0.5 + level / 2))
    )


def mean_interval(
    values: ArrayLike, bounds: Interval = UNIT, clusters: Clusters = None, level: float = 0.95
) -> Interval:
    """Interval of the mean of values [n] that lie within `bounds`, one bound or both of which may be infinite.

    A score interval: the means μ from which the sample lies no further than t standard errors, these taken at μ and not
    at the sample, with the variance a multiple (the dispersion) of a function V of μ. (McCullagh and Nelder, Generalized
    Linear Models, 1989, chapter 9; for clusters Rao and Scott, Biometrics 48, 1992.)

        bounds     V(μ)               of 0/1 values
        both       (μ − low)(high − μ)   Wilson's interval (1927)
        low only   (μ − low)³            skewed as the inverse Gaussian is; the upper end may be open
        none       constant              with Hall's correction for skewness (JRSS B 54, 1992)

    t has Satterthwaite's degrees of freedom for the dispersion, which 0/1 values need not estimate.
    """
    x = np.asarray(values, float)
    low, high = bounds
    member = members(len(x), clusters)
    groups = int(member.max()) + 1 if len(x) else 0
    if len(x) == 0 or (groups < 2 and math.isinf(high)) or not np.isfinite(x).all():
        return (NAN, NAN) if math.isinf(high) or len(x) else bounds
    if math.isinf(high) and x.min() < low:  # an estimate of what is positive need not be so itself
        low = -math.inf
    if math.isfinite(high):
        spread, freedom = dispersion(x, bounds, member)
        return _bounded(float(x.mean()), bounds, quantile(freedom, level) ** 2 * spread / len(x))
    off = np.abs(x - np.median(x))
    if not off.any() or (math.isinf(low) and (groups < LEAST or _shares(off) < 4)):
        return NAN, NAN
    sums = by_cluster(member, x - x.mean())
    error = math.sqrt((sums**2).sum() * groups / (groups - 1)) / len(x)
    slope = 0.0 if math.isinf(low) else 3 / (x.mean() - low)
    t = quantile(_freedom(sums, len(x), slope), level)
    if math.isinf(low):
        return _skewed(float(x.mean()), error, sums, t)
    below, above = _cubic((t * error / (x.mean() - low)) ** 2)
    return float(low + (x.mean() - low) * below), float(low + (x.mean() - low) * above)


def dispersion(x: Array, bounds: Interval, member: NDArray[np.intp]) -> tuple[float, float]:
    """The variance of n·mean relative to that of independent values at the bounds, and its degrees of freedom.

    1 for independent 0/1 values, less for values between the bounds, more for clusters that are alike. A sample without
    rare values says nothing of their rate: the closer all values lie to one bound, the nearer the dispersion is put to
    that of whole clusters at the bounds, and up to four values of a far bound are thought added where all are the same.
    """
    low, high = bounds
    n, groups, m = len(x), int(member.max()) + 1, float(x.mean())
    alike = float((np.bincount(member) ** 2).sum()) / n
    at_bounds = bool(np.isin(x, bounds).all())
    if at_bounds and groups == n:
        return 1.0, math.inf
    if groups < 2:
        return alike, 1.0
    scale = (m - low) * (high - m)
    sums = by_cluster(member, x - m)
    found = float((sums**2).sum()) / n * groups / (groups - 1) / scale if scale > 0 else 0.0
    found = (
        found if found > ROUNDING else 0.0
    )  # values that are all the same differ by nothing, not by their last bits
    freedom = _freedom(sums, n, 1 / (m - low) - 1 / (high - m)) if found > 0 else math.inf
    # Rare values not seen yet: by what all values together lack to the near bound, and by how many share in that.
    unseen = max(
        math.exp(-float(lacking.sum()) / (high - low) * groups / n - _shares(lacking) / 10)
        for lacking in (by_cluster(member, high - x), by_cluster(member, x - low))
    )
    found += max(0.0, alike - found) * unseen
    if not at_bounds:
        off = by_cluster(member, np.abs(x - np.median(x)))
        found += 4 * math.exp(-_shares(off)) * alike / n * max(0.0, 1 - found)
    return found, freedom


def _shares(amounts: Array) -> float:
    """How many of the non-negative amounts make up their sum: n where all are the same, 1 where one is all."""
    return float(amounts.sum() ** 2 / (amounts**2).sum()) if amounts.any() else 0.0


def _freedom(sums: Array, n: int, slope: float) -> float:
    """Degrees of freedom of a dispersion: by the variance of its logarithm, to which each cluster adds its influence.

    `sums` are the clusters' residuals, `slope` the derivative of log V at the mean.
    """
    groups = len(sums)
    influence = sums**2 / (sums**2).mean() - 1 - slope * sums * groups / n
    share = (
        float((influence**2).mean()) / 2 * (groups + 1) / max(groups - 2, 0.5)
    )  # unbiased for normal values
    return (groups - 1) / share if share > 1e-9 else math.inf


def _bounded(m: float, bounds: Interval, k: float) -> Interval:
    """The μ with (m − μ)² ≤ k (μ − low)(high − μ)."""
    low, high = bounds
    half_b, c = m + k * (low + high) / 2, m * m + k * low * high
    root = math.sqrt(max(0.0, half_b**2 - (1 + k) * c))
    return max(low, min(m, (half_b - root) / (1 + k))), min(high, max(m, (half_b + root) / (1 + k)))


def _cubic(k: float) -> Interval:
    """The r around 1 with (1 − r)² ≤ k r³; open above where no r is large enough."""
    roots = np.roots([k, -1.0, 2.0, -1.0])
    real = sorted(r.real for r in roots if abs(r.imag) < 1e-9 and r.real > 0)
    return (real[0] if real else 0.0), (real[1] if len(real) == 3 else math.inf)


def _skewed(m: float, error: float, sums: Array, t: float) -> Interval:
    """Hall's interval: t standard errors on the scale of his cubic transformation, which takes the skewness out."""
    n = len(sums)
    third = float((sums**3).mean() / (sums**2).mean() ** 1.5) / 3 / math.sqrt(n)

    def back(z: float) -> float:
        shifted = z - third / 2
        return shifted if abs(third) < 1e-9 else (float(np.cbrt(1 + 3 * third * shifted)) - 1) / third

    return m - error * back(t), m - error * back(-t)


def with_seed_variance(value: float, ci: Interval, *arms: Sequence[float], level: float = 0.95) -> Interval:
    """An interval over prompts widened by what other seeds would change; unchanged where no arm has two seeds.

    `arms` holds each arm's figures, one a seed, all with one variance (pooled), of which `value` is the mean or the
    difference of means. The half-widths over prompts and over seeds are joined as independent errors are: by the
    root of the sum of their squares (the MOVER method, Zou and Donner, Statistics in Medicine 27, 2008).
    """
    freedom = sum(len(seeds) - 1 for seeds in arms)
    if freedom == 0 or not all(map(math.isfinite, (value, *ci))):
        return ci
    pooled = sum(float(np.var(seeds)) * len(seeds) for seeds in arms) / freedom
    half = quantile(freedom, level) * math.sqrt(pooled * sum(1 / len(seeds) for seeds in arms))
    low, high = ci
    return value - math.hypot(value - low, half), value + math.hypot(high - value, half)


def sign_flip(differences: ArrayLike, clusters: Clusters = None) -> float:
    """Exact two-sided p of a mean difference of 0, by all changes of signs of the clusters' sums (Fisher 1935).

    For differences of −1, 0 and 1 it is the exact McNemar test: 4 against 0 gives 1/8. Only where at most 14 sums are
    not 0; with more the interval decides, and the value is 0.
    """
    x = np.asarray(differences, float)
    sums = by_cluster(members(len(x), clusters), x)
    sums = sums[np.abs(sums) > 1e-12]
    if len(sums) > 14:
        return 0.0
    signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
    flipped = np.abs(signs @ sums)
    return float((flipped >= abs(sums.sum()) - 1e-12).mean())


def shown(differences: ArrayLike, ci: Interval, clusters: Clusters = None, alpha: float = 0.05) -> bool:
    """Whether differences are shown not to be 0 on average: by their interval of level 1 − alpha and by `sign_flip`.

    Never with fewer than 20 values.
    """
    x = np.asarray(differences, float)
    return len(x) >= LEAST and (ci[0] > 0 or ci[1] < 0) and sign_flip(x, clusters) <= alpha


class WinRate(TypedDict):
    """A win rate over prompts: ties count half, unreadable verdicts not at all."""

    value: float
    ci: Interval
    ties: float
    invalid: float
    n: int
    groups: int
    different: bool


def win_rate(p: Sequence[float | None], clusters: Clusters = None, tie_margin: float = TIE_MARGIN) -> WinRate:
    """Win rate from one probability a prompt (None = unreadable), as `outcomes`.

    `ties` is the share of the readable verdicts, `invalid` the share of all, `n` the number of readable ones and
    `groups` that of their clusters; `different` says that it is shown not to be ½.
    """
    read = [at for at, x in enumerate(p) if x is not None]
    keys = None if clusters is None else [clusters[at] for at in read]
    wins = outcomes([x for x in p if x is not None], tie_margin)
    ci = mean_interval(wins, UNIT, keys) if len(wins) else (NAN, NAN)
    return {
        "value": mean(wins), "ci": ci, "ties": mean(wins == 0.5), "invalid": 1 - len(wins) / len(p) if p else NAN,
        "n": len(wins), "groups": count(len(wins), keys),
        "different": shown(wins - 0.5, (ci[0] - 0.5, ci[1] - 0.5), keys),
    }  # fmt: skip


class Controlled(TypedDict):
    """A length-controlled win rate with its interval, or why there is none."""

    value: float
    ci: Interval
    reason: str | None


def length_controlled(wins: ArrayLike, length_difference: ArrayLike, clusters: Clusters = None) -> Controlled:
    """The win rate expected if length did not matter, from outcomes 0, ½ and 1 and length differences [n].

    In the spirit of length-controlled AlpacaEval (arXiv 2404.04475, section 3): a logistic model of the decided outcomes
    on θ + φ·tanh(Δ/sd Δ), read at Δ = 0, with the sample's share of ties; there is no term for an instruction's
    difficulty, since each is seen once. A tie between equal lengths and a wide normal prior on φ (sd 10) keep a
    separable set finite. Nothing is said (`reason`) where fewer than ten decided pairs, or than a tenth of them, have
    the longer response on one of the two sides: the value at equal length would then be the model's and not the data's.
    """
    y, delta = np.asarray(wins, float), np.asarray(length_difference, float)
    decided = y != 0.5
    each = [int((delta[decided] <= 0).sum()), int((delta[decided] >= 0).sum())]
    needed = max(10, math.ceil(decided.sum() / 10))
    if min(each) < needed:
        why = f"{each[1]} decided pairs have the first response as long or longer and {each[0]} as short or shorter; {needed} are needed"
        return {"value": NAN, "ci": (NAN, NAN), "reason": why}
    member = members(len(y), clusters)
    of_decided = members(int(decided.sum()), list(member[decided]))
    spread, freedom = dispersion(y[decided], UNIT, of_decided)
    theta, variance = _at_equal_length(y[decided], np.tanh(delta[decided] / (delta.std() or 1.0)))
    q, ties = float(sigmoid(theta)), 1 - float(decided.mean())
    value = ties / 2 + (1 - ties) * q
    error = ((1 - ties) * q * (1 - q)) ** 2 * variance + (0.5 - q) ** 2 * ties * (1 - ties) / len(y)
    half = quantile(freedom, 0.95) * math.sqrt(error * spread) / (value * (1 - value))
    centre = math.log(value / (1 - value))
    return {
        "value": value,
        "ci": (float(sigmoid(centre - half)), float(sigmoid(centre + half))),
        "reason": None,
    }


def _at_equal_length(wins: Array, x: Array) -> tuple[float, float]:
    """The θ of a logistic model of 0/1 wins on θ + φ·x with its variance; see `length_controlled` for the priors."""
    design = np.stack([np.ones(len(x) + 1), np.append(x, 0.0)], 1)
    y, prior, theta = np.append(wins, 0.5), np.diag([0.0, 0.01]), np.zeros(2)
    information = prior
    for _ in range(60):  # damped Newton; the objective is strictly convex
        fitted = sigmoid(design @ theta)
        information = (design.T * (fitted * (1 - fitted) + 1e-9)) @ design + prior
        step = np.linalg.solve(information, design.T @ (y - fitted) - prior @ theta)
        theta = theta + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return float(theta[0]), float(np.linalg.inv(information)[0, 0])


class Calibration(TypedDict):
    """Expected calibration error with its interval, and what a perfect forecaster would get from as many outcomes."""

    ece: float
    ece_ci: Interval
    ece_floor: float


def calibration_error(p: ArrayLike, y: ArrayLike, clusters: Clusters = None, bins: int = 10) -> Calibration:
    """`stats.ece` of forecasts p [n] and outcomes y [n], with an interval of the error that stays at any n.

    The sample's error is too high: chance moves every bin, and always adds. `ece_floor` is what it would be on average
    without any miscalibration (Bröcker and Smith, Weather and Forecasting 22, 2007). The interval holds the errors λ·ece,
    miscalibration of the sample's shape but λ times its size, from which a sample's error as large and as small as this
    one is not unlikely (2.5 %), with the bins' gaps normal around theirs. Fewer than 30 clusters of several forecasts do
    not tell how alike their outcomes are, and get no interval.
    """
    forecast, outcome = np.asarray(p, float), np.asarray(y, float)
    value, n = ece(forecast, outcome, bins=bins), len(forecast)
    if not n:
        return {"ece": NAN, "ece_ci": (NAN, NAN), "ece_floor": NAN}
    where = np.minimum((forecast * bins).astype(int), bins - 1)
    size = np.maximum(np.bincount(where, minlength=bins), 1)
    gap = np.bincount(where, forecast - outcome, bins) / size
    excess = _excess(forecast, outcome, gap[where], members(n, clusters), int((size > 1).sum()))
    noise = np.random.default_rng(0).standard_normal((1000, bins))

    def errors(scale: float) -> tuple[Array, Array]:
        """What the sample's error may be at λ = `scale`, and the standard deviation of each bin's gap over n."""
        q = np.clip(forecast - scale * gap[where], 0.0, 1.0)
        sd = np.sqrt(np.bincount(where, q * (1 - q), bins) * excess) / n
        return np.abs(scale * gap * size / n * (np.bincount(where, minlength=bins) > 0) + sd * noise).sum(
            1
        ), sd

    floor = float(errors(0.0)[1].sum()) * math.sqrt(2 / math.pi)
    if count(n, clusters) < min(n, FEW_GROUPS):
        return {"ece": value, "ece_ci": (NAN, NAN), "ece_floor": floor}
    low = _crossing(lambda scale: float(np.quantile(errors(scale)[0], 0.975)) >= value)
    high = _crossing(lambda scale: float(np.quantile(errors(scale)[0], 0.025)) > value)
    return {"ece": value, "ece_ci": (low * value, min(1.0, high * value)), "ece_floor": floor}


def _excess(forecast: Array, outcome: Array, gap: Array, member: NDArray[np.intp], bins: int) -> float:
    """The outcomes' variance around calibrated forecasts relative to that of independent 0/1 outcomes."""
    groups = int(member.max()) + 1
    if groups == len(outcome) and np.isin(outcome, UNIT).all():
        return 1.0
    q = np.clip(forecast - gap, 0.0, 1.0)
    expected = float((q * (1 - q)).sum())
    sums = by_cluster(member, outcome - q)
    return float((sums**2).sum()) / expected * groups / max(groups - bins, 1) if expected > 0 else 1.0


def _crossing(passed: Callable[[float], bool]) -> float:
    """The λ in [0, 64] at which a condition begins to hold, 0 where it holds from the start."""
    edges = [0.0, *(2.0**power for power in range(-4, 7))]
    if passed(0.0):
        return 0.0
    found = next(((a, b) for a, b in pairwise(edges) if passed(b)), None)
    if found is None:
        return edges[-1]
    a, b = found
    for _ in range(12):
        middle = (a + b) / 2
        a, b = (a, middle) if passed(middle) else (middle, b)
    return b
