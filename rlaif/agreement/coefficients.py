"""Agreement of several annotators beyond chance: Fleiss' kappa and Krippendorff's alpha, with intervals over
clusters of items.

Axes: I items, A annotators, C categories. Ratings_IA are numbers of categories, MISSING where an annotator
said nothing that can be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from rlaif.forecasts import BY_CHANCE
from rlaif.intervals import (
    LEAST,
    NAN,
    ROUNDING,
    UNIT,
    Array,
    Clusters,
    Interval,
    by_cluster,
    dispersion,
    members,
    quantile,
    score_edges,
)
from rlaif.stats import mean

MISSING = -1
Ratings = NDArray[np.intp]
Metric = Literal["nominal", "ordinal"]
Disagreements = tuple[Array, Array]  # what was observed and what chance would make, each in [0, 1]


class Coefficient(TypedDict):
    """A chance-corrected agreement with its interval; `n` items that two annotators or more rated."""

    value: float
    ci: Interval
    n: int
    groups: int


def counts_of(ratings_IA: Ratings, categories: int) -> Array:
    """How many annotators gave each item each category [I, C]."""
    return np.stack([(ratings_IA == c).sum(1) for c in range(categories)], 1).astype(float)


def agreement_by_item(counts_IC: Array) -> Array:
    """The share of pairs of annotators that agree on each item [I]; nan where fewer than two rated it."""
    rated = counts_IC.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts_IC * (counts_IC - 1)).sum(1) / (rated * (rated - 1))


def fleiss_kappa(ratings_IA: Ratings, categories: int, clusters: Clusters = None) -> Coefficient:
    """Fleiss' kappa (Psychological Bulletin 76, 1971): agreement of pairs beyond that of the pooled shares.

    Items may have different numbers of ratings; each counts the same, and so do its ratings' shares.
    """
    counts_IC, kept = _rated_twice(ratings_IA, categories)
    shares = counts_IC / counts_IC.sum(1, keepdims=True)
    apart = 1 - agreement_by_item(counts_IC)
    sums = np.column_stack([apart, shares, np.ones(len(apart))])

    def parts(totals: Array) -> Disagreements:
        n = totals[:, -1]
        return totals[:, 0] / n, 1 - ((totals[:, 1:-1] / n[:, None]) ** 2).sum(1)

    return _coefficient(sums, parts, 1 - apart, _kept(kept, clusters))


def krippendorff_alpha(
    ratings_IA: Ratings, categories: int, metric: Metric = "nominal", clusters: Clusters = None
) -> Coefficient:
    """Krippendorff's alpha (Content Analysis, 2004, chapter 11) of categories in their order.

    1 − observed / expected disagreement over the pairs of one item's ratings and over all pairs of ratings.
    The ordinal distance of two categories is the number of ratings from one to the other, each counted half,
    squared; here over its largest, so that disagreements lie in [0, 1].
    """
    counts_IC, kept = _rated_twice(ratings_IA, categories)
    rated = counts_IC.sum(1)
    pairs = (counts_IC[:, :, None] * counts_IC[:, None, :]) / (rated - 1)[:, None, None]
    pairs -= np.einsum("ic,cd->icd", counts_IC / (rated - 1)[:, None], np.eye(categories))
    size = categories * categories
    sums = np.column_stack([pairs.reshape(len(counts_IC), size), counts_IC])

    def parts(totals: Array) -> Disagreements:
        pairs, ratings = totals[:, :size].reshape(-1, categories, categories), totals[:, size:]
        n, distance = ratings.sum(1), _distance(ratings, metric)
        chance = np.einsum("gc,gd,gcd->g", ratings, ratings, distance) / (n * (n - 1))
        return (pairs * distance).sum((1, 2)) / n, chance

    distance = _distance(counts_IC.sum(0)[None], metric)[0]
    agreed = 1 - (pairs * distance).sum((1, 2)) / np.maximum(rated, 1)
    return _coefficient(sums, parts, agreed, _kept(kept, clusters))


def _distance(ratings_GC: Array, metric: Metric) -> Array:
    """The distance of each two categories [G, C, C], at most 1, by the numbers of ratings."""
    groups, categories = ratings_GC.shape
    if metric == "nominal":
        return np.broadcast_to(1 - np.eye(categories), (groups, categories, categories))
    place = np.cumsum(ratings_GC, 1) - ratings_GC / 2
    found = (place[:, :, None] - place[:, None, :]) ** 2
    return found / np.maximum(found.max((1, 2), keepdims=True), 1)


def _rated_twice(ratings_IA: Ratings, categories: int) -> tuple[Array, NDArray[np.bool_]]:
    counts_IC = counts_of(ratings_IA, categories)
    kept = counts_IC.sum(1) >= 2
    return counts_IC[kept], kept


def _kept(kept: NDArray[np.bool_], clusters: Clusters) -> Clusters:
    return None if clusters is None else [key for key, ok in zip(clusters, kept, strict=True) if ok]


def _coefficient(
    sums_IS: Array, parts: Callable[[Array], Disagreements], agreed_I: Array, clusters: Clusters
) -> Coefficient:
    """1 − observed / expected disagreement, which `parts` makes of totals [G, S] of the items' sums.

    The interval is the score interval of an item's agreement, on the coefficient's scale; its variance is
    multiplied by what chance, which the ratings tell too, adds or takes: the clusters' influence by leaving
    each out in turn (the jackknife) against the influence they have on the agreement alone. None below 20
    clusters, nor where fewer than 10 of them would disagree by chance.
    """
    n, member = len(agreed_I), members(len(agreed_I), clusters)
    groups = int(member.max()) + 1 if n else 0
    found: Coefficient = {"value": NAN, "ci": (NAN, NAN), "n": n, "groups": groups}
    if not n:
        return found
    observed, expected = (float(x[0]) for x in parts(sums_IS.sum(0)[None]))
    if expected <= ROUNDING:
        return found
    found["value"] = 1 - observed / expected
    if groups < LEAST or groups * expected < BY_CHANCE:
        return found
    of_cluster = np.stack([by_cluster(member, column) for column in sums_IS.T], 1)
    left = sums_IS.sum(0) - of_cluster
    apart, chance = parts(left)
    with np.errstate(invalid="ignore", divide="ignore"):
        without = 1 - apart / chance
    influence = (without - without.mean()) * expected * n * (groups - 1) / groups
    whole = float((influence**2).sum())
    own = float((by_cluster(member, agreed_I - mean(agreed_I)) ** 2).sum())
    spread, freedom = dispersion(agreed_I, UNIT, member)
    ratio = whole / own if own > ROUNDING and math.isfinite(whole) else 1.0
    k = quantile(min(freedom, groups - 1), 0.95) ** 2 * spread / n * ratio
    low, high = (1 - (1 - edge) / expected for edge in score_edges(1 - observed, UNIT, k))
    found["ci"] = (max(-1.0, low), high)
    return found
