"""Which principles explain labels: a sparse logistic model with weights that are not negative. Pure functions
of numbers.

The model is that of `feedback.preferences.aggregate`: the logit of "a is better" is the weighted sum of the
principles' logits, so that a fitted weight is the weight of a principle in a constitution. Principles are
added one at a time, each time the one with the smallest p-value of a score test, as long as that is
significant after correction for all that could have been added (Rao's score; its p-value by changing the
signs of whole clusters of prompts). Held-out figures repeat all of it on the other clusters.

Axes: N labels, J candidates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from rlaif.intervals import (
    GAP,
    NAN,
    ROUNDING,
    Array,
    Interval,
    by_cluster,
    mean_interval,
    quantile,
    rate,
)
from rlaif.intervals import shown as is_shown
from rlaif.records import TIE_MARGIN
from rlaif.stats import cross_entropy, mean, sigmoid

LEVEL = 0.05  # of the test that lets a principle in
PRIOR = 3.0  # standard deviation of a weight before any label, so that separable labels give finite weights
FOLDS = 10
FARTHEST = 30.0  # errors by which a weight can be too large because it was chosen
FEWEST = 50  # clusters below which weights have no interval
FEW, MANY, FLIPS = 14, 500, 20000  # sums of which all signs are changed, or none; changes drawn between
NOTHING = 1e-6  # a weight
SAME = 1e-6  # share of a candidate's variance that the chosen ones leave
Members = NDArray[np.intp]


class Chosen(TypedDict):
    """A principle that explains labels: its place among the candidates, the p-value with which it was let in,
    corrected for the number of candidates, its weight and the weight's 95 % interval."""

    at: int
    p: float
    weight: float
    ci: Interval


def fit(x_NJ: Array, y_N: Array, lowest_J: Sequence[float] | None = None) -> Array:
    """The weights [J] of a logistic model without an intercept (which response stands first is chance), none
    below its least, 0 by default."""
    from scipy.optimize import minimize

    if not x_NJ.shape[1]:
        return np.zeros(0)

    def loss(w: Array) -> tuple[float, Array]:
        logits = x_NJ @ w
        value = float((np.logaddexp(0.0, logits) - y_N * logits).sum()) + float(w @ w) / (2 * PRIOR**2)
        return value, x_NJ.T @ (sigmoid(logits) - y_N) + w / PRIOR**2

    start = np.zeros(x_NJ.shape[1])
    least = [0.0] * len(start) if lowest_J is None else lowest_J
    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(low, None) for low in least])
    return np.asarray(found.x, float)


def choose(
    x_NJ: Array, y_N: Array, member_N: Members, level: float = LEVEL
) -> list[tuple[int, float, float]]:
    """(candidate, corrected p-value, excess) in the order in which they were let in; see the top of the file.

    The excess is how many standard deviations of the score lie between it and the least that is let in: by
    its p-value, which is smaller than the normal one of few clusters, or by the score itself, since no
    p-value is below 1 / `FLIPS`; whichever is more.
    """
    chosen: list[int] = []
    entered: dict[int, tuple[float, float]] = {}
    left = [j for j in range(x_NJ.shape[1]) if x_NJ[:, j].any()]
    while left and len(chosen) < len(y_N) // 10:
        sums = scores(x_NJ, y_N, member_N, chosen, left)
        p = [positive(own) for own in sums]
        # Drawn changes of signs give many strong candidates the same least p-value.
        best = min(range(len(left)), key=lambda at: (p[at], -_deviations(sums[at])))
        corrected = min(1.0, p[best] * len(left))
        if corrected > level:
            break
        normal = NormalDist()
        found = max(_deviations(sums[best]), -normal.inv_cdf(p[best]) if p[best] > 0 else 0.0)
        excess = found + normal.inv_cdf(level / len(left))
        chosen.append(left.pop(best))
        entered[chosen[-1]] = corrected, max(0.0, excess)
        weights = fit(x_NJ[:, chosen], y_N)
        chosen = [j for j, w in zip(chosen, weights, strict=True) if w > NOTHING]
    return [(j, *entered[j]) for j in chosen]


def scores(
    x_NJ: Array, y_N: Array, member_N: Members, chosen: Sequence[int], left: Sequence[int]
) -> list[Array]:
    """The clusters' parts in the score of each of the `left` candidates, beside the chosen ones."""
    p, own_NJ = beside(x_NJ, y_N, chosen, left)
    return [by_cluster(member_N, part) for part in (own_NJ * (y_N - p)[:, None]).T]


