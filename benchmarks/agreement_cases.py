"""What benchmarks/agreement_coverage.py measures: samples of ratings, wins, labels and judges with a known
truth, and what `rlaif agree` and `judge compare` say of them.

n counts independent prompts, or groups of one to seven prompts of which whole groups are alike. Annotators of
one item say its truth with a chance and guess otherwise, so that kappa and alpha are known exactly. Rates and
kappas are taken from a window around the one named (`coverage_aim`). The judges of the alternative annotator
test are worse than each person by ε exactly: to accept one is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from coverage_aim import near
from numpy.random import Generator

from rlaif.agreement.coefficients import (
    agreement_by_item,
    counts_of,
    fleiss_kappa,
    krippendorff_alpha,
)
from rlaif.agreement.decisions import decide
from rlaif.agreement.prediction_powered import powered_mean
from rlaif.agreement.stand_in import alternative_annotator_test
from rlaif.audit.side_by_side import paired_difference
from rlaif.forecasts import kappa_interval
from rlaif.intervals import UNIT, Array, Interval, by_cluster, mean_interval, members, win_rate

SIZES = (20, 50, 100, 300, 1000)
RESAMPLES = 400
EVEN, SKEWED = (0.45, 0.1, 0.45), (0.8, 0.1, 0.1)
Outcome = Callable[[], float | None]  # 1 or 0 of what is counted; None where nothing is printed
Draw = Callable[[Generator, int], dict[str, Outcome]]


@dataclass(frozen=True)
class Case:
    """One kind of data; `draw` makes a sample of n and what to count of it, under the names of columns."""

    table: str
    data: str
    draw: Draw
    sizes: tuple[int, ...] = SIZES


def covered(ci: Interval, truth: float) -> float | None:
    """Whether an interval holds the truth, None where none is printed."""
    return None if math.isnan(ci[0]) else float(ci[0] - 1e-12 <= truth <= ci[1] + 1e-12)


def bootstrap(rng: Generator, sums: Array, of: Any, statistic: Callable[[Array], Array]) -> Interval:
    """The 95 % percentile interval over resampled groups of a statistic of totals [draws, S]."""
    member = members(len(of), list(of))
    of_group = np.stack([by_cluster(member, column) for column in sums.T], 1)
    groups = len(of_group)
    drawn = rng.integers(0, groups, (RESAMPLES, groups)) + groups * np.arange(RESAMPLES)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=RESAMPLES * groups).reshape(RESAMPLES, groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = statistic(weights @ of_group)
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def groups_of(rng: Generator, n: int, alike: bool) -> Any:
    """The group of each item: n items, or n groups of one to seven."""
    return np.repeat(np.arange(n), rng.integers(1, 8, n)) if alike else np.arange(n)


def rated(
    rng: Generator, of: Any, alike: bool, kappa: float, shares: tuple[float, ...], annotators: int
) -> Any:
    """Ratings [I, A] of which each two annotators agree beyond chance by `kappa`.

    Alone, each says an item's truth with a chance of √kappa; in groups all do so or none, with kappa.
    """
    truth = rng.choice(3, len(of), p=shares)[:, None]
    guesses = rng.choice(3, (len(of), annotators), p=shares)
    if alike:
        return np.where((rng.random(len(of)) < kappa)[of][:, None], truth, guesses)
    return np.where(rng.random(guesses.shape) < math.sqrt(kappa), truth, guesses)


def cohens(totals: Array) -> Array:
    """Cohen's kappa of totals of two annotators' crossed table."""
    table = (totals / totals.sum(1, keepdims=True)).reshape(-1, 3, 3)
    chance = (table.sum(1) * table.sum(2)).sum(1)
    return (np.einsum("gcc->g", table) - chance) / (1 - chance)


def fleisses(totals: Array) -> Array:
    """Fleiss' kappa of totals of items' agreements and of their ratings' shares."""
    n = totals[:, -1]
    chance = ((totals[:, 1:-1] / n[:, None]) ** 2).sum(1)
    return (totals[:, 0] / n - chance) / (1 - chance)


