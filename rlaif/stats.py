"""Statistics: agreement, calibration, best of n. Pure functions of numbers; their intervals are in
`rlaif.intervals`.

Probabilities and outcomes lie in [0, 1], and what is undefined (no values, no variance) is `nan`: never a
made-up 0. Missing values are taken out by the caller, who counts them, except where None is named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlaif.records import TIE_MARGIN

Array = NDArray[np.float64]
NAN = float("nan")
MAX_LOGIT = 8.0  # of one verdict: 0 and 1 have no logit


def mean(values: ArrayLike) -> float:
    """Arithmetic mean, nan of nothing."""
    array = np.asarray(values, float)
    return float(array.mean()) if array.size else NAN


def sum_known(values: Sequence[float | None]) -> float | None:
    """The sum, None where one of the values is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def std(values: ArrayLike) -> float:
    """Standard deviation of a whole population, nan of nothing."""
    array = np.asarray(values, float)
    return float(array.std()) if array.size else NAN


def reliability(p: ArrayLike, y: ArrayLike, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean forecast, mean outcome, n) of each filled bin of equal width; outcomes may be soft."""
    forecast, outcome = np.asarray(p, float), np.asarray(y, float)
    where = np.minimum((forecast * bins).astype(int), bins - 1)
    return [
        (mean(forecast[where == b]), mean(outcome[where == b]), int((where == b).sum()))
        for b in range(bins)
        if (where == b).any()
    ]


def ece(p: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None, bins: int = 10) -> float:
    """Expected calibration error over bins of equal width (Guo et al., arXiv 1706.04599, section 2)."""
    forecast, outcome = np.asarray(p, float), np.asarray(y, float)
    weight = np.ones_like(forecast) if weights is None else np.asarray(weights, float)
    if not weight.sum():
        return NAN
    where = np.minimum((forecast * bins).astype(int), bins - 1)
    gaps = np.bincount(where, weight * (forecast - outcome), bins)
    return float(np.abs(gaps).sum() / weight.sum())


def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + e^-x) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, float)))


def cross_entropy(logits: ArrayLike, targets: ArrayLike) -> float:
    """Mean binary cross-entropy of sigmoid(logits) against targets in [0, 1], in nats."""
    x, y = np.asarray(logits, float), np.asarray(targets, float)
    return mean(np.logaddexp(0.0, x) - y * x)


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """The T in [0.01, 100] that minimises the cross-entropy of sigmoid(logits / T) (arXiv 1706.04599, section
    4.2)."""
    from scipy.optimize import minimize_scalar

    x, y = np.asarray(logits, float), np.asarray(targets, float)
    if not x.any():
        return NAN
    edge = math.log(100.0)
    # The loss is convex in 1/T, so there is one minimum; bounded search in log T finds it.
    found: Any = minimize_scalar(
        lambda t: cross_entropy(x / math.exp(t), y), bounds=(-edge, edge), method="bounded"
    )
    return float(math.exp(found.x))


def agreement(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> float:
    """Share of equal verdicts among the items both annotators judged (None = not judged)."""
    return mean([x == y for x, y in _both(a, b)])


def cohen_kappa(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> float:
    """Agreement of two annotators beyond chance: (observed − expected) / (1 − expected) (Cohen 1960)."""
    pairs = _both(a, b)
    left, right = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    expected = sum(left[key] * right[key] for key in left) / max(1, len(pairs)) ** 2
    return (agreement(a, b) - expected) / (1 - expected) if pairs and expected < 1 else NAN


def _both(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> list[tuple[Hashable, Hashable]]:
    return [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]


def outcomes(p: ArrayLike, tie_margin: float = TIE_MARGIN) -> Array:
    """Probabilities as wins: 1 above ½, 0 below, ½ (a tie) within `tie_margin` of it."""
    chance = np.asarray(p, float)
    return np.where(np.abs(chance - 0.5) <= tie_margin, 0.5, (chance > 0.5).astype(float))


def best_of_n(proxy: ArrayLike, gold: ArrayLike, n: int) -> float:
    """Unbiased estimate of E[gold of the best by proxy among n samples] from N ≥ n samples, proxy and gold
    [N].

    Σ_{i=n..N} C(i−1, n−1)/C(N, n)·gold_(i) over the samples sorted by proxy (arXiv 2112.09332, appendix I;
    arXiv 2210.10760, section 2); samples of equal proxy share their gold. With gold = proxy it is the
    expected maximum.
    """
    scores, truth = np.asarray(proxy, float), np.asarray(gold, float)
    _, place, size = np.unique(scores, return_inverse=True, return_counts=True)
    shared = np.bincount(place, truth) / size
    ranked, total = np.sort(place), len(scores)
    weights = [math.comb(i, n - 1) / math.comb(total, n) for i in range(total)]
    return float(np.dot(weights, shared[ranked]))


def kl_best_of_n(n: int) -> float:
    """KL of best-of-n from the policy it samples, in nats: log n − (n − 1)/n (exact without ties, else a
    bound)."""
    return math.log(n) - (n - 1) / n


class Overoptimisation(TypedDict):
    """R(d) of d = √KL by Gao et al., and where it peaks (None where it never falls)."""

    alpha: float
    beta: float
    peak: float | None
    rmse: float


def fit_overoptimisation(d: ArrayLike, gain: ArrayLike, kind: str) -> Overoptimisation:
    """Least squares of Gao's forms to gold gains over the start, at distances d = √KL (arXiv 2210.10760,
    section 3.1).

    "bon": R(d) = d(α − βd), peak α/2β. "rl": R(d) = d(α − β·log d), peak exp(α/β − 1).
    """
    x, y = np.asarray(d, float), np.asarray(gain, float)
    x, y = x[x > 0], y[x > 0]
    design = np.stack([x, -x * (x if kind == "bon" else np.log(x))], 1)
    if np.linalg.matrix_rank(design) < 2:
        return {"alpha": NAN, "beta": NAN, "peak": None, "rmse": NAN}
    (alpha, beta), *_ = np.linalg.lstsq(design, y, rcond=None)
    peak = None
    if beta > 0:
        peak = alpha / (2 * beta) if kind == "bon" else math.exp(min(alpha / beta - 1, 700))
    error = float(np.sqrt(((design @ [alpha, beta] - y) ** 2).mean()))
    return {"alpha": float(alpha), "beta": float(beta), "peak": peak, "rmse": error}