def beside(x_NJ: Array, y_N: Array, chosen: Sequence[int], left: Sequence[int]) -> tuple[Array, Array]:
    """The probabilities [N] that the chosen candidates give the labels, and what each of the `left` ones says
    [N, left] that the chosen ones do not say."""
    known = x_NJ[:, list(chosen)]
    p = sigmoid(known @ fit(known, y_N))
    others, weight = x_NJ[:, list(left)], p * (1 - p)
    if chosen:
        root = np.sqrt(weight)[:, None]
        own = others - known @ np.linalg.lstsq(root * known, root * others)[0]
        # What rounding leaves of a candidate that the chosen ones repeat is not its own.
        others = np.where(((root * own) ** 2).sum(0) > SAME * ((root * others) ** 2).sum(0), own, 0.0)
    return p, others


def _deviations(sums: Array) -> float:
    """The total of clusters' sums in standard deviations of totals with signs drawn by chance."""
    return float(sums.sum() / math.sqrt((sums**2).sum())) if sums.any() else 0.0


def positive(sums: Array) -> float:
    """The one-sided p-value of a positive mean of clusters' sums: how often changing their signs by chance
    makes as large a total (Fisher 1935). All changes are tried of few sums, `FLIPS` of more, and the normal
    distribution stands for them where there are very many.
    """
    own = sums[np.abs(sums) > ROUNDING]
    total = float(own.sum())
    if total <= 0:
        return 1.0
    if len(own) > MANY:
        return NormalDist().cdf(-_deviations(own))
    signs = _signs(len(own))
    as_large = int((signs @ own >= total - ROUNDING).sum())
    return as_large / len(signs) if len(own) <= FEW else (1 + as_large) / (1 + len(signs))


@cache
def _signs(count: int) -> NDArray[np.int8]:
    """Changes of signs [changes, count]: all of them, or `FLIPS` drawn by chance, always the same."""
    if count <= FEW:
        return (1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)).astype(np.int8)
    return np.random.default_rng(0).integers(0, 2, (FLIPS, count), np.int8) * 2 - 1


def explain(x_NJ: Array, y_N: Array, member_N: Members, level: float = LEVEL) -> list[Chosen]:
    """The principles that explain the labels with their weights, in the order in which they were let in."""
    chosen = choose(x_NJ, y_N, member_N, level)
    x = x_NJ[:, [j for j, *_ in chosen]]
    weights = fit(x, y_N)
    errors = standard_errors(x, y_N, member_N, weights)
    freedom = float(member_N.max() + 1 - len(chosen)) if chosen else 0.0
    found: list[Chosen] = []
    for place, (j, p, excess) in enumerate(chosen):
        w, error = float(weights[place]), float(errors[place])
        least = least_weight(x, y_N, member_N, weights, place, excess)
        ci = weight_interval(w, error, freedom, least)
        found.append({"at": j, "p": p, "weight": w, "ci": ci})
    return found


def least_weight(
    x_NJ: Array, y_N: Array, member_N: Members, weights: Array, place: int, excess: float
) -> float:
    """The weight of a chosen principle, the one at `place`, had its score been `excess` standard deviations
    smaller: with labels that only just let it in. The other weights move with it to first order."""
    from scipy.optimize import brentq

    others = [at for at in range(len(weights)) if at != place]
    p, own_NJ = beside(x_NJ, y_N, others, [place])
    own, weight, logits = own_NJ[:, 0], float(weights[place]), x_NJ @ weights
    less = excess * math.sqrt((by_cluster(member_N, own * (y_N - p)) ** 2).sum())

    def over(w: float) -> float:
        return float(own @ (y_N - sigmoid(logits + own * (w - weight)))) - less

    if over(weight) >= 0:
        return weight
    found: Any = brentq(over, 0.0, weight) if over(0.0) > 0 else 0.0
    return float(found)


def standard_errors(x_NJ: Array, y_N: Array, member_N: Members, weights: Array) -> Array:
    """Standard errors of weights [J]: by the sandwich variance over clusters (Liang and Zeger, Biometrika 73,
    1986), for J weights fitted, but no less than by the variance that the model itself gives the labels;
    not a number below 50 clusters, where intervals cover too little.

    Where a principle is right about every label on which it has a say, what the fit leaves of these tells
    nothing of the error. Under the model a label y in [0, 1] of probability p has the variance p(1 − p) less
    the mean of y(1 − y), which is 0 for labels of 0 and 1.
    """
    if not len(weights):
        return np.zeros(0)
    p = sigmoid(x_NJ @ weights)
    inside = np.linalg.inv((x_NJ.T * (p * (1 - p))) @ x_NJ + np.eye(len(weights)) / PRIOR**2)
    sums = np.stack([by_cluster(member_N, column) for column in (x_NJ * (y_N - p)[:, None]).T])
    groups = sums.shape[1]
    if groups < FEWEST:
        return np.full(len(weights), NAN)
    middle = sums @ sums.T * groups / (groups - len(weights))
    by_model = (x_NJ.T * (p * (1 - p) - y_N * (1 - y_N))) @ x_NJ
    variances = [np.diag(inside @ each @ inside) for each in (middle, by_model)]
    return np.sqrt(np.maximum(*variances))


