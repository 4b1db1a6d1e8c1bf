"""What benchmarks/coverage.py measures: samples with a known truth for every function that returns an
interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from coverage_aim import near, window
from numpy.random import Generator

from rlaif import equal_length, forecasts, intervals
from rlaif.intervals import ANY, GAP, POSITIVE, UNIT, Array, Interval

RATES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
ENUMERATED = 10_000  # samples of n up to which a coverage is computed exactly
Draw = Callable[[Generator, int], tuple[Interval, float, float]]  # → interval, truth, estimate
Shares = Callable[[float], tuple[float, float, float]]  # rate → shares of losses, ties and wins


@dataclass(frozen=True)
class Case:
    """One kind of data for one function; `draw` makes a sample of n and its interval."""

    function: str
    data: str
    draw: Draw
    least: int = 5
    heavy: bool = False  # too heavy-tailed for an interval at small n: it is open or not printed there
    aimed: bool = True  # not where only some samples are drawn: those have no coverage to aim at
    exact: Callable[[int], dict[str, Any] | None] = lambda n: None


@lru_cache
def edges(n: int, ties: bool) -> tuple[Any, Array]:
    """Every count [k, 3] of losses, ties and wins in n values, and their intervals [k, 2] on the scale of −1
    to 1."""
    counts = [
        (down, n - down - up, up) for down in range(n + 1) for up in range(n - down + 1 if ties else n + 1)
    ]
    kept = [row for row in counts if row[1] == 0 or ties]
    return np.array(kept), np.array(
        [intervals.mean_interval(np.repeat([-1.0, 0.0, 1.0], row), GAP) for row in kept]
    )


def exactly(shares: Shares, rates: Interval) -> Callable[[int], dict[str, Any] | None]:
    """The coverage of the mean of wins (1), ties (0) and losses (−1), averaged over rates; None with too many
    samples."""
    from scipy.stats import multinomial

    ties, middle = shares(rates[0])[1] > 0, sum(rates) / 2
    steps = (np.arange(200) + 0.5) / 200 if rates[1] > rates[0] else np.array([0.5])

    def at(n: int, rate: float) -> tuple[float, Array, Array]:
        counts, ci = edges(n, ties)
        share = shares(rate)
        p, truth = multinomial.pmf(counts, n, share), share[2] - share[0]
        return float(p[(ci[:, 0] <= truth + 1e-12) & (truth <= ci[:, 1] + 1e-12)].sum()), counts, p

    def coverage(n: int) -> dict[str, Any] | None:
        if (math.comb(n + 2, 2) if ties else n + 1) > ENUMERATED:
            return None
        found = [at(n, rates[0] + (rates[1] - rates[0]) * step)[0] for step in steps]
        _, counts, p = at(n, middle)
        return {"coverage": float(np.mean(found)), "attainable": attainable(counts[:, 2] - counts[:, 0], p)}

    return coverage


def attainable(outcome: Any, p: Array) -> Interval:
    """The probabilities of runs of outcomes that lie nearest below and above 0.95: what an interval of a mean
    can cover."""
    sums = np.concatenate([[0.0], np.cumsum(np.bincount(outcome - outcome.min(), p))])
    runs = (sums[None, :] - sums[:, None]).ravel()
    return float(runs[runs <= 0.95].max()), float(runs[runs > 0.95].min())


def grouped(rng: Generator, groups: int, rate: float, alike: float) -> tuple[Array, Any]:
    """0/1 values of one to seven prompts a group, correlated within groups (intraclass correlation
    `alike`)."""
    prior = (1 - alike) / alike
    sizes = rng.integers(1, 8, groups)
    of = np.repeat(np.arange(groups), sizes)
    return (rng.random(len(of)) < rng.beta(rate * prior, (1 - rate) * prior, groups)[of]).astype(float), of


def rates() -> list[Case]:
    """Rates of 0/1 values, alone and in groups."""

    def plain(rate: float) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            p = near(rng, rate)
            x = (rng.random(n) < p).astype(float)
            return intervals.mean_interval(x), p, float(x.mean())

        return draw

    def in_groups(rate: float, alike: float) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            p = near(rng, rate)
            x, of = grouped(rng, n, p, alike)
            return intervals.mean_interval(x, UNIT, of.tolist()), p, float(x.mean())

        return draw

    return [
        *(
            Case(
                "mean_interval",
                f"0/1, rate {rate}",
                plain(rate),
                exact=exactly(lambda p: (1 - p, 0.0, p), window(rate)),
            )
            for rate in RATES
        ),
        *(
            Case("mean_interval", f"0/1 in groups, correlation {alike}, rate {rate}", in_groups(rate, alike))
            for alike in (0.05, 0.3)
            for rate in (0.5, 0.8, 0.9, 0.97)
        ),
    ]


def wins() -> list[Case]:
    """Win rates with ties; the truth counts ties half."""

    def draw_of(rate: float, ties: float, alike: float | None) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            p = near(rng, rate)
            won, of = (
                grouped(rng, n, p, alike) if alike else ((rng.random(n) < p).astype(float), np.arange(n))
            )
            won[rng.random(len(won)) < ties] = 0.5
            found = intervals.win_rate(won.tolist(), of.tolist())
            return found["ci"], ties / 2 + (1 - ties) * p, found["value"]

        return draw

    return [
        *(
            Case(
                "win_rate",
                f"{ties:.0%} ties, {rate} of the others won",
                draw_of(rate, ties, None),
                exact=exactly(
                    lambda p, ties=ties: ((1 - p) * (1 - ties), ties, p * (1 - ties)), window(rate)
                ),
            )
            for ties in (0.2, 0.6)
            for rate in (0.5, 0.8, 0.95)
        ),
        Case(
            "win_rate", "20% ties, 0.8 of the others won, in groups, correlation 0.3", draw_of(0.8, 0.2, 0.3)
        ),
    ]


def differences() -> list[Case]:
    """Paired differences of 0/1 values and of probabilities."""

    def draw_of(up: float, down: float, soft: bool, alike: float | None) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            if alike:
                before, of = grouped(rng, n, 1 - up, alike)
                turned = rng.random(len(of)) < np.where(before > 0, down, up)
                x, truth = np.where(turned, 1 - 2 * before, 0.0), up * up - (1 - up) * down
            else:
                x, of = rng.choice([-1.0, 0.0, 1.0], n, p=[down, 1 - up - down, up]), np.arange(n)
                truth = up - down
            x = x * rng.beta(4, 1, len(x)) if soft else x
            ci = intervals.mean_interval(x, GAP, of.tolist())
            return ci, truth * (0.8 if soft else 1.0), float(x.mean())

        return draw

    shapes = ((0.3, 0.3), (0.3, 0.1), (0.2, 0.05), (0.1, 0.1), (0.1, 0.02))
    return [
        *(
            Case(
                "mean_interval",
                f"paired 0/1, {up} better and {down} worse",
                draw_of(up, down, False, None),
                exact=exactly(lambda p, down=down: (down, 1 - p - down, p), (up, up)),
            )
            for up, down in shapes
        ),
        *(
            Case(
                "mean_interval",
                f"paired probabilities, {up} better and {down} worse",
                draw_of(up, down, True, None),
            )
            for up, down in shapes[:3]
        ),
        Case("mean_interval", "paired 0/1 in groups, correlation 0.3", draw_of(0.4, 0.2, False, 0.3)),
    ]


def _mean(
    data: str,
    bounds: Interval,
    truth: float,
    sample: Callable[[Generator, int], Array],
    heavy: bool = False,
    aimed: bool = True,
) -> Case:
    """The mean of a sample of n independent numbers."""

    def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
        x = sample(rng, n)
        return intervals.mean_interval(x, bounds), truth, float(x.mean())

    return Case("mean_interval", data, draw, heavy=heavy, aimed=aimed)


def probabilities() -> list[Case]:
    """Means of probabilities: a judge's, and those of a Beta distribution."""

    def judge(share: float) -> Draw:
        """A judge's probabilities: near 1 for `share` of the prompts and near 0 for the others."""

        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            p = near(rng, share)
            x = 1 / (1 + np.exp(-np.where(rng.random(n) < p, 1, -1) * rng.normal(5, 2, n)))
            return intervals.mean_interval(x), p * sure + (1 - p) * (1 - sure), float(x.mean())

        return draw

    sure = float((1 / (1 + np.exp(-np.random.default_rng(0).normal(5, 2, 2_000_000)))).mean())
    return [
        *(
            Case("mean_interval", f"a judge's probabilities, near 1 for {share}", judge(share))
            for share in (0.5, 0.8, 0.9, 0.97)
        ),
        *(
            _mean(
                f"probabilities, Beta with mean {m} and sum {s}",
                UNIT,
                m,
                lambda rng, n, m=m, s=s: rng.beta(m * s, (1 - m) * s, n),
            )
            for m, s in ((0.5, 2), (0.8, 2), (0.9, 2), (0.8, 30))
        ),
    ]


