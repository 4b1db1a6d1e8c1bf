"""The intervals of rlaif/intervals.py computed again from their documented equations, which scipy solves.

Nothing here is imported from the project: an interval is the set of means from which the sample lies no
further than t standard errors, found by looking for its edges.
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


def freedom(sums: list[float], expected: list[float]) -> float:
    """Satterthwaite's: from the variance of the dispersion's logarithm, estimated from each cluster's
    influence."""
    groups, mean_square = len(sums), sum(s * s for s in sums) / len(sums)
    influence = [s * s / mean_square - e for s, e in zip(sums, expected, strict=True)]
    share = sum(i * i for i in influence) / groups / 2 * (groups + 1) / max(groups - 2, 0.5)
    return (groups - 1) / share if share > 1e-9 else math.inf


def two_sided(degrees: float, level: float) -> float:
    """The quantile of Student's t, the normal one without bound on the degrees of freedom."""
    p = 0.5 + level / 2
    return float(stats.norm.ppf(p) if math.isinf(degrees) else stats.t.ppf(p, degrees))


def stepwise(values: Sequence[float], low: float, high: float) -> bool:
    """Whether there are only losses, ties and wins."""
    return all(x in (low, (low + high) / 2, high) for x in values)


def dispersion(values: Sequence[float], keys: Sequence[Any], low: float, high: float) -> tuple[float, float]:
    """n times the variance of the mean over that of n independent values, and degrees of freedom.

    Independent values have the sample's variance where there are only losses, ties and wins, otherwise the
    bounds'.
    """
    clusters, n = grouped(values, keys), len(values)
    groups, m = len(clusters), sum(values) / len(values)
    alike = sum(len(c) ** 2 for c in clusters) / n
    steps = stepwise(values, low, high)
    if steps and groups == n:
        return 1.0, math.inf
    if groups < 2:
        return alike, 1.0
    sums = [sum(x - m for x in c) for c in clusters]
    scale, found = (m - low) * (high - m), 0.0
    if steps:
        scale = sum((x - m) ** 2 for x in values) / n
    if scale > 0 and max(values) - min(values) > 1e-9:
        found = sum(s * s for s in sums) / n * groups / (groups - 1) / scale

    def variance(x: float) -> float:  # what one value adds to the scale
        return (x - m) ** 2 if steps else scale + (low + high - 2 * m) * (x - m)

    expected = [sum(variance(x) for x in c) * groups / n / scale for c in clusters] if found > 0 else []
    degrees = freedom(sums, expected) if found > 0 else math.inf
    if steps:
        places = (low, (low + high) / 2, high)
        off = [[float(sum(x != place for x in c)) for c in clusters] for place in places]
    else:
        off = [[sum(abs(x - place) for x in c) / (high - low) for c in clusters] for place in (low, high)]
    unseen = 0.0
    for part in off:
        mean_off = sum(part) / n  # times clusters: how much all of them are off one place
        if steps:
            unseen = max(unseen, math.exp(-groups * mean_off) * math.exp(-shares(part) / 3))
        else:
            unequal = 1 + float(np.var(part)) / float(np.mean(part)) ** 2 if any(part) else math.inf
            unseen = max(unseen, math.exp(-groups * (0.75 * mean_off + unequal**-3)))
    if alike > found:
        found += (alike - found) * unseen
    if not steps:
        middle = float(np.median(values))
        away = shares([sum(abs(x - middle) for x in c) for c in clusters])
        found += 4 * math.exp(-away) * alike / n * max(0.0, 1 - found)
        sizes = [size for c in clusters if (size := sum(abs(x - (low + high) / 2) for x in c)) > 0]
        equal = shares(sizes) / len(sizes)  # how equally values differ from the middle
        degrees /= 1 - (groups - len(sizes)) / groups * equal**3
    return found, degrees


def likeliest_variance(up: float, down: float, delta: float) -> float:
    """The variance of a loss, tie or win (−1, 0, 1) at the shares that are likeliest where the mean is
    delta."""
    tie = 1 - up - down

    def loss(q: float) -> float:
        logs = [(up, q + delta), (down, q), (tie, 1 - 2 * q - delta)]
        return -sum(w * math.log(max(p, 1e-300)) for w, p in logs if w > 1e-12)

    edges = max(0.0, -delta), (1 - delta) / 2
    q = optimize.minimize_scalar(loss, bounds=edges, method="bounded", options={"xatol": 1e-13}).x
    q = min((q, *edges), key=loss)
    return 2 * q + delta - delta**2