def coefficients() -> list[Case]:
    """Agreement, kappas and alphas of two and of three annotators."""

    def draw_of(kappa: float, shares: tuple[float, ...], alike: bool, gaps: float) -> Draw:
        def draw(rng: Generator, n: int) -> dict[str, Outcome]:
            of, true = groups_of(rng, n, alike), near(rng, kappa)
            three = rated(rng, of, alike, true, shares, 3)
            a, b = three[:, 0], three[:, 1]
            chance = sum(p * p for p in shares)
            keys = of.tolist()
            seen = np.where(rng.random(three.shape) < gaps, -1, three)
            agreed = agreement_by_item(counts_of(three, 3))
            crossed = np.eye(9)[a * 3 + b]
            shared = counts_of(three, 3) / 3
            per_item = np.column_stack([agreed, shared, np.ones(len(of))])
            share = chance + (1 - chance) * true
            return {
                "agreement of three": lambda: covered(mean_interval(agreed, UNIT, keys), share),
                "Cohen's kappa": lambda: covered(
                    kappa_interval(a.tolist(), b.tolist(), keys)["kappa_ci"], true
                ),
                "Fleiss' kappa": lambda: covered(fleiss_kappa(three, 3, keys)["ci"], true),
                "alpha, nominal": lambda: covered(krippendorff_alpha(seen, 3, "nominal", keys)["ci"], true),
                "alpha, ordinal": lambda: covered(krippendorff_alpha(seen, 3, "ordinal", keys)["ci"], true),
                "bootstrap: agreement": lambda: covered(
                    bootstrap(rng, per_item, of, lambda t: t[:, 0] / t[:, -1]), share
                ),
                "bootstrap: Cohen": lambda: covered(bootstrap(rng, crossed, of, cohens), true),
                "bootstrap: Fleiss": lambda: covered(bootstrap(rng, per_item, of, fleisses), true),
            }

        return draw

    return [
        Case(
            "agreement",
            f"kappa {kappa}, shares {' '.join(map(str, shares))}{', in groups' if alike else ''}",
            draw_of(kappa, shares, alike, 0.25),
        )
        for alike in (False, True)
        for kappa, shares in ((0.2, EVEN), (0.6, EVEN), (0.9, EVEN), (0.6, SKEWED))
    ]


def win_rates() -> list[Case]:
    """Win rates with ties, alone and in groups that are alike."""

    def draw_of(rate: float, alike: bool) -> Draw:
        def draw(rng: Generator, n: int) -> dict[str, Outcome]:
            of = groups_of(rng, n, alike)
            true = near(rng, rate)
            chance = rng.beta(true * 7 / 3, (1 - true) * 7 / 3, n)[of] if alike else true
            won = np.where(rng.random(len(of)) < 0.15, 0.5, rng.random(len(of)) < chance)
            truth, keys = 0.075 + 0.85 * true, of.tolist()
            sums = np.column_stack([won, np.ones(len(of))])
            return {
                "win rate": lambda: covered(win_rate(won.tolist(), keys)["ci"], truth),
                "bootstrap": lambda: covered(bootstrap(rng, sums, of, lambda t: t[:, 0] / t[:, 1]), truth),
            }

        return draw

    return [
        Case(
            "win rate",
            f"15% ties, {rate} of the others won{', in groups' if alike else ''}",
            draw_of(rate, alike),
        )
        for alike in (False, True)
        for rate in (0.5, 0.7, 0.9)
    ]


