"""A mean from few human labels and many predictions: prediction-powered inference (PPI++).

Axes: n labelled values, each with its prediction; N further predictions without a label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from rlaif.intervals import (
    LEAST,
    NAN,
    ROUNDING,
    UNIT,
    Array,
    Clusters,
    Interval,
    count,
    dispersion,
    mean_interval,
    members,
    quantile,
    score_edges,
)

Indices = NDArray[np.intp]
TUNED = 50  # clusters of labels below which these do not tell how far predictions can be trusted


class Powered(TypedDict):
    """A mean of labels helped by predictions, beside that of the labels alone.

    `weight` is how far the predictions are trusted (0: not at all); `labels_alone` is how many labels the
    same precision would take without them, and `saved` how many of these need not be made.
    """

    value: float
    ci: Interval
    classical: float
    classical_ci: Interval
    predicted: float
    weight: float
    n: int
    unlabelled: int
    groups: int
    labels_alone: float
    saved: float


def powered_mean(
    labels_n: Sequence[float],
    predictions_n: Sequence[float],
    others_N: Sequence[float],
    clusters_n: Clusters = None,
    clusters_N: Clusters = None,
    level: float = 0.95,
) -> Powered:
    """The mean of values in [0, 1] by PPI++ (Angelopoulos, Duchi and Zrnic, arXiv 2311.01453, section 6).

    mean(Y) + w·(mean of the other predictions − mean of the labelled ones), with the w in [0, 1] of the
    smallest variance (their power tuning). The variance is the sum over clusters of prompts of squared
    influences, so that a cluster may hold labelled and other items. The interval is a score interval, which
    keeps within [0, 1], with the labels' dispersion times what predictions take from their variance. Below 50
    clusters of labels the weight is 0 and the labels stand alone; below 20 there is no interval. The labelled
    items must be a random sample of all.
    """
    y, f, g = (np.asarray(x, float) for x in (labels_n, predictions_n, others_N))
    of_n, of_N = _members(len(y), len(g), clusters_n, clusters_N)
    groups = count(len(y), clusters_n)
    found: Powered = {
        "value": NAN,
        "ci": (NAN, NAN),
        "classical": float(y.mean()) if len(y) else NAN,
        "classical_ci": mean_interval(y, UNIT, clusters_n, level) if groups >= LEAST else (NAN, NAN),
        "predicted": float(np.concatenate([f, g]).mean()) if len(f) + len(g) else NAN,
        "weight": 0.0,
        "n": len(y),
        "unlabelled": len(g),
        "groups": groups,
        "labels_alone": float(len(y)),
        "saved": 0.0,
    }
    if not len(y):
        return found
    alone, helping = _influences(y, f, g, of_n, of_N)
    weight = found["weight"] = _weight(alone, helping) if groups >= TUNED else 0.0
    found["value"] = min(1.0, max(0.0, found["classical"] + weight * _shift(f, g)))
    if not weight:
        found["ci"] = found["classical_ci"]
        return found
    own, whole = float((alone**2).sum()), float(((alone - weight * helping) ** 2).sum())
    lost = groups / (groups - 2)  # the weight is found from the same labels
    ratio = whole / own * lost if own > ROUNDING else 1.0
    spread, freedom = dispersion(y, UNIT, members(len(y), clusters_n))
    k = quantile(min(freedom, groups - 1), level) ** 2 * spread / len(y) * ratio
    found["ci"] = score_edges(found["value"], UNIT, k)
    found["labels_alone"] = len(y) / ratio if ratio > 0 else math.inf
    found["saved"] = found["labels_alone"] - len(y)
    return found


def _shift(f: Array, g: Array) -> float:
    """Mean of the other predictions less that of the labelled ones, 0 without others."""
    return float(g.mean() - f.mean()) if len(g) else 0.0


def _members(n: int, others: int, clusters_n: Clusters, clusters_N: Clusters) -> tuple[Indices, Indices]:
    """The numbers of the clusters of the labelled and of the other items, one numbering for both."""
    if clusters_n is None or clusters_N is None:
        return np.arange(n), np.arange(n, n + others)
    of = members(n + others, [*clusters_n, *clusters_N])
    return of[:n], of[n:]


def _influences(y: Array, f: Array, g: Array, of_n: Indices, of_N: Indices) -> tuple[Array, Array]:
    """What each cluster adds to mean(Y), and to the mean of labelled less that of the other predictions."""
    size = int(max(of_n.max(initial=0), of_N.max(initial=0))) + 1

    def sums(of: Indices, values: Array) -> Array:
        return np.bincount(of, values, minlength=size).astype(float)

    alone = sums(of_n, y - y.mean()) / len(y)
    if not len(g):
        return alone, np.zeros(size)
    return alone, sums(of_n, f - f.mean()) / len(f) - sums(of_N, g - g.mean()) / len(g)


def _weight(alone: Array, helping: Array) -> float:
    """The w in [0, 1] at which the sum of (alone − w·helping)² is least."""
    variance = float((helping**2).sum())
    return min(1.0, max(0.0, float((alone * helping).sum()) / variance)) if variance > ROUNDING else 0.0