def lengths_and_divergences() -> list[Case]:
    """Means of lengths and of divergences, most of them heavy-tailed, and of differences of lengths."""

    def lognormal(sd: float) -> Callable[[Generator, int], Array]:
        return lambda rng, n: rng.lognormal(0, sd, n)

    def rare(some: bool) -> Callable[[Generator, int], Array]:
        """Divergences of samples that hold one of the rare large ones, or of those that do not."""

        def sample(rng: Generator, n: int) -> Array:
            while (large := rng.random(n) < 2 / 620).any() != some:
                pass
            return rng.gamma(2, 0.1, n) + 50 * large

        return sample

    return [
        _mean("lengths, normal", POSITIVE, 50.0, lambda rng, n: rng.normal(50, 15, n)),
        _mean("KL, exponential", POSITIVE, 1.0, lambda rng, n: rng.exponential(1, n)),
        *(
            _mean(f"KL, lognormal, sd of log {sd}", POSITIVE, math.exp(sd**2 / 2), lognormal(sd), sd > 0.5)
            for sd in (0.5, 1.0, 1.5, 2.0)
        ),
        _mean(
            "KL, lognormal, sd of log 1, 30% zero",
            POSITIVE,
            0.7 * math.exp(0.5),
            lambda rng, n: rng.lognormal(0, 1, n) * (rng.random(n) < 0.7),
            True,
        ),
        *(
            _mean(
                f"KL, 2 of 620 at 50 nats, {name} in the sample",
                POSITIVE,
                0.2 + 100 / 620,
                rare(some),
                True,
                False,
            )
            for some, name in ((True, "one or more"), (False, "none"))
        ),
        _mean("length differences, normal", ANY, 3.0, lambda rng, n: np.round(rng.normal(3, 8, n))),
        _mean("length differences, Laplace", ANY, 0.0, lambda rng, n: rng.laplace(0, 8, n)),
    ]


