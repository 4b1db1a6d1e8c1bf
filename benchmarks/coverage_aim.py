"""What the two measurements of coverage share: their aim, when a cell is drawn on, windows of rates."""

from __future__ import annotations

import math

from numpy.random import Generator

from rlaif.intervals import Interval

AIM, AIM_BELOW_20 = (0.93, 0.97), (0.90, 1.0)  # coverage of a 95 % interval from n = 20 on, and below
PRINTED = 0.02  # share of samples with an interval below which a cell has no coverage


def aim(n: int) -> Interval:
    """The limits of a 95 % interval's coverage."""
    return AIM if n >= 20 else AIM_BELOW_20


def held(coverage: float, n: int) -> bool:
    """Whether a coverage is within the aim."""
    low, high = aim(n)
    return low <= coverage <= high


def undecided(shown: float, hits: float, n: int) -> bool:
    """Whether a coverage is within two standard errors of a limit of the aim."""
    return any(abs(hits - limit * shown) < 2 * math.sqrt(limit * (1 - limit) * shown) for limit in aim(n))


def near(rng: Generator, rate: float) -> float:
    """A rate from the window around one."""
    return float(rng.uniform(*window(rate)))


def window(rate: float) -> Interval:
    """The rates that stand for one."""
    half = min(0.02, (1 - rate) / 2)
    return rate - half, rate + half
