"""How often each interval that the project prints covers the truth, by simulation.

    python benchmarks/coverage.py --draws 2000 --json coverage.json

Every function of `rlaif.intervals` that returns an interval is here, with data like those it is printed for: rates from
0.5 to 0.99, win rates with ties, paired differences, prompts in groups, probabilities, heavy-tailed lengths and
divergences, calibration errors. n counts independent prompts or groups of them. A rate's coverage jumps with n and the
rate, because 0/1 values take few means; each draw therefore takes its rate from a window of ±0.02 around the one named
(half as far from 1 as the rate where that is less). An interval that is not printed (`nan`) cannot miss: its share is
shown beside the coverage of the others, as is that of intervals with an open upper end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from rlaif import intervals
from rlaif.intervals import ANY, GAP, POSITIVE, UNIT, Array, Interval

SIZES = (5, 10, 20, 50, 100, 300, 1000)
RATES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
Draw = Callable[[Generator, int], tuple[Interval, float, float]]  # → interval, truth, estimate


@dataclass(frozen=True)
class Case:
    """One kind of data for one function; `draw` makes a sample of n and its interval."""

    function: str
    data: str
    draw: Draw
    least: int = 5
    heavy: bool = False  # too heavy-tailed for an interval at small n: it is open or not printed there


def near(rng: Generator, rate: float) -> float:
    """A rate from the window around one."""
    window = min(0.02, (1 - rate) / 2)
    return float(rng.uniform(rate - window, rate + window))


def grouped(rng: Generator, groups: int, rate: float, alike: float) -> tuple[Array, Any]:
    """0/1 values of one to seven prompts a group, correlated within groups (intraclass correlation `alike`)."""
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
        *(Case("mean_interval", f"0/1, rate {rate}", plain(rate)) for rate in RATES),
        *(Case("mean_interval", f"0/1 in groups, correlation {alike}, rate {rate}", in_groups(rate, alike))
          for alike in (0.05, 0.3) for rate in (0.5, 0.8, 0.9, 0.97)),
    ]  # fmt: skip


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
        *(Case("win_rate", f"{ties:.0%} ties, {rate} of the others won", draw_of(rate, ties, None))
          for ties in (0.2, 0.6) for rate in (0.5, 0.8, 0.95)),
        Case("win_rate", "20% ties, 0.8 of the others won, in groups, correlation 0.3", draw_of(0.8, 0.2, 0.3)),
    ]  # fmt: skip


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

    shapes = ((0.3, 0.3), (0.3, 0.1), (0.2, 0.05), (0.1, 0.1))
    return [
        *(Case("mean_interval", f"paired 0/1, {up} better and {down} worse", draw_of(up, down, False, None)) for up, down in shapes),
        *(Case("mean_interval", f"paired probabilities, {up} better and {down} worse", draw_of(up, down, True, None)) for up, down in shapes[:3]),
        Case("mean_interval", "paired 0/1 in groups, correlation 0.3", draw_of(0.4, 0.2, False, 0.3)),
    ]  # fmt: skip


def numbers() -> list[Case]:
    """Means of other numbers: probabilities, curves, lengths, divergences and their differences."""

    def case(
        data: str,
        bounds: Interval,
        truth: float,
        sample: Callable[[Generator, int], Array],
        heavy: bool = False,
    ) -> Case:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            x = sample(rng, n)
            return intervals.mean_interval(x, bounds), truth, float(x.mean())

        return Case("mean_interval", data, draw, heavy=heavy)

    def judge(share: float) -> Callable[[Generator, int], Array]:
        """A judge's probabilities: near 1 for `share` of the prompts and near 0 for the others."""
        return lambda rng, n: 1 / (1 + np.exp(-np.where(rng.random(n) < share, 1, -1) * rng.normal(5, 2, n)))

    def expected(share: float) -> float:
        high = float((1 / (1 + np.exp(-np.random.default_rng(0).normal(5, 2, 2_000_000)))).mean())
        return share * high + (1 - share) * (1 - high)

    def lognormal(sd: float) -> Callable[[Generator, int], Array]:
        return lambda rng, n: rng.lognormal(0, sd, n)

    def gap(sd: float) -> Callable[[Generator, int], Array]:
        return lambda rng, n: rng.lognormal(0, sd, n) - rng.lognormal(-1, sd, n)

    return [
        *(case(f"a judge's probabilities, near 1 for {share}", UNIT, expected(share), judge(share)) for share in (0.5, 0.8, 0.9, 0.97)),
        *(case(f"probabilities, Beta with mean {m} and sum {s}", UNIT, m, lambda rng, n, m=m, s=s: rng.beta(m * s, (1 - m) * s, n))
          for m, s in ((0.5, 2), (0.8, 2), (0.9, 2), (0.8, 30))),
        case("lengths, normal", POSITIVE, 50.0, lambda rng, n: rng.normal(50, 15, n)),
        case("KL, exponential", POSITIVE, 1.0, lambda rng, n: rng.exponential(1, n)),
        *(case(f"KL, lognormal, sd of log {sd}", POSITIVE, math.exp(sd**2 / 2), lognormal(sd), sd > 0.5) for sd in (0.5, 1.0, 1.5, 2.0)),
        case("KL, lognormal, sd of log 1, 30% zero", POSITIVE, 0.7 * math.exp(0.5), lambda rng, n: rng.lognormal(0, 1, n) * (rng.random(n) < 0.7), True),
        case("KL, 2 of 620 at 50 nats", POSITIVE, 0.2 + 100 / 620, lambda rng, n: rng.gamma(2, 0.1, n) + 50 * (rng.random(n) < 2 / 620), True),
        case("length differences, normal", ANY, 3.0, lambda rng, n: np.round(rng.normal(3, 8, n))),
        case("length differences, Laplace", ANY, 0.0, lambda rng, n: rng.laplace(0, 8, n)),
        *(case(f"KL differences, lognormals, sd of log {sd}", ANY, math.exp(sd**2 / 2) * (1 - math.exp(-1)), gap(sd), True) for sd in (0.5, 1.0, 1.5)),
    ]  # fmt: skip