def powered() -> list[Case]:
    """PPI++ means from n labelled items (or groups) and several times as many with a prediction alone."""

    def draw_of(rate: float, right: float, times: int, alike: bool, soft: bool) -> Draw:
        def draw(rng: Generator, n: int) -> dict[str, Outcome]:
            of, true = groups_of(rng, n * (1 + times), alike), near(rng, rate)
            chance = rng.beta(true * 7 / 3, (1 - true) * 7 / 3, n * (1 + times))[of] if alike else true
            y = (rng.random(len(of)) < chance).astype(float)
            f = np.where(rng.random(len(of)) < right, y, 1 - y)
            f = np.abs(f - rng.beta(1, 4, len(f))) if soft else f
            known = of < n if alike else np.arange(len(of)) < n
            if alike:  # labelled items are drawn one by one: a group may hold both kinds
                known = rng.random(len(of)) < 1 / (1 + times)
            found = powered_mean(
                y[known].tolist(),
                f[known].tolist(),
                f[~known].tolist(),
                of[known].tolist(),
                of[~known].tolist(),
            )
            low, high = found["ci"]
            plain = found["classical_ci"]
            shorter = (high - low) / (plain[1] - plain[0])
            return {
                "PPI++": lambda: covered(found["ci"], true),
                "labels alone": lambda: covered(plain, true),
                "width against labels alone": lambda: shorter,
            }

        return draw

    return [
        Case(
            "PPI++",
            f"rate {rate}, predictions right in {right}{' (soft)' if soft else ''}, {times} × as many"
            f"{', in groups' if alike else ''}",
            draw_of(rate, right, times, alike, soft),
        )
        for rate, right, times, alike, soft in (
            (0.5, 0.6, 10, False, False),
            (0.5, 0.9, 10, False, False),
            (0.7, 0.8, 10, False, True),
            (0.7, 0.8, 1, False, False),
            (0.9, 0.9, 10, False, False),
            (0.5, 0.9, 10, True, False),
            (0.7, 0.8, 3, True, True),
            (0.9, 0.9, 10, True, False),
        )
    ]


def gap_of(right: float, judge: float, others: int = 2) -> float:
    """Person less judge, as the test scores them: people are right with a chance, and so is the judge."""
    total = 0.0
    for said in product((0, 1), repeat=others + 2):
        p = math.prod(right if x else 1 - right for x in said[:-1]) * (judge if said[-1] else 1 - judge)
        mine, its = (sum(x == y for y in said[1:-1]) for x in (said[0], said[-1]))
        total += p * (int(mine >= its) - int(its >= mine))
    return total


def at_the_limit(right: float, epsilon: float) -> float:
    """The judge's chance to be right at which the gap is ε exactly."""
    from scipy.optimize import brentq

    found: Any = brentq(lambda s: gap_of(right, s) - epsilon, 0.0, right)
    return float(found)


def stand_ins() -> list[Case]:
    """The alternative annotator test of a judge that is worse than each of three people by ε exactly."""

    def draw_of(right: float, epsilon: float, alike: bool) -> Draw:
        worse, equal = at_the_limit(right, epsilon), right

        def sample(rng: Generator, n: int, judge: float) -> tuple[Any, Any, Any]:
            of = groups_of(rng, n, alike)
            chance = np.array([right, right, right, judge])
            each = rng.random((len(of), 4)) < chance
            whole = (rng.random((n, 4)) < chance)[of]
            said = np.where((rng.random(n) < 0.3)[of][:, None], whole, each) if alike else each
            return said[:, :3].astype(int), said[:, 3].astype(int), of.tolist()

        def draw(rng: Generator, n: int) -> dict[str, Outcome]:
            from scipy.stats import ttest_1samp

            people, judge, of = sample(rng, n, worse)
            found = alternative_annotator_test(people, judge, ["1", "2", "3"], epsilon, of)
            other = np.delete(people, 0, 1)
            gaps = np.sign((other == people[:, :1]).sum(1) - (other == judge[:, None]).sum(1))
            t: Any = ttest_1samp(gaps, epsilon, alternative="less") if gaps.std() else None
            t_test = float(t.pvalue <= 0.05) if t else float(gaps.mean() < epsilon)
            people, judge, of = sample(rng, n, equal)
            good = alternative_annotator_test(people, judge, ["1", "2", "3"], epsilon, of)
            return {
                "one person, wrongly shown": lambda: float(found["people"][0]["p"] <= 0.05),
                "one person, by a t-test": lambda: t_test,
                "judge wrongly accepted": lambda: float(found["verdict"] == "holds"),
                "an equal judge accepted": lambda: float(good["verdict"] == "holds"),
            }

        return draw

    return [
        Case(
            "alternative annotator test",
            f"people right in {right}, ε {epsilon}{', in groups' if alike else ''}",
            draw_of(right, epsilon, alike),
            (30, 50, 100, 300, 1000),
        )
        for alike in (False, True)
        for right, epsilon in ((0.8, 0.1), (0.95, 0.1), (0.95, 0.2))
    ]