def edge(f: Callable[[float], float], inside: float, outside: float) -> float:
    """Where f, negative just outside of `inside`, becomes positive; `outside` where it never does."""
    start = inside + (outside - inside) * 1e-9
    if f(start) >= 0:
        return inside
    return outside if f(outside) < 0 else float(optimize.brentq(f, start, outside, xtol=1e-14))


def interval(
    values: Sequence[float], keys: Sequence[Any], low: float = 0.0, high: float = 1.0, level: float = 0.95
) -> tuple[float, float]:
    """The interval of a mean of values within bounds, which may be infinite, over clusters named by
    `keys`."""
    values = [float(x) for x in values]
    n, groups = len(values), len(set(keys))
    if n == 0:
        return NOTHING if math.isinf(high) else (low, high)
    m = sum(values) / n
    if math.isfinite(high):
        spread, degrees = dispersion(values, keys, low, high)
        k = two_sided(degrees, level) ** 2 * spread / n

        middle, half = (low + high) / 2, (high - low) / 2
        up, down = (sum(x == bound for x in values) / n for bound in (high, low))

        def beyond(mu: float) -> float:
            if stepwise(values, low, high) and up + down < 1:  # Tango's interval
                variance = half**2 * likeliest_variance(up, down, (mu - middle) / half)
            else:
                variance = (mu - low) * (high - mu)
            return (m - mu) ** 2 - k * variance

        return edge(beyond, m, low) if m > low else low, edge(beyond, m, high) if m < high else high
    if groups < 2:
        return NOTHING
    if min(values) < low:
        low = -math.inf
    sums = [sum(x - m for x in c) for c in grouped(values, keys)]
    skew = abs(skewness(sums))
    few = groups < 25 * skew**2
    if len(set(values)) < 2 or (math.isinf(low) and (few or groups < LEAST)):
        return NOTHING
    error = math.sqrt(sum(s * s for s in sums) * groups / (groups - 1)) / n
    if math.isinf(low):
        return skewed(m, error, sums, two_sided(freedom(sums, [1.0] * groups), level))

    expected = [1 + 3 / (m - low) * s * groups / n for s in sums]
    t = two_sided(1.5 * freedom(sums, expected), level)

    def off_by(mu: float) -> float:
        return (m - mu) ** 2 - t * t * error**2 * ((mu - low) / (m - low)) ** 3

    # (r − 1)²/r³ is largest at r = 3: beyond it no mean is far enough.
    upper = edge(off_by, m, low + 3 * (m - low))
    relative = error * math.sqrt(groups) / (m - low)  # the coefficient of variation
    closed = off_by(low + 3 * (m - low)) >= 0 and groups >= 25 * max(skew, 2 * relative) ** 2
    return edge(off_by, m, low), upper if closed else math.inf


def skewness(sums: list[float]) -> float:
    moments = [sum(s**p for s in sums) / len(sums) for p in (2, 3)]
    return moments[1] / moments[0] ** 1.5 if moments[0] > 0 else 0.0


def skewed(m: float, error: float, sums: list[float], t: float) -> tuple[float, float]:
    """Hall's interval: g(T) = T + γT²/3√n + γ²T³/27n + γ/6√n is normal, and is solved for T at ±t."""
    n, gamma = len(sums), skewness(sums)

    def g(x: float) -> float:
        a = gamma / math.sqrt(n)
        return x + a * x * x / 3 + a * a * x**3 / 27 + a / 6

    roots = [optimize.brentq(lambda x, z=z: g(x) - z, -1e3, 1e3, xtol=1e-13) for z in (t, -t)]
    return m - error * roots[0], m - error * roots[1]


def counted(counts: Sequence[tuple[int, int, Any]]) -> tuple[float, float]:
    """The interval of a share from (how many, of how many, cluster) rows; nothing where nothing was
    counted."""
    values = [(float(at < hits), key) for hits, of, key in counts for at in range(of)]
    return interval([x for x, _ in values], [key for _, key in values]) if values else NOTHING


