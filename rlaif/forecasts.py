"""Intervals of what compares two columns: the calibration error of forecasts, Cohen's kappa of two
annotators."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlaif.intervals import (
    LEAST,
    NAN,
    ROUNDING,
    UNIT,
    Array,
    Clusters,
    Interval,
    by_cluster,
    count,
    dispersion,
    members,
    quantile,
    score_edges,
)
from rlaif.stats import cohen_kappa, ece

FEW_GROUPS = 30  # clusters of several values below which a calibration error gets no interval


class Calibration(TypedDict):
    """Expected calibration error with its interval, and what a perfect forecaster would get from as many
    outcomes."""

    ece: float
    ece_ci: Interval
    ece_floor: float


def calibration_error(p: ArrayLike, y: ArrayLike, clusters: Clusters = None, bins: int = 10) -> Calibration:
    """`stats.ece` of forecasts p [n] and outcomes y [n], with an interval of the error that stays at any n.

    The sample's error is too high: chance moves every bin, and always adds. `ece_floor` is what it would be
    on average without any miscalibration (Bröcker and Smith, Weather and Forecasting 22, 2007). The interval
    holds the errors λ·ece, miscalibration of the sample's shape but λ times its size, from which a sample's
    error as large and as small as this one is not unlikely (2.5 %), with the bins' gaps normal around theirs.
    Fewer than 30 clusters of several forecasts do not tell how alike their outcomes are, and get no interval.
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
        """What the sample's error may be at λ = `scale`, and the standard deviation of each bin's gap over
        n."""
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


class Kappa(TypedDict):
    """Cohen's kappa with its interval."""

    kappa: float
    kappa_ci: Interval


def kappa_interval(
    a: Sequence[Hashable], b: Sequence[Hashable], clusters: Clusters = None, level: float = 0.95
) -> Kappa:
    """Cohen's kappa of two annotators' verdicts on the same items [n], with its interval over clusters.

    The score interval of the agreement (`mean_interval`), put on kappa's scale at the sample's agreement by
    chance. Its variance is multiplied by what the chance agreement, which the verdicts tell too, adds to
    kappa's or takes from it: by the delta method of Fleiss, Cohen and Everitt (Psychological Bulletin 72,
    1969), summed over clusters. None below 20 of these.
    """
    value, n = cohen_kappa(a, b), len(a)
    groups = count(n, clusters)
    if not math.isfinite(value) or groups < LEAST:
        return {"kappa": value, "kappa_ci": (NAN, NAN)}
    same, member = np.array([x == y for x, y in zip(a, b, strict=True)], float), members(n, clusters)
    left, right = Counter(a), Counter(b)
    expected = np.array(
        [(right[x] + left[y]) / n for x, y in zip(a, b, strict=True)]
    )  # on average twice the chance
    agreed, chance = float(same.mean()), float(expected.mean()) / 2
    own = float((by_cluster(member, same - agreed) ** 2).sum())
    whole = float((by_cluster(member, same - agreed - (1 - value) * (expected - 2 * chance)) ** 2).sum())
    spread, freedom = dispersion(same, UNIT, member)
    k = quantile(min(freedom, groups - 1), level) ** 2 * spread / n * (whole / own if own > ROUNDING else 1.0)
    low, high = ((edge - chance) / (1 - chance) for edge in score_edges(agreed, UNIT, k))
    return {"kappa": value, "kappa_ci": (max(-1.0, low), high)}
