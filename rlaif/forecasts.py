"""What compares two columns: the calibration error of forecasts, Cohen's kappa of two annotators with its
interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
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

BY_CHANCE = 10  # disagreements that chance would make, below which kappa gets no interval


class Calibration(TypedDict):
    """Expected calibration error, and what a perfect forecaster would get from as many outcomes."""

    ece: float
    ece_floor: float


def calibration_error(p: ArrayLike, y: ArrayLike, clusters: Clusters = None, bins: int = 10) -> Calibration:
    """`stats.ece` of forecasts p [n] and outcomes y [n], beside the error that chance alone would give.

    A sample's error is too high: chance moves every bin, and always adds. `ece_floor` is what it would be on
    average without any miscalibration (Bröcker and Smith, Weather and Forecasting 22, 2007). There is no
    interval: one by simulation around the sample's gaps covered 0.90 to 1.00, because they hold the chance
    that is to be taken out.
    """
    forecast, outcome = np.asarray(p, float), np.asarray(y, float)
    n = len(forecast)
    if not n:
        return {"ece": NAN, "ece_floor": NAN}
    where = np.minimum((forecast * bins).astype(int), bins - 1)
    size = np.maximum(np.bincount(where, minlength=bins), 1)
    gap = np.bincount(where, forecast - outcome, bins) / size
    excess = _excess(forecast, outcome, gap[where], members(n, clusters), int((size > 1).sum()))
    sd = np.sqrt(np.bincount(where, forecast * (1 - forecast), bins) * excess) / n
    return {"ece": ece(forecast, outcome, bins=bins), "ece_floor": float(sd.sum()) * math.sqrt(2 / math.pi)}


def _excess(forecast: Array, outcome: Array, gap: Array, member: NDArray[np.intp], bins: int) -> float:
    """The outcomes' variance around calibrated forecasts relative to that of independent 0/1 outcomes."""
    groups = int(member.max()) + 1
    if groups == len(outcome) and np.isin(outcome, UNIT).all():
        return 1.0
    q = np.clip(forecast - gap, 0.0, 1.0)
    expected = float((q * (1 - q)).sum())
    sums = by_cluster(member, outcome - q)
    return float((sums**2).sum()) / expected * groups / max(groups - bins, 1) if expected > 0 else 1.0


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
    1969), summed over clusters. None below 20 of these, and where fewer than 10 of them (`BY_CHANCE`) would
    disagree by chance: agreement then hardly tells.
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
    if groups * (1 - chance) < BY_CHANCE:
        return {"kappa": value, "kappa_ci": (NAN, NAN)}
    own = float((by_cluster(member, same - agreed) ** 2).sum())
    whole = float((by_cluster(member, same - agreed - (1 - value) * (expected - 2 * chance)) ** 2).sum())
    spread, freedom = dispersion(same, UNIT, member)
    k = quantile(min(freedom, groups - 1), level) ** 2 * spread / n * (whole / own if own > ROUNDING else 1.0)
    low, high = ((edge - chance) / (1 - chance) for edge in score_edges(agreed, UNIT, k))
    return {"kappa": value, "kappa_ci": (max(-1.0, low), high)}
