"""Intervals of what is printed: means and rates, differences, win rates.

All are 95 % unless told otherwise, cover the choice of prompts, and take whole clusters of them (`clusters`,
one key a value) as independent: a response's own prompt, or the group of prompts that ask the same. Where
nothing can be said an edge is `nan`, or open (`inf`), so that the other is a one-sided bound.
How often each covers the truth is measured by benchmarks/coverage.py and printed in docs/results/coverage.md.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlaif.records import TIE_MARGIN
from rlaif.stats import mean, outcomes

Interval = tuple[float, float]
Array = NDArray[np.float64]
Clusters = Sequence[Hashable] | None
NAN = float("nan")
UNIT: Interval = (0.0, 1.0)  # bounds of a rate
GAP: Interval = (-1.0, 1.0)  # bounds of a difference of two rates
POSITIVE: Interval = (0.0, math.inf)  # lengths, divergences
ANY: Interval = (-math.inf, math.inf)
ROUNDING = 1e-12  # of a dispersion
UNSEEN = 3  # clusters off the commonest value after which it was seen
LEAST = 20  # clusters below which values that nothing bounds get no interval
TWO_SEEDS = 50  # clusters that two seeds of one arm need, which are all that tells of their spread
HEAVY = 1.5  # times the degrees of freedom found, those of positive values
# times the squared skewness, clusters that normal intervals need (Cochran, Sampling Techniques, 1977, 2.15)
SKEWED = 25


def by_cluster(member: NDArray[np.intp], values: Array) -> Array:
    """The sum of each cluster's values."""
    return np.bincount(member, values).astype(float)


def members(n: int, clusters: Clusters) -> NDArray[np.intp]:
    """The number of each value's cluster, counted from 0; every value is its own where there are none."""
    if clusters is None:
        return np.arange(n)
    place = {key: at for at, key in enumerate(dict.fromkeys(clusters))}
    return np.array([place[key] for key in clusters], np.intp)


def count(n: int, clusters: Clusters) -> int:
    """How many clusters there are."""
    return n if clusters is None else len(set(clusters))


def known_edges(ci: Interval) -> list[float | None]:
    """An interval for a JSON file: None where an edge is open or cannot be told."""
    return [edge if math.isfinite(edge) else None for edge in ci]