def seeds() -> list[Case]:
    """Differences of two arms of several seeds on the same prompts."""

    def draw_of(count: int, spread: float) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            shift, prompt = rng.normal(0, spread, 2 * count), rng.normal(0, 0.15, n)
            level = np.array([0.75, 0.7]).repeat(count)[:, None] + shift[:, None] + prompt
            kept = (rng.random((2 * count, n)) < np.clip(level, 0, 1)).astype(float)
            a, b = kept[:count], kept[count:]
            gaps = a.mean(0) - b.mean(0)
            over = intervals.mean_interval(gaps, GAP)
            value = float(gaps.mean())
            means = a.mean(1).tolist(), b.mean(1).tolist()
            return intervals.with_seed_variance(value, over, *means), 0.05, value

        return draw

    return [Case("with_seed_variance", f"two arms of {count} seeds, sd of seeds {spread}", draw_of(count, spread), 20)
            for count in (2, 3, 5) for spread in (0.0, 0.05)]  # fmt: skip


def at_equal_length() -> list[Case]:
    """Win rates at equal length; the outcome's logit is θ + φ·tanh(Δ/sd) or θ + φ·Δ/sd, Δ normal."""

    def draw_of(theta: float, phi: float, mean: float, straight: bool, ties: float) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            delta = np.round(rng.normal(mean, 10, n))
            logit = theta + phi * (delta / 10 if straight else np.tanh(delta / 10))
            won = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
            won[rng.random(n) < ties] = 0.5
            found = intervals.length_controlled(won, delta)
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
        *(Case("length_controlled", f"tanh, θ {t:.0f}, φ {f:.0f}, Δ {m}±10", draw_of(t, f, m, False, 0.0), 20) for t, f, m in grid),
        *(Case("length_controlled", f"straight, θ {t:.0f}, φ {f:.0f}, Δ {m}±10", draw_of(t, f, m, True, 0.0), 20)
          for t, f, m in ((0.0, 2.0, 10), (0.0, 3.0, 10), (1.0, 2.0, 10))),
        Case("length_controlled", "tanh, θ 1, φ 2, Δ 10±10, 30% ties", draw_of(1.0, 2.0, 10, False, 0.3), 20),
    ]  # fmt: skip


