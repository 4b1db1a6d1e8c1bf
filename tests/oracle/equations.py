"""The intervals of rlaif/intervals.py computed again from their documented equations, which scipy solves.

Nothing here is imported from the project: an interval is the set of means from which the sample lies no further than t
standard errors, found by looking for its edges.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import integrate, optimize, stats

NOTHING = (math.nan, math.nan)
LEAST = 20


def grouped(values: Sequence[float], keys: Sequence[Any]) -> list[list[float]]:
    """The values of each cluster."""
    groups = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        groups[key].append(float(value))
    return list(groups.values())


def shares(amounts: Sequence[float]) -> float:
    total, squares = sum(amounts), sum(a * a for a in amounts)
    return total * total / squares if squares else 0.0


def freedom(sums: list[float], n: int, slope: float) -> float:
    """Satterthwaite's: from the variance of the dispersion's logarithm, estimated from each cluster's influence."""
    groups, mean_square = len(sums), sum(s * s for s in sums) / len(sums)
    influence = [s * s / mean_square - 1 - slope * s * groups / n for s in sums]
    share = sum(i * i for i in influence) / groups / 2 * (groups + 1) / max(groups - 2, 0.5)
    return (groups - 1) / share if share > 1e-9 else math.inf


def two_sided(degrees: float, level: float) -> float:
    """The quantile of Student's t, the normal one without bound on the degrees of freedom."""
    p = 0.5 + level / 2
    return float(stats.norm.ppf(p) if math.isinf(degrees) else stats.t.ppf(p, degrees))


def dispersion(values: Sequence[float], keys: Sequence[Any], low: float, high: float) -> tuple[float, float]:
    """n times the variance of the mean over that of n independent values at the bounds, and degrees of freedom."""
    clusters, n = grouped(values, keys), len(values)
    groups, m = len(clusters), sum(values) / len(values)
    alike = sum(len(c) ** 2 for c in clusters) / n
    at_bounds = all(x in (low, high) for x in values)
    if at_bounds and groups == n:
        return 1.0, math.inf
    if groups < 2:
        return alike, 1.0
    sums = [sum(x - m for x in c) for c in clusters]
    scale, found = (m - low) * (high - m), 0.0
    if scale > 0 and max(values) - min(values) > 1e-9:
        found = sum(s * s for s in sums) / n * groups / (groups - 1) / scale
    degrees = freedom(sums, n, 1 / (m - low) - 1 / (high - m)) if found > 0 else math.inf
    lacking = [[sum(high - x for x in c) for c in clusters], [sum(x - low for x in c) for c in clusters]]
    unseen = max(math.exp(-sum(part) / (high - low) * groups / n - shares(part) / 10) for part in lacking)
    if alike > found:
        found += (alike - found) * unseen
    if not at_bounds:
        middle = float(np.median(values))
        off = shares([sum(abs(x - middle) for x in c) for c in clusters])
        found += 4 * math.exp(-off) * alike / n * max(0.0, 1 - found)
    return found, degrees


def edge(f: Callable[[float], float], inside: float, outside: float) -> float:
    """Where f, negative just outside of `inside`, becomes positive; `outside` where it never does."""
    start = inside + (outside - inside) * 1e-9
    if f(start) >= 0:
        return inside
    return outside if f(outside) < 0 else float(optimize.brentq(f, start, outside, xtol=1e-14))


def interval(
    values: Sequence[float], keys: Sequence[Any], low: float = 0.0, high: float = 1.0, level: float = 0.95
) -> tuple[float, float]:
    """The interval of a mean of values within bounds, which may be infinite, over clusters named by `keys`."""
    values = [float(x) for x in values]
    n, groups = len(values), len(set(keys))
    if n == 0:
        return NOTHING if math.isinf(high) else (low, high)
    m = sum(values) / n
    if math.isfinite(high):
        spread, degrees = dispersion(values, keys, low, high)
        k = two_sided(degrees, level) ** 2 * spread / n

        def beyond(mu: float) -> float:
            return (m - mu) ** 2 - k * (mu - low) * (high - mu)

        return edge(beyond, m, low) if m > low else low, edge(beyond, m, high) if m < high else high
    if groups < 2:
        return NOTHING
    if min(values) < low:
        low = -math.inf
    off = [abs(x - float(np.median(values))) for x in values]
    if not any(off) or (math.isinf(low) and (groups < LEAST or shares(off) < 4)):
        return NOTHING
    sums = [sum(x - m for x in c) for c in grouped(values, keys)]
    error = math.sqrt(sum(s * s for s in sums) * groups / (groups - 1)) / n
    if math.isinf(low):
        return skewed(m, error, sums, two_sided(freedom(sums, n, 0.0), level))
    t = two_sided(freedom(sums, n, 3 / (m - low)), level)

    def off_by(mu: float) -> float:
        return (m - mu) ** 2 - t * t * error**2 * ((mu - low) / (m - low)) ** 3

    # (r − 1)²/r³ is largest at r = 3: beyond it no mean is far enough.
    upper = edge(off_by, m, low + 3 * (m - low))
    return edge(off_by, m, low), upper if off_by(low + 3 * (m - low)) >= 0 else math.inf