def clip_interval(ci: Interval, bounds: Interval) -> Interval:
    """An interval without what lies beyond the bounds."""
    return max(ci[0], bounds[0]), min(ci[1], bounds[1])


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
    """Interval of the mean of values [n] that lie within `bounds`, one bound or both of which may be
    infinite.

    A score interval: the means μ from which the sample lies no further than t standard errors, these taken at
    μ and not at the sample, with the variance a multiple (the dispersion) of a function V of μ. (McCullagh
    and Nelder, Generalized Linear Models, 1989, chapter 9; for clusters Rao and Scott, Biometrics 48, 1992.)

        bounds     V(μ)               of 0/1 values
        both       (μ − low)(high − μ)   Wilson's interval (1927)
        low only   (μ − low)³            skewed as the inverse Gaussian is; the upper end may be open
        none       constant              with Hall's correction for skewness (JRSS B 54, 1992)

    Wins, losses and ties (values at both bounds and halfway between them) have Tango's score interval, which
    is Wilson's where there are no ties. t has Satterthwaite's degrees of freedom for the dispersion, which
    these need not estimate. Values without bounds get no interval below 20 clusters, nor below 25 times their
    squared skewness (`LEAST`, `SKEWED`). Below the latter the upper end of positive values is open; their
    skewness counts as twice their coefficient of variation at least, as the gamma distribution's is. Their
    degrees of freedom, of which heavy tails leave too few, are raised by half (`HEAVY`).
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
        k = quantile(freedom, level) ** 2 * spread / len(x)
        tied = _stepwise(x, bounds) and not np.isin(x, bounds).all()
        return _tango(x, bounds, k) if tied else score_edges(float(x.mean()), bounds, k)
    sums = by_cluster(member, x - x.mean())
    skewness = abs(_skewness(sums))
    if (x == x[0]).all() or (math.isinf(low) and groups < max(LEAST, SKEWED * skewness**2)):
        return NAN, NAN
    error = math.sqrt((sums**2).sum() * groups / (groups - 1)) / len(x)
    if math.isinf(low):
        return _hall(float(x.mean()), error, sums, quantile(degrees_of_freedom(sums, 1.0), level))
    m = float(x.mean()) - low
    freedom = HEAVY * degrees_of_freedom(sums, 1 + 3 * sums * groups / len(x) / m)
    below, above = _cubic((quantile(freedom, level) * error / m) ** 2)
    skewness = max(skewness, 2 * math.sqrt(groups) * error / m)
    above = math.inf if groups < SKEWED * skewness**2 else above
    return float(low + m * below), float(low + m * above)


def rate(values: ArrayLike, clusters: Iterable[Hashable], bounds: Interval = UNIT) -> dict[str, Any]:
    """A mean of values [n] within bounds, its interval, n and the number of clusters; None where n is 0."""
    x = np.asarray(values, float)
    keys = clusters.tolist() if isinstance(clusters, np.ndarray) else list(clusters)
    ci = mean_interval(x, bounds, keys) if len(x) else None
    return {"value": mean(x) if len(x) else None, "ci": ci, "n": len(x), "groups": len(set(keys))}


def dispersion(x: Array, bounds: Interval, member: NDArray[np.intp]) -> tuple[float, float]:
    """The variance of n·mean relative to that of independent values, and its degrees of freedom.

    Independent values are 0/1 ones at the bounds, or where all are at the bounds or halfway (a tie) those of
    the three shares: then it is 1 without clusters, and more for clusters that are alike; it is less for
    other values. A sample without rare values says nothing of their rate: the fewer values differ from the
    commonest, the nearer the dispersion is put to that of whole clusters, and up to four values of a far
    bound are thought added where all are the same.
    """
    low, high = bounds
    n, groups, m = len(x), int(member.max()) + 1, float(x.mean())
    alike = float((np.bincount(member) ** 2).sum()) / n
    steps = _stepwise(x, bounds)
    if steps and groups == n:
        return 1.0, math.inf
    if groups < 2:
        return alike, 1.0
    each = (x - m) ** 2 if steps else (m - low) * (high - m) + (low + high - 2 * m) * (x - m)
    sums, scale = by_cluster(member, x - m), float(each.mean())
    found = float((sums**2).sum()) / n * groups / (groups - 1) / scale if scale > 0 else 0.0
    # Values that are all the same differ by nothing, not by their last bits.
    found = found if found > ROUNDING else 0.0
    freedom = (
        degrees_of_freedom(sums, by_cluster(member, each) * groups / n / scale) if found > 0 else math.inf
    )
    # Rare values not seen yet: by how much all values together differ from one place, and by how many share
    # in that; of soft values also how equally, since a sure judge's differ from 1 by very unequal amounts.
    unseen = 0.0
    for place in (low, (low + high) / 2, high) if steps else bounds:
        off = by_cluster(member, x != place if steps else np.abs(x - place) / (high - low))
        shared, total = _shares(off), float(off.sum()) * groups / n
        seen = total + shared / UNSEEN if steps else 0.75 * total + shared * (shared / groups) ** 2
        unseen = max(unseen, math.exp(-seen))
    found += max(0.0, alike - found) * unseen
    if not steps:
        off = by_cluster(member, np.abs(x - np.median(x)))
        found += 4 * math.exp(-_shares(off)) * alike / n * max(0.0, 1 - found)
        # How many differ is known as well as with wins and losses, the more so the more equally they do.
        off = by_cluster(member, np.abs(x - (low + high) / 2))
        differ = int((off > 0).sum())
        freedom /= 1 - (1 - differ / groups) * (_shares(off) / differ) ** 3
    return found, freedom


def _stepwise(x: Array, bounds: Interval) -> bool:
    """Whether all values are at the bounds or halfway: 0/1 values, their differences, wins with ties."""
    return bool(np.isin(x, (*bounds, sum(bounds) / 2)).all())


def _shares(amounts: Array) -> float:
    """How many of the non-negative amounts make up their sum: n where all are the same, 1 where one is
    all."""
    return float(amounts.sum() ** 2 / (amounts**2).sum()) if amounts.any() else 0.0


def degrees_of_freedom(sums: Array, expected: Array | float) -> float:
    """Degrees of freedom of a dispersion: by the variance of its logarithm, to which each cluster adds its
    influence.

    `sums` are the clusters' residuals, `expected` their part in the variance of independent values, on
    average 1.
    """
    groups = len(sums)
    influence = sums**2 / (sums**2).mean() - expected
    share = (
        float((influence**2).mean()) / 2 * (groups + 1) / max(groups - 2, 0.5)
    )  # unbiased for normal values
    return (groups - 1) / share if share > 1e-9 else math.inf


def score_edges(m: float, bounds: Interval, k: float) -> tuple[float, float]:
    """The μ with (m − μ)² ≤ k (μ − low)(high − μ)."""
    low, high = bounds
    half_b, c = m + k * (low + high) / 2, m * m + k * low * high
    root = math.sqrt(max(0.0, half_b**2 - (1 + k) * c))
    return max(low, min(m, (half_b - root) / (1 + k))), min(high, max(m, (half_b + root) / (1 + k)))


def _tango(x: Array, bounds: Interval, k: float) -> Interval:
    """The mean differences δ of wins and losses with (d − δ)² ≤ k·V(δ): Tango's interval (Statistics in
    Medicine 17, 1998).

    V is the variance 2q + δ − δ² of a win (1), a tie (0) or a loss (−1) at the share q of losses that is the
    likeliest where the mean is δ; values at `bounds` and halfway are put on that scale.
    """
    low, high = bounds
    middle, half = (low + high) / 2, (high - low) / 2
    up, down = float((x == high).mean()), float((x == low).mean())

    def beyond(delta: float) -> bool:
        return (up - down - delta) ** 2 > k * _tied_variance(up, down, delta)

    edges = []
    for outside in (-1.0, 1.0):
        inside = up - down
        for _ in range(50):
            between = (inside + outside) / 2
            inside, outside = (inside, between) if beyond(between) else (between, outside)
        edges.append(middle + half * outside)
    return edges[0], edges[1]


def _tied_variance(up: float, down: float, delta: float) -> float:
    """Tango's V at a difference δ of wins and losses, from the shares of wins and of losses found."""
    b = (2 - up + down) * delta - up - down
    q = (math.sqrt(max(0.0, b * b + 8 * down * delta * (1 - delta))) - b) / 4
    return max(0.0, 2 * q + delta - delta**2)