def calibrations() -> list[Case]:
    """Expected calibration errors of forecasts whose logits are `slope` of the truth's; alone and in groups of three."""

    def draw_of(slope: float, group: int) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            of = np.arange(n * group) // group
            logit = rng.normal(0, 2, n * group)
            p, q = 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-logit * slope))
            # Outcomes of one group share a normal variable, which makes them alike.
            shared = (
                np.sqrt(0.5) * (rng.normal(size=n)[of] + rng.normal(size=n * group))
                if group > 1
                else rng.normal(size=n)
            )
            y = (normal_cdf(shared) < q).astype(float)
            where = np.minimum((p * 10).astype(int), 9)
            truth = float(np.abs(np.bincount(where, p - q, 10)).sum() / len(p))
            found = intervals.calibration_error(p, y, of.tolist())
            return found["ece_ci"], truth, found["ece"]

        return draw

    return [Case("calibration_error", f"{name}{', three verdicts a group' if group > 1 else ''}", draw_of(slope, group), 20)
            for group in (1, 3) for name, slope in (("calibrated", 1.0), ("too sure", 0.5), ("not sure enough", 1.5))]  # fmt: skip


def normal_cdf(x: Array) -> Array:
    """The normal distribution function."""
    from scipy.special import ndtr

    return ndtr(x)


CASES = [*rates(), *wins(), *differences(), *numbers(), *seeds(), *at_equal_length(), *calibrations()]


def measure(case: Case, n: int, draws: int, seed: int = 0) -> dict[str, Any]:
    """Coverage among the intervals printed, the shares not printed and open above, the printed estimates' bias."""
    rng = np.random.default_rng([seed, n, *case.data.encode()])
    hits, opened, missing, errors = 0, 0, 0, 0.0
    for _ in range(draws):
        (low, high), truth, estimate = case.draw(rng, n)
        if math.isnan(low):
            missing += 1
            continue
        hits += low - 1e-12 <= truth <= high + 1e-12
        opened += math.isinf(high)
        errors += estimate - truth
    shown = draws - missing
    return {
        "function": case.function, "data": case.data, "n": n, "coverage": hits / shown if shown else None,
        "not_printed": missing / draws, "open": opened / draws, "bias": errors / shown if shown else None,
    }  # fmt: skip


def cell(row: dict[str, Any] | None) -> str:
    """A cell of the table."""
    if row is None or row["coverage"] is None or row["not_printed"] > 0.98:
        return "—"
    beside = [
        f"{row[key]:.0%} {name}"
        for key, name in (("not_printed", "none"), ("open", "open"))
        if row[key] > 0.005
    ]
    bias = f"{row['bias']:+.3f}" if row["function"] == "length_controlled" else ""
    return f"{row['coverage']:.3f}" + "".join(f" ({part})" for part in [*beside, *([bias] if bias else [])])


def table(rows: list[dict[str, Any]]) -> str:
    """The coverage of every case by n, as Markdown."""
    found = {(row["function"], row["data"], row["n"]): row for row in rows}
    sizes = sorted({row["n"] for row in rows})
    lines: list[str] = []
    for name in dict.fromkeys(row["function"] for row in rows):
        lines += [
            "",
            f"### {name}",
            "",
            "| data | " + " | ".join(f"n {n}" for n in sizes) + " |",
            "|---" * (len(sizes) + 1) + "|",
        ]
        for data in dict.fromkeys(row["data"] for row in rows if row["function"] == name):
            lines.append(f"| {data} | " + " | ".join(cell(found.get((name, data, n))) for n in sizes) + " |")
    return "\n".join(lines[1:])


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=2000, help="samples of each case and size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose function or data holds this text")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    chosen = [case for case in CASES if options.only in f"{case.function}: {case.data}"]
    rows = [
        measure(case, n, options.draws, options.seed) for case in chosen for n in SIZES if n >= case.least
    ]
    print(table(rows))
    if options.json:
        facts = {
            "machine": f"{os.cpu_count()} CPU cores ({platform.machine()})",
            "date": datetime.now(UTC).date().isoformat(),
        }
        options.json.write_text(
            json.dumps({**facts, "draws": options.draws, "seed": options.seed, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
