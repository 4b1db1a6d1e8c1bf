"""The win rate that would be found if both responses were equally long, with its interval."""

from __future__ import annotations

import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from rlaif.intervals import NAN, UNIT, Array, Clusters, Interval, clip_interval, dispersion, members, quantile
from rlaif.stats import sigmoid

PRIOR = np.diag([0.0, 0.01, 1.0])  # precisions of θ, φ and ψ


class Controlled(TypedDict):
    """A length-controlled win rate with its interval, or why there is none."""

    value: float
    ci: Interval
    reason: str | None


def length_controlled(wins: ArrayLike, length_difference: ArrayLike, clusters: Clusters = None) -> Controlled:
    """The win rate expected if length did not matter, from outcomes 0, ½ and 1 and length differences [n].

    In the spirit of length-controlled AlpacaEval (arXiv 2404.04475, section 3): a logistic model of the
    decided outcomes on θ + φ·tanh u + ψ·(u − tanh u), u = Δ/sd, at Δ = 0, with the sample's share of ties.
    ψ is added here, for effects that do not level off; a term for an instruction's difficulty is left out,
    since each is seen once. A tie between equal lengths and normal priors on φ (sd 10) and ψ (sd 1) keep what
    is separable finite. The interval holds the win rates at whose θ the model, its other terms fitted again,
    lies no further than t standard errors from the sample by its score (Rao's test), these taken at that θ as
    in `mean_interval`; the share of ties is joined as an independent error.

    Nothing is said (`reason`) where fewer than ten decided pairs, or than a tenth of them, have the longer
    response on one of the two sides: the value would be the model's and not the data's.
    """
    y, delta = np.asarray(wins, float), np.asarray(length_difference, float)
    decided = y != 0.5
    each = [int((delta[decided] <= 0).sum()), int((delta[decided] >= 0).sum())]
    needed = max(10, math.ceil(decided.sum() / 10))
    if min(each) < needed:
        why = (
            f"{each[1]} decided pairs have the first response as long or longer and {each[0]} as short "
            f"or shorter; {needed} are needed"
        )
        return {"value": NAN, "ci": (NAN, NAN), "reason": why}
    member = members(len(y), clusters)
    of_decided = members(int(decided.sum()), list(member[decided]))
    spread, freedom = dispersion(y[decided], UNIT, of_decided)
    t, ties = quantile(freedom, 0.95) * math.sqrt(spread), 1 - float(decided.mean())
    theta, edges = _at_equal_length(y[decided], delta[decided] / (delta.std() or 1.0), t)
    q, (low, high) = float(sigmoid(theta)), (float(sigmoid(edge)) for edge in edges)
    value, half = ties / 2 + (1 - ties) * q, t * (0.5 - q) * math.sqrt(ties * (1 - ties) / len(y))
    ci = value - math.hypot((1 - ties) * (q - low), half), value + math.hypot((1 - ties) * (high - q), half)
    return {"value": value, "ci": clip_interval(ci, UNIT), "reason": None}


def _at_equal_length(wins: Array, x: Array, t: float) -> tuple[float, Interval]:
    """θ and its interval by `length_controlled`'s model of 0/1 wins [n] and length differences in sds [n]."""
    from scipy.optimize import brentq

    x, y = np.append(x, 0.0), np.append(wins, 0.5)
    design = np.stack([np.ones(len(x)), np.tanh(x), x - np.tanh(x)], 1)
    theta, *rest = _fit(design, y, PRIOR, np.zeros(3)).tolist()

    def score(at: float) -> float:
        """How many standard errors the sample lies above the model with θ at a place."""
        fitted = sigmoid(at + design[:, 1:] @ _fit(design[:, 1:], y, PRIOR[1:, 1:], np.array(rest), at))
        return float((y - fitted).sum()) * math.sqrt(np.linalg.inv(_information(design, fitted, PRIOR))[0, 0])

    def edge(side: int) -> float:
        for far in (1, 2, 4, 8, 16, 32):
            if abs(score(theta + side * far)) > t:
                found: Any = brentq(lambda at: score(at) + side * t, theta, theta + side * far, xtol=1e-7)
                return float(found)
        return side * math.inf

    return theta, (edge(-1), edge(1))


def _fit(design: Array, y: Array, prior: Array, beta: Array, offset: float = 0.0) -> Array:
    """The likeliest coefficients of a logistic model with normal priors of these precisions, from a start."""
    for _ in range(60):  # damped Newton; the objective is strictly convex
        fitted = sigmoid(offset + design @ beta)
        step = np.linalg.solve(_information(design, fitted, prior), design.T @ (y - fitted) - prior @ beta)
        beta = beta + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return beta


def _information(design: Array, fitted: Array, prior: Array) -> Array:
    """The curvature of the objective of `_fit` at fitted probabilities."""
    return (design.T * (fitted * (1 - fitted) + 1e-9)) @ design + prior