def variance_at(x: Array, bounds: Interval, mean: float) -> float:
    """The V(μ) of `mean_interval` at a mean μ of values [n] between two bounds, on their scale."""
    low, high = bounds
    if not _stepwise(x, bounds) or np.isin(x, bounds).all():
        return (mean - low) * (high - mean)
    half = (high - low) / 2
    up, down = float((x == high).mean()), float((x == low).mean())
    return half**2 * _tied_variance(up, down, (mean - low) / half - 1)


def _cubic(k: float) -> Interval:
    """The r around 1 with (1 − r)² ≤ k r³; open above where no r is large enough."""
    roots = np.roots([k, -1.0, 2.0, -1.0])
    real = sorted(r.real for r in roots if abs(r.imag) < 1e-9 and r.real > 0)
    return (real[0] if real else 0.0), (real[1] if len(real) == 3 else math.inf)


def _skewness(sums: Array) -> float:
    """Third moment of sums around 0 over the second's power 3/2; 0 where all are 0."""
    second = float((sums**2).mean())
    return float((sums**3).mean()) / second**1.5 if second > 0 else 0.0


def _hall(m: float, error: float, sums: Array, t: float) -> Interval:
    """Hall's interval: t standard errors on the scale of his cubic transformation, which takes the skewness
    out."""
    n = len(sums)
    third = _skewness(sums) / 3 / math.sqrt(n)

    def back(z: float) -> float:
        shifted = z - third / 2
        return shifted if abs(third) < 1e-9 else (float(np.cbrt(1 + 3 * third * shifted)) - 1) / third

    return m - error * back(t), m - error * back(-t)


def with_seed_variance(
    value: float,
    ci: Interval,
    *arms: Sequence[float],
    chance: float = 0.0,
    groups: float = math.inf,
    level: float = 0.95,
) -> Interval:
    """An interval over prompts joined with what other seeds would change; unchanged where no arm has two
    seeds.

    `arms` holds each arm's figures, one a seed, all with one variance (pooled), of which `value` is the mean
    or the difference of means. The spread of seeds' figures holds the chance of each seed with each prompt,
    which the interval over prompts holds too: `chance` is its share of that interval's variance
    (`seed_chance`) and counts once. The half-widths of the other part, over prompts, and over seeds
    (Student's t) are joined as independent errors are: by the root of the sum of their squares (the MOVER
    method, Zou and Donner, Statistics in Medicine 27, 2008). None where a difference of two seeds is all that
    tells of their spread, and that of fewer than 50 clusters of prompts (`groups`).
    """
    freedom = sum(len(seeds) - 1 for seeds in arms)
    if freedom == 0 or not all(map(math.isfinite, (value, *ci))):
        return ci
    if freedom == 1 and groups < TWO_SEEDS:
        return NAN, NAN
    pooled = sum(float(np.var(seeds)) * len(seeds) for seeds in arms) / freedom
    half = quantile(freedom, level) * math.sqrt(pooled * sum(1 / len(seeds) for seeds in arms))
    low, high = ci
    rest = math.sqrt(1 - chance)
    return value - math.hypot(rest * (value - low), half), value + math.hypot(rest * (high - value), half)