def seeds() -> list[Case]:
    """Differences of two arms of several seeds on the same prompts."""

    def draw_of(counts: tuple[int, int], spread: float) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            shift, prompt = rng.normal(0, spread, sum(counts)), rng.normal(0, 0.15, n)
            level = np.repeat([0.75, 0.7], counts)[:, None] + shift[:, None] + prompt
            kept = (rng.random((sum(counts), n)) < np.clip(level, 0, 1)).astype(float)
            a, b = kept[: counts[0]], kept[counts[0] :]
            gaps = a.mean(0) - b.mean(0)
            value, over = float(gaps.mean()), intervals.mean_interval(gaps, GAP)
            means, chance = (a.mean(1).tolist(), b.mean(1).tolist()), intervals.seed_chance(a, b)
            ci = intervals.with_seed_variance(value, over, *means, chance=chance, groups=n)
            return ci, 0.05, value

        return draw

    return [
        Case(
            "with_seed_variance",
            f"arms of {a} and {b} seeds, sd of seeds {spread}",
            draw_of((a, b), spread),
            20,
        )
        for a, b in ((2, 1), (2, 2), (3, 3), (5, 5))
        for spread in (0.0, 0.02, 0.05)
    ]


def at_equal_length() -> list[Case]:
    """Win rates at equal length; the outcome's logit is θ + φ·tanh(Δ/sd) or θ + φ·Δ/sd, Δ normal."""

    def draw_of(theta: float, phi: float, mean: float, straight: bool, ties: float) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            delta = np.round(rng.normal(mean, 10, n))
            logit = theta + phi * (delta / 10 if straight else np.tanh(delta / 10))
            won = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
            won[rng.random(n) < ties] = 0.5
            found = equal_length.length_controlled(won, delta)
            return found["ci"], ties / 2 + (1 - ties) / (1 + math.exp(-theta)), found["value"]

        return draw

    grid = [
        (0.0, 2.0, 0),
        (0.0, 2.0, 10),
        (0.0, 3.0, 10),
        (0.0, 3.0, 20),
        (0.0, 2.0, 30),
        (1.0, 2.0, 0),
        (1.0, 2.0, 10),
        (2.0, 1.0, 10),
    ]
    return [
        *(
            Case(
                "length_controlled", f"tanh, θ {t:.0f}, φ {f:.0f}, Δ {m}±10", draw_of(t, f, m, False, 0.0), 20
            )
            for t, f, m in grid
        ),
        *(
            Case(
                "length_controlled",
                f"straight, θ {t:.0f}, φ {f:.0f}, Δ {m}±10",
                draw_of(t, f, m, True, 0.0),
                20,
            )
            for t, f, m in ((0.0, 2.0, 10), (0.0, 3.0, 10), (1.0, 2.0, 10))
        ),
        Case("length_controlled", "tanh, θ 1, φ 2, Δ 10±10, 30% ties", draw_of(1.0, 2.0, 10, False, 0.3), 20),
    ]


def kappas() -> list[Case]:
    """Cohen's kappa of two annotators who copy one truth of a, b and ties with a chance, and guess
    otherwise."""

    def draw_of(copied: float, shares: tuple[float, ...], alike: bool) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            of = np.repeat(np.arange(n), rng.integers(1, 8, n)) if alike else np.arange(n)
            truth = rng.choice(3, len(of), p=shares)
            # Of one group both copy or both guess, so that its items agree or not together.
            copies = rng.random(n)[of] < copied
            a, b = (np.where(copies, truth, rng.choice(3, len(of), p=shares)).tolist() for _ in "ab")
            found = forecasts.kappa_interval(a, b, of.tolist())
            return found["kappa_ci"], copied, found["kappa"]

        return draw

    return [
        Case(
            "kappa_interval",
            f"kappa {copied}, shares {' '.join(map(str, shares))}{', in groups' if alike else ''}",
            draw_of(copied, shares, alike),
            20,
        )
        for alike in (False, True)
        for copied, shares in (
            (0.2, (0.45, 0.45, 0.1)),
            (0.6, (0.45, 0.45, 0.1)),
            (0.9, (0.45, 0.45, 0.1)),
            (0.6, (0.8, 0.1, 0.1)),
        )
    ]


CASES = [
    *rates(),
    *wins(),
    *differences(),
    *probabilities(),
    *lengths_and_divergences(),
    *seeds(),
    *at_equal_length(),
    *kappas(),
]
