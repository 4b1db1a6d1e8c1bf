"""Was the sample large enough to say so? Three verdicts instead of two, with power and smallest detectable
effect.

A claim says that a figure is at least, or at most, a limit. It holds where the figure's whole interval is on
that side, fails where it is on the other, and is inconclusive where the interval straddles the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, TypedDict

import numpy as np

from rlaif.intervals import UNIT, Clusters, Interval, dispersion, members, variance_at

Verdict = Literal["holds", "fails", "inconclusive"]
POWER = 0.8  # what a sample of the right size has
MOST_TIMES = 100  # as many labels again; beyond it a number of labels is no advice
_NORMAL = NormalDist()


class Decision(TypedDict):
    """What a sample says of a claim.

    `power` is the probability that as many labels show a figure that is on the right side of the limit by
    `margin`; `detectable` is the margin at which that probability is 0.8; `more` is about how many further
    labels show what was found with that probability, None where the verdict is out or no number is advice.
    """

    verdict: Verdict
    limit: float
    at_least: bool
    margin: float
    power: float | None
    detectable: float | None
    n: int
    more: int | None


def decide(
    value: float,
    ci: Interval,
    limit: float,
    margin: float,
    n: int,
    at_least: bool = True,
    level: float = 0.95,
) -> Decision:
    """The verdict on the claim that a figure is at least (or at most) `limit`, from n labels.

    `ci` is the figure's two-sided interval of that level; its half width gives the standard error, and so
    power holds what the interval covers: clusters of prompts, and what the estimator needs. Power is that of
    the normal approximation with the error found here; near 0 and 1 it is rough.
    """
    known = all(map(math.isfinite, (value, *ci)))
    verdict: Verdict = "inconclusive"
    if known and (ci[0] >= limit if at_least else ci[1] <= limit):
        verdict = "holds"
    elif known and (ci[1] < limit if at_least else ci[0] > limit):
        verdict = "fails"
    error = standard_error(ci, level) if known else math.nan
    return {
        "verdict": verdict,
        "limit": limit,
        "at_least": at_least,
        "margin": margin,
        "power": power(margin, error, level) if known else None,
        "detectable": detectable(error, level) if known else None,
        "n": n,
        "more": more_labels(value - limit, error, n, level) if known and verdict == "inconclusive" else None,
    }


def standard_error(ci: Interval, level: float = 0.95) -> float:
    """The standard error that an interval of this level has, as if it were normal."""
    return (ci[1] - ci[0]) / 2 / _NORMAL.inv_cdf(0.5 + level / 2)


def power(effect: float, error: float, level: float = 0.95) -> float:
    """The probability that an interval of this level lies wholly beyond a limit that is `effect` away."""
    if error <= 0:
        return 1.0
    return _NORMAL.cdf(effect / error - _NORMAL.inv_cdf(0.5 + level / 2))


def detectable(error: float, level: float = 0.95) -> float:
    """The smallest distance from a limit that is shown with power 0.8."""
    return error * (_NORMAL.inv_cdf(0.5 + level / 2) + _NORMAL.inv_cdf(POWER))


def more_labels(effect: float, error: float, n: int, level: float = 0.95) -> int | None:
    """How many labels beyond n show an effect of this size with power 0.8; None beyond 100 times as many."""
    shown, effect = detectable(error, level), abs(effect)
    if effect * math.sqrt(MOST_TIMES) < shown:
        return None
    return max(0, math.ceil(n * ((shown / effect) ** 2 - 1)))


def p_below(
    values: Sequence[float], limit: float, bounds: Interval = UNIT, clusters: Clusters = None
) -> float:
    """One-sided p of the claim that the mean of values [n] is below `limit`, 1 where the sample's is not.

    It is half the complement of the level at which the upper end of `mean_interval` is the limit. So the test
    has the interval's clusters, and the variance at the limit and not at the sample, which a t-test of
    differences that are rare takes for too small.
    """
    from scipy.special import ndtr, stdtr

    x = np.asarray(values, float)
    if not len(x) or x.mean() >= limit:
        return 1.0
    spread, freedom = dispersion(x, bounds, members(len(x), clusters))
    variance = spread * variance_at(x, bounds, limit) / len(x)
    if variance <= 0:
        return 0.0
    t = float(x.mean() - limit) / math.sqrt(variance)
    return float(ndtr(t) if math.isinf(freedom) else stdtr(freedom, t))


def false_discovery(p: Sequence[float]) -> list[float]:
    """p-values adjusted by Benjamini and Yekutieli (Annals of Statistics 29, 2001), whatever their
    dependence."""
    from scipy.stats import false_discovery_control

    return [float(x) for x in false_discovery_control(p, method="by")] if len(p) else []