def seed_reuse_factor(seeds: Sequence[int], sides: Sequence[float] = (1.0, -1.0)) -> float:
    """The variance of the mean of all matches over what their spread tells of it; 1 where all arms have as
    many seeds.

    A match takes one of the `seeds` [K] of every arm, the shorter arms' again from the start, and its figure
    is a sum of theirs, weighed by `sides` [K]; seeds of all arms vary alike. What is matched several times
    shows less among the matches, or not at all.
    """
    matches = max(seeds)
    if matches == 1:
        return 1.0
    again = [sum(len(range(at, matches, own)) ** 2 for at in range(own)) / matches**2 for own in seeds]
    mean = sum(side**2 * x for side, x in zip(sides, again, strict=True))
    told = sum(side**2 * (1 - x) for side, x in zip(sides, again, strict=True)) / (matches - 1)
    return mean / told


def spread_out(means: Sequence[float], by: float) -> list[float]:
    """The figures of matches with `by` times their variance around the same mean."""
    centre = sum(means) / max(1, len(means))
    return [centre + math.sqrt(by) * (value - centre) for value in means]


def seed_chance(*arms: ArrayLike, clusters: Clusters = None) -> float:
    """The share of a difference's variance over prompts that is chance of each seed with each prompt, in [0,
    1].

    Each arm holds values [seeds, prompts], the same prompts in all arms; of one arm the values themselves
    count, of two their difference. In an analysis of variance of two ways (Scheffé, The Analysis of Variance,
    1959, chapter 4) it is the interaction of seeds and prompts, pooled over arms, over the variance of the
    prompts' means.
    """
    tables = [np.asarray(arm, float) for arm in arms]
    freedom, n = sum(len(x) - 1 for x in tables), tables[0].shape[1]
    if freedom == 0 or n == 0:
        return 0.0
    member = members(n, clusters)
    left = [x - x.mean(0) - x.mean(1, keepdims=True) + x.mean() for x in tables]
    pooled = sum(float((by_cluster(member, row) ** 2).sum()) for x in left for row in x) / freedom
    means = tables[0].mean(0) - (tables[1].mean(0) if len(tables) > 1 else 0.0)
    found = float((by_cluster(member, means - means.mean()) ** 2).sum())
    return min(1.0, pooled * sum(1 / len(x) for x in tables) / found) if found > ROUNDING else 0.0


def sign_flip(differences: ArrayLike, clusters: Clusters = None) -> float:
    """Exact two-sided p of a mean difference of 0, by all changes of signs of the clusters' sums (Fisher
    1935).

    For differences of −1, 0 and 1 it is the exact McNemar test: 4 against 0 gives 1/8. Only where at most 14
    sums are not 0; with more the interval decides, and the value is 0.
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
    """Whether differences are shown not to be 0 on average: by their interval of level 1 − alpha and by
    `sign_flip`.

    Never with fewer than 20 values.
    """
    x = np.asarray(differences, float)
    return len(x) >= LEAST and (ci[0] > 0 or ci[1] < 0) and sign_flip(x, clusters) <= alpha


class WinRate(TypedDict):
    """A win rate over prompts: ties count half, unreadable verdicts not at all."""

    value: float
    ci: Interval
    ties: float
    ties_ci: Interval
    invalid: float
    invalid_ci: Interval
    n: int
    groups: int
    different: bool


def win_rate(p: Sequence[float | None], clusters: Clusters = None, tie_margin: float = TIE_MARGIN) -> WinRate:
    """Win rate from one probability a prompt (None = unreadable), as `outcomes`.

    `ties` is the share of the readable verdicts, `invalid` that of all, both with their intervals; `n` is the
    number of readable ones and `groups` that of their clusters; `different` says that it is shown not to be
    ½.
    """
    read = [at for at, x in enumerate(p) if x is not None]
    keys = None if clusters is None else [clusters[at] for at in read]
    wins = outcomes([x for x in p if x is not None], tie_margin)
    ci, ties_ci = (mean_interval(x, UNIT, keys) if len(wins) else (NAN, NAN) for x in (wins, wins == 0.5))
    invalid_ci = mean_interval([x is None for x in p], UNIT, clusters) if p else (NAN, NAN)
    return {
        "value": mean(wins),
        "ci": ci,
        "ties": mean(wins == 0.5),
        "ties_ci": ties_ci,
        "invalid": 1 - len(wins) / len(p) if p else NAN,
        "invalid_ci": invalid_ci,
        "n": len(wins),
        "groups": count(len(wins), keys),
        "different": shown(wins - 0.5, (ci[0] - 0.5, ci[1] - 0.5), keys),
    }