def outcome(p: float) -> float:
    """A win, a loss, or within 0.1 of one half a tie."""
    return 0.5 if abs(p - 0.5) <= 0.1 else float(p > 0.5)


def is_shown(gaps: Sequence[float], keys: Sequence[Any], alpha: float, low: float, high: float) -> bool:
    """Whether a mean difference is shown: by the interval of level 1 − alpha and by all changes of clusters'
    signs."""
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
    after: dict[Any, float],
    before: dict[Any, float],
    cluster: dict[Any, Any],
    tests: int = 1,
    low: float = -1.0,
    high: float = 1.0,
) -> dict[str, Any]:
    """The paired difference over the keys of both, as it is printed."""
    both = [key for key in after if key in before]
    gaps, keys = [after[k] - before[k] for k in both], [cluster[k] for k in both]
    shown = is_shown(gaps, keys, 0.05 / tests, low, high)
    return {
        "value": float(np.mean(gaps)) if gaps else math.nan,
        "ci": interval(gaps, keys, low, high),
        "n": len(gaps),
        "groups": len(set(keys)),
        "different": shown,
    }


def win_rate(chances: Sequence[float | None], keys: Sequence[Any]) -> dict[str, Any]:
    """A win rate over prompts from P(win) of each, None where no verdict could be read."""
    read = [(outcome(p), key) for p, key in zip(chances, keys, strict=True) if p is not None]
    wins, of = [w for w, _ in read], [key for _, key in read]
    edges = interval(wins, of) if wins else NOTHING
    gaps = [w - 0.5 for w in wins]
    return {
        "value": float(np.mean(wins)) if wins else math.nan,
        "ci": edges,
        "n": len(wins),
        "groups": len(set(of)),
        "ties": sum(w == 0.5 for w in wins) / len(wins) if wins else math.nan,
        "ties_ci": interval([float(w == 0.5) for w in wins], of) if wins else NOTHING,
        "invalid": 1 - len(wins) / len(chances) if chances else math.nan,
        "invalid_ci": interval([float(p is None) for p in chances], keys) if chances else NOTHING,
        "different": bool(wins) and is_shown(gaps, of, 0.05, -0.5, 0.5),
    }