def skewed(m: float, error: float, sums: list[float], t: float) -> tuple[float, float]:
    """Hall's interval: g(T) = T + γT²/3√n + γ²T³/27n + γ/6√n is normal, and is solved for T at ±t."""
    n, moments = len(sums), [sum(s**p for s in sums) / len(sums) for p in (2, 3)]
    gamma = moments[1] / moments[0] ** 1.5

    def g(x: float) -> float:
        a = gamma / math.sqrt(n)
        return x + a * x * x / 3 + a * a * x**3 / 27 + a / 6

    roots = [optimize.brentq(lambda x, z=z: g(x) - z, -1e3, 1e3, xtol=1e-13) for z in (t, -t)]
    return m - error * roots[0], m - error * roots[1]


def outcome(p: float) -> float:
    """A win, a loss, or within 0.1 of one half a tie."""
    return 0.5 if abs(p - 0.5) <= 0.1 else float(p > 0.5)


def is_shown(gaps: Sequence[float], keys: Sequence[Any], alpha: float, low: float, high: float) -> bool:
    """Whether a mean difference is shown: by the interval of level 1 − alpha and by all changes of clusters' signs."""
    if len(gaps) < LEAST:
        return False
    edges = interval(gaps, keys, low, high, 1 - alpha)
    if not (edges[0] > 0 or edges[1] < 0):  # nor where there is no interval
        return False
    sums = [s for s in map(sum, grouped(gaps, keys)) if abs(s) > 1e-12]
    if len(sums) > 14:
        return True
    signs = itertools.product((1, -1), repeat=len(sums))
    totals = [abs(sum(s * x for s, x in zip(sign, sums, strict=True))) for sign in signs]
    return sum(t >= abs(sum(sums)) - 1e-12 for t in totals) / len(totals) <= alpha