def weight_interval(weight: float, error: float, freedom: float, least: float) -> Interval:
    """The 95 % interval of a weight that was chosen because its score is large, so that it would not be here
    below the `least` weight that is let in.

    Its ends are the weights under which one that is let in would be at least as large as this one, or at
    most, in 2.5 % of the cases: Student's t, truncated (Weinstein, Fithian and Benjamini, JASA 108, 2013).
    The upper end is never below the weight. It therefore holds every true weight below the least that is let
    in, which only the lower end can miss, and there does so in 5 %. Far beyond the least, both are those of
    Student's t.
    """
    from scipy.optimize import brentq
    from scipy.special import stdtr

    if not error > 0:
        return NAN, NAN
    excess = (weight - least) / error

    def as_large(off: float) -> float:
        """How likely at least the weight found is of one that is let in, `off` errors above the true one."""
        return float(stdtr(freedom, -off) / stdtr(freedom, excess - off))

    def farthest(chance: float) -> float:
        """How far above the true weight one is at least as large with this chance."""
        end = min(weight / error, FARTHEST)
        found: Any = brentq(lambda off: as_large(off) - chance, 0.0, end) if as_large(end) < chance else end
        return float(found)

    low = farthest(0.025)
    if low > excess:
        low = max(farthest(0.05), excess)
    high: Any = 0.0
    if as_large(high) < 0.975:
        high = brentq(lambda off: as_large(off) - 0.975, -2 * quantile(freedom, 0.95), high)
    return max(0.0, weight - low * error), weight - float(high) * error


def fold_of(member_N: Members, seed: int = 0, folds: int = FOLDS) -> NDArray[np.intp]:
    """Each label's fold; a cluster is whole in one, and folds differ by one cluster at most."""
    groups = int(member_N.max()) + 1 if len(member_N) else 0
    places = list(range(groups))
    random.Random(seed).shuffle(places)
    return np.array(places, np.intp)[member_N] % min(folds, max(1, groups))


class HeldOut(TypedDict):
    """How well labels are told that took no part in the fit.

    `agreement` is the share of the decided labels on whose side the model is (½ where it takes none),
    `length` the same of a model of the difference in length alone; gaps are the model's lead over 0.5 and
    over that.
    Cross-entropies are in nats; a model that knows nothing has 0.693.
    """

    agreement: dict[str, Any]
    length: dict[str, Any]
    over_chance: dict[str, Any]
    over_length: dict[str, Any]
    cross_entropy: dict[str, float]
    folds: int
    chosen_in: list[int]


def held_out(x_NJ: Array, y_N: Array, length_N: Array, member_N: Members, level: float = LEVEL) -> HeldOut:
    """Cross-validated figures; in each fold the principles are chosen anew from the other clusters."""
    fold = fold_of(member_N)
    model, length = np.zeros(len(y_N)), np.zeros(len(y_N))
    chosen_in = [0] * x_NJ.shape[1]
    for number in range(int(fold.max()) + 1 if len(fold) else 0):
        out = fold == number
        other = np.unique(member_N[~out], return_inverse=True)[1] if (~out).any() else member_N[~out]
        picked = [j for j, *_ in choose(x_NJ[~out], y_N[~out], other, level)] if len(other) else []
        for j in picked:
            chosen_in[j] += 1
        model[out] = x_NJ[np.ix_(out, picked)] @ fit(x_NJ[np.ix_(~out, picked)], y_N[~out])
        by_length = length_N[:, None]
        length[out] = by_length[out] @ fit(by_length[~out], y_N[~out], [-math.inf])
    decided = np.abs(y_N - 0.5) > TIE_MARGIN
    keys = member_N[decided].tolist()
    hits = {
        name: _hits(logits[decided], y_N[decided]) for name, logits in (("model", model), ("length", length))
    }
    return {
        "agreement": rate(hits["model"], keys),
        "length": rate(hits["length"], keys),
        "over_chance": _gap(hits["model"] - 0.5, keys, (-0.5, 0.5)),
        "over_length": _gap(hits["model"] - hits["length"], keys, GAP),
        "cross_entropy": {
            "model": cross_entropy(model, y_N),
            "length": cross_entropy(length, y_N),
            "chance": cross_entropy(np.zeros(len(y_N)), y_N),
        },
        "folds": int(fold.max()) + 1 if len(fold) else 0,
        "chosen_in": chosen_in,
    }


def _hits(logits: Array, y: Array) -> Array:
    return np.where(logits == 0, 0.5, ((logits > 0) == (y > 0.5)).astype(float))


def _gap(values: Array, keys: list[int], bounds: Interval) -> dict[str, Any]:
    ci = mean_interval(values, bounds, keys) if len(values) else (NAN, NAN)
    return {"value": mean(values), "ci": ci, "shown": is_shown(values, ci, keys)}