def at_equal_length(wins: Sequence[float], longer: Sequence[float], keys: Sequence[Any]) -> dict[str, Any]:
    """The win rate of a logistic model read at equal lengths; nothing where too few differ to either side."""
    rows = list(zip(wins, longer, keys, strict=True))
    decided = [row for row in rows if row[0] != 0.5]
    least = min(sum(d <= 0 for _, d, _ in decided), sum(d >= 0 for _, d, _ in decided))
    if least < max(10, math.ceil(len(decided) / 10)):
        return {"value": math.nan, "ci": NOTHING}
    sd = float(np.std(longer)) or 1.0
    u = np.append([d / sd for _, d, _ in decided], 0.0)
    y = np.append([w for w, *_ in decided], 0.5)
    terms = [np.ones(len(u)), np.tanh(u), u - np.tanh(u)]

    def loss(theta: Any) -> float:
        z = sum(t * term for t, term in zip(theta, terms, strict=True))
        return float((np.logaddexp(0, z) - y * z).sum() + theta[1] ** 2 / 200 + theta[2] ** 2 / 2)

    def fitted(theta: Any) -> Any:
        return 1 / (1 + np.exp(-sum(t * term for t, term in zip(theta, terms, strict=True))))

    def distance(at: float) -> float:
        """Standard errors of the score for θ, the other two terms likeliest."""
        rest = optimize.minimize(
            lambda b: loss([at, *b]), [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}
        ).x
        p = fitted([at, *rest])
        curve = [[float((p * (1 - p) * a * b).sum()) for a in terms] for b in terms]
        (a, b), (c, d) = [curve[1][1] + 0.01, curve[1][2]], [curve[2][1], curve[2][2] + 1]
        taken = (
            np.array(curve[0][1:]) @ np.array([[d, -b], [-c, a]]) @ np.array(curve[0][1:]) / (a * d - b * c)
        )
        return float((y - p).sum()) / math.sqrt(curve[0][0] - taken)

    theta = optimize.minimize(loss, [0.0, 0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x
    spread, degrees = dispersion([w for w, *_ in decided], [key for *_, key in decided], 0.0, 1.0)
    t = two_sided(degrees, 0.95) * math.sqrt(spread)
    edges = (
        edge(lambda at: abs(distance(at)) - t, float(theta[0]), float(theta[0]) + far) for far in (-30, 30)
    )
    q, (low, high) = 1 / (1 + math.exp(-theta[0])), (1 / (1 + math.exp(-at)) for at in edges)
    ties = 1 - len(decided) / len(rows)
    tied = t * (0.5 - q) * math.sqrt(ties * (1 - ties) / len(rows))
    value = ties / 2 + (1 - ties) * q
    parts = (math.hypot((1 - ties) * (q - bound), tied) for bound in (low, high))
    return {"value": value, "ci": (max(0.0, value - next(parts)), min(1.0, value + next(parts)))}


def calibration(p: Sequence[float], y: Sequence[float], keys: Sequence[Any]) -> dict[str, Any]:
    """ECE over ten bins, and its mean where each bin's gap is normal around nothing."""
    n, bins = len(p), defaultdict(list)
    for at, forecast in enumerate(p):
        bins[min(int(forecast * 10), 9)].append(at)
    gaps = {b: float(np.mean([p[i] - y[i] for i in rows])) for b, rows in bins.items()}
    gap_of = {i: gaps[b] for b, rows in bins.items() for i in rows}
    excess = outcome_variance(p, y, gap_of, keys, sum(len(rows) > 1 for rows in bins.values()))
    spreads = [math.sqrt(excess * sum(p[i] * (1 - p[i]) for i in rows)) / n for rows in bins.values()]
    normal = integrate.quad(lambda z: abs(z) * stats.norm.pdf(z), -9, 9)[0]
    return {
        "ece": sum(len(bins[b]) * abs(gap) for b, gap in gaps.items()) / n,
        "ece_floor": normal * sum(spreads),
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


def kappa_interval(a: Sequence[float], b: Sequence[float], keys: Sequence[Any]) -> tuple[float, float]:
    """Kappa's interval: the agreement's, its variance multiplied as the jackknife's small steps multiply
    kappa's."""
    n, groups = len(a), len(set(keys))
    if groups < LEAST:
        return NOTHING
    rows = list(zip(a, b, strict=True))

    def figures(weight: Sequence[float]) -> tuple[float, float, float]:
        total = sum(weight)
        left, right = defaultdict(float), defaultdict(float)
        for (x, y), w in zip(rows, weight, strict=True):
            left[x] += w / total
            right[y] += w / total
        agreed = sum(w for (x, y), w in zip(rows, weight, strict=True) if x == y) / total
        chance = sum(left[v] * right[v] for v in left)
        return agreed, chance, (agreed - chance) / (1 - chance) if chance < 1 else math.nan

    agreed, chance, value = figures([1.0] * n)
    if math.isnan(value) or groups * (1 - chance) < 10:
        return NOTHING
    step, own, whole = 1e-6, 0.0, 0.0
    for key in set(keys):  # the derivative of both by each cluster's weight
        moved = figures([1.0 + step * (k == key) for k in keys])
        own += ((moved[0] - agreed) / step) ** 2
        whole += ((moved[2] - value) * (1 - chance) / step) ** 2
    same = [float(x == y) for x, y in rows]
    spread, degrees = dispersion(same, keys, 0.0, 1.0)
    factor = whole / own if own > 1e-12 / n**2 else 1.0
    k = two_sided(min(degrees, groups - 1), 0.95) ** 2 * spread * factor / n

    def beyond(p: float) -> float:
        return (agreed - p) ** 2 - k * p * (1 - p)

    low = edge(beyond, agreed, 0.0) if agreed > 0 else 0.0
    high = edge(beyond, agreed, 1.0) if agreed < 1 else 1.0
    return max(-1.0, (low - chance) / (1 - chance)), (high - chance) / (1 - chance)