def difference(
    after: dict[Any, float], before: dict[Any, float], cluster: dict[Any, Any], tests: int = 1,
    low: float = -1.0, high: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """The paired difference over the keys of both, as it is printed."""
    both = [key for key in after if key in before]
    gaps, keys = [after[k] - before[k] for k in both], [cluster[k] for k in both]
    shown = is_shown(gaps, keys, 0.05 / tests, low, high)
    return {"value": float(np.mean(gaps)) if gaps else math.nan, "ci": interval(gaps, keys, low, high),
            "n": len(gaps), "groups": len(set(keys)), "different": shown}  # fmt: skip


def win_rate(chances: Sequence[float | None], keys: Sequence[Any]) -> dict[str, Any]:
    """A win rate over prompts from P(win) of each, None where no verdict could be read."""
    read = [(outcome(p), key) for p, key in zip(chances, keys, strict=True) if p is not None]
    wins, of = [w for w, _ in read], [key for _, key in read]
    edges = interval(wins, of) if wins else NOTHING
    gaps = [w - 0.5 for w in wins]
    return {
        "value": float(np.mean(wins)) if wins else math.nan, "ci": edges, "n": len(wins), "groups": len(set(of)),
        "ties": sum(w == 0.5 for w in wins) / len(wins) if wins else math.nan,
        "invalid": 1 - len(wins) / len(chances) if chances else math.nan,
        "different": bool(wins) and is_shown(gaps, of, 0.05, -0.5, 0.5),
    }  # fmt: skip


def at_equal_length(wins: Sequence[float], longer: Sequence[float], keys: Sequence[Any]) -> dict[str, Any]:
    """The win rate of a logistic model read at equal lengths; nothing where too few differ to either side."""
    rows = list(zip(wins, longer, keys, strict=True))
    decided = [row for row in rows if row[0] != 0.5]
    least = min(sum(d <= 0 for _, d, _ in decided), sum(d >= 0 for _, d, _ in decided))
    if least < max(10, math.ceil(len(decided) / 10)):
        return {"value": math.nan, "ci": NOTHING}
    sd = float(np.std(longer)) or 1.0
    x = np.append(np.tanh([d / sd for _, d, _ in decided]), 0.0)
    y = np.append([w for w, *_ in decided], 0.5)

    def loss(theta: Any) -> float:
        z = theta[0] + theta[1] * x
        return float((np.logaddexp(0, z) - y * z).sum() + 0.005 * theta[1] ** 2)

    theta = optimize.minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x
    p = 1 / (1 + np.exp(-(theta[0] + theta[1] * x)))
    information = np.array(
        [[(p * (1 - p) * x**i).sum() for i in (0, 1)], [(p * (1 - p) * x**i).sum() for i in (1, 2)]]
    )
    information[1, 1] += 0.01
    q, ties = 1 / (1 + math.exp(-theta[0])), 1 - len(decided) / len(rows)
    value = ties / 2 + (1 - ties) * q
    variance = ((1 - ties) * q * (1 - q)) ** 2 * np.linalg.inv(information)[0, 0]
    variance += (0.5 - q) ** 2 * ties * (1 - ties) / len(rows)
    spread, degrees = dispersion([w for w, *_ in decided], [key for *_, key in decided], 0.0, 1.0)
    half = two_sided(degrees, 0.95) * math.sqrt(variance * spread) / (value * (1 - value))
    centre = math.log(value / (1 - value))
    return {"value": value, "ci": tuple(1 / (1 + math.exp(-(centre + side * half))) for side in (-1, 1))}


def calibration(
    p: Sequence[float], y: Sequence[float], keys: Sequence[Any], draws: int = 40_000
) -> dict[str, Any]:
    """ECE over ten bins; its interval by simulating bins' gaps that are normal around λ times the sample's."""
    n, bins = len(p), defaultdict(list)
    for at, forecast in enumerate(p):
        bins[min(int(forecast * 10), 9)].append(at)
    gaps = {b: float(np.mean([p[i] - y[i] for i in rows])) for b, rows in bins.items()}
    value = sum(len(bins[b]) * abs(gap) for b, gap in gaps.items()) / n
    gap_of = {i: gaps[b] for b, rows in bins.items() for i in rows}
    excess = outcome_variance(p, y, gap_of, keys, sum(len(rows) > 1 for rows in bins.values()))
    noise = np.random.default_rng(1).standard_normal((draws, len(bins)))

    def spreads(scale: float) -> list[float]:
        chances = {i: min(1.0, max(0.0, p[i] - scale * gap_of[i])) for i in range(n)}
        return [
            math.sqrt(excess * sum(chances[i] * (1 - chances[i]) for i in rows)) / n for rows in bins.values()
        ]

    def reached(scale: float, share: float) -> float:
        centre = [scale * gaps[b] * len(rows) / n for b, rows in bins.items()]
        return float(np.quantile(np.abs(centre + np.array(spreads(scale)) * noise).sum(1), share)) - value

    def crossing(share: float) -> float:
        if reached(0.0, share) > 0 or reached(64.0, share) < 0:
            return 0.0 if reached(0.0, share) > 0 else 64.0
        return float(optimize.brentq(reached, 0.0, 64.0, (share,), xtol=1e-3))

    # Few clusters of several forecasts do not tell how alike their outcomes are.
    told = len(set(keys)) >= min(n, 30)
    edges = [crossing(share) * value for share in (0.975, 0.025)] if told else list(NOTHING)
    normal = integrate.quad(lambda z: abs(z) * stats.norm.pdf(z), -9, 9)[0]
    return {
        "ece": value,
        "ece_ci": (edges[0], min(1.0, edges[1]) if told else edges[1]),
        "ece_floor": normal * sum(spreads(0.0)),
    }


def outcome_variance(
    p: Sequence[float], y: Sequence[float], gap_of: dict[int, float], keys: Sequence[Any], filled: int
) -> float:
    """The outcomes' variance around calibrated forecasts over that of independent 0/1 outcomes."""
    if len(set(keys)) == len(y) and all(o in (0.0, 1.0) for o in y):
        return 1.0
    q = [min(1.0, max(0.0, p[i] - gap_of[i])) for i in range(len(p))]
    sums = [sum(c) for c in grouped([o - c for o, c in zip(y, q, strict=True)], keys)]
    expected = sum(c * (1 - c) for c in q)
    return sum(s * s for s in sums) / expected * len(sums) / max(len(sums) - filled, 1) if expected else 1.0