def decisions() -> list[Case]:
    """Claims about a rate: at the limit, and as far from it as the sample is said to show in 0.8."""

    def draw_of(limit: float, alike: bool) -> Draw:
        def decided(rng: Generator, n: int, rate: float, margin: float) -> Any:
            of = groups_of(rng, n, alike)
            chance = rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, n)[of] if alike else rate
            x = (rng.random(len(of)) < chance).astype(float)
            keys = of.tolist()
            return decide(float(x.mean()), mean_interval(x, UNIT, keys), limit, margin, len(x))

        def draw(rng: Generator, n: int) -> dict[str, Outcome]:
            first = decided(rng, n, limit, 0.1)
            away = min(first["detectable"], 0.98 - limit)
            there = decided(rng, n, limit + away, away)
            return {
                "at the limit: holds": lambda: float(first["verdict"] == "holds"),
                "fails": lambda: float(first["verdict"] == "fails"),
                "beyond it: holds": lambda: float(there["verdict"] == "holds"),
                "power said there": lambda: there["power"],
            }

        return draw

    return [
        Case("three verdicts", f"at least {limit}{', in groups' if alike else ''}", draw_of(limit, alike))
        for alike in (False, True)
        for limit in (0.5, 0.7)
    ]


def judges_compared() -> list[Case]:
    """Judges side by side on n pairs (or groups): equal ones, and one that is right five points more often.

    Pairs are hard or easy for all judges alike; in groups each judge has a taste of its own, of mean 0.
    """

    def draw_of(judges: int, alike: bool) -> Draw:
        def draw(rng: Generator, n: int) -> dict[str, Outcome]:
            of = groups_of(rng, n, alike)
            hard = 0.1 + 0.75 * rng.beta(7, 3, len(of))
            taste = 0.1 * rng.uniform(-1, 1, (judges + 1, n))[:, of] if alike else 0.0
            better = np.array([0.0] * judges + [0.05])[:, None]
            right = (rng.random((judges + 1, len(of))) < hard + taste + better).astype(float)
            keys, tests = of.tolist(), judges * (judges - 1) // 2
            equal = [paired_difference((x - y).tolist(), keys, tests) for x, y in combinations(right[:-1], 2)]
            ahead = paired_difference((right[-1] - right[0]).tolist(), keys, 1)
            return {
                "equal judges, any two called different": lambda: float(any(x["different"] for x in equal)),
                "one difference: 95 % interval holds 0": lambda: covered(equal[0]["ci"], 0.0),
                "five points better: shown": lambda: float(ahead["different"] and ahead["value"] > 0),
            }

        return draw

    return [
        Case(
            "judges side by side", f"{judges} judges{', in groups' if alike else ''}", draw_of(judges, alike)
        )
        for alike in (False, True)
        for judges in (2, 3, 5)
    ]


CASES = [*win_rates(), *coefficients(), *powered(), *stand_ins(), *decisions(), *judges_compared()]
