"""Several arms on one scale: Bradley and Terry's model (Biometrika 39, 1952) of who wins against whom.

P(i wins against j) = 1/(1 + exp(θ_j − θ_i)); strengths θ are log-odds that add up to 0. A tie is half a win
for either side, as in every win rate here: the equations then match each arm's expected and found number of
wins. The interval is the sandwich over clusters of prompts (Liang and Zeger, Biometrika 73, 1986), which
holds where prompts that ask the same are alike, where outcomes of one prompt go together, and where the model
fits badly.

Axes: K arms; C pairs of them; M matches of seeds; P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from rlaif.intervals import (
    NAN,
    ROUNDING,
    Array,
    Interval,
    by_cluster,
    degrees_of_freedom,
    members,
    quantile,
    seed_chance,
    seed_reuse_factor,
    spread_out,
    with_seed_variance,
)
from rlaif.stats import sigmoid

FEWEST = 10  # clusters of prompts below which there is no interval
ONE_TIE = 1.0  # games drawn that are added between each two arms: one that always wins stays finite
Outcomes = Sequence[Mapping[str, float]]  # match → prompt → 1, ½ or 0: the first arm's outcome


class Strength(TypedDict):
    """An arm's strength with its interval, and the mean of its expected win rates against the others."""

    value: float
    ci: Interval
    expected: float


def strengths(
    pairs: Mapping[tuple[int, int], Outcomes], seeds: Sequence[int], clusters: Mapping[str, str]
) -> list[Strength]:
    """The strengths of K arms, of so many `seeds` each, from the outcomes of the first of each two against
    the second.

    A pair with fewer matches than another takes its own again from the start. Below 10 clusters of prompts
    there is no interval; with several matches it covers their spread, too (`with_seed_variance`,
    `seed_reuse_factor`).
    """
    arms = len(seeds)
    sides_CK = np.zeros((len(pairs), arms))
    for at, (i, j) in enumerate(pairs):
        sides_CK[at, i], sides_CK[at, j] = 1.0, -1.0
    prompts = list(dict.fromkeys(p for rows in pairs.values() for row in rows for p in row))
    wins_CMP, games_CMP = _tables(list(pairs.values()), prompts)
    theta_K, inverse_KK = fit(wins_CMP.sum((1, 2)), games_CMP.sum((1, 2)), sides_CK)
    left_CMP = wins_CMP - games_CMP * sigmoid(sides_CK @ theta_K)[:, None, None]
    influence_MPK = np.einsum("cmp,ck->mpk", left_CMP, sides_CK) @ inverse_KK
    each_MK = np.array(
        [fit(wins_CMP[:, m].sum(1), games_CMP[:, m].sum(1), sides_CK)[0] for m in range(wins_CMP.shape[1])]
    )
    keys = [clusters.get(prompt, prompt) for prompt in prompts]
    sides_KK = np.eye(arms) - 1 / arms  # of each strength: its arm's quality less the mean of all
    again_K = [seed_reuse_factor(seeds, own) for own in sides_KK.tolist()]
    chances_KK = sigmoid(theta_K[:, None] - theta_K[None, :])
    return [
        {
            "value": float(theta_K[k]),
            "ci": _interval(float(theta_K[k]), influence_MPK[:, :, k], each_MK[:, k], keys, again_K[k]),
            "expected": float(chances_KK[k].sum() - 0.5) / max(1, arms - 1),
        }
        for k in range(arms)
    ]


def _tables(pairs: Sequence[Outcomes], prompts: Sequence[str]) -> tuple[Array, Array]:
    """(wins, games) [C, M, P]: 0 games where a prompt has no outcome."""
    matches = max(map(len, pairs))
    shape = (len(pairs), matches, len(prompts))
    wins, games = np.zeros(shape), np.zeros(shape)
    place = {prompt: at for at, prompt in enumerate(prompts)}
    for c, rows in enumerate(pairs):
        for m in range(matches):
            for prompt, outcome in rows[m % len(rows)].items():
                wins[c, m, place[prompt]], games[c, m, place[prompt]] = outcome, 1.0
    return wins, games


def fit(wins_C: Array, games_C: Array, sides_CK: Array) -> tuple[Array, Array]:
    """(θ [K], generalised inverse of the information [K, K]) by Newton's method, its steps bounded."""
    wins, games = wins_C + ONE_TIE / 2, games_C + ONE_TIE
    theta: Array = np.zeros(sides_CK.shape[1])
    inverse: Array = np.zeros((0, 0))
    for _ in range(100):
        chances = sigmoid(sides_CK @ theta)
        information = (sides_CK.T * (games * chances * (1 - chances))) @ sides_CK
        inverse = np.asarray(np.linalg.pinv(information, hermitian=True), float)
        step = inverse @ (sides_CK.T @ (wins - games * chances))
        theta = theta + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return theta, inverse


def _interval(
    value: float, influence_MP: Array, each_M: Array, keys: Sequence[str], again: float
) -> Interval:
    """θ within t standard errors, with Satterthwaite's degrees of freedom, joined with the spread of matches,
    `again` times as great."""
    sums = by_cluster(members(len(keys), keys), influence_MP.sum(0))
    groups = len(sums)
    error = math.sqrt(float((sums**2).sum()) * groups / max(1, groups - 1))
    if groups < FEWEST or error < ROUNDING:
        return NAN, NAN
    half = quantile(degrees_of_freedom(sums, np.ones(groups)), 0.95) * error
    chance = min(1.0, again * seed_chance(value + influence_MP * influence_MP.size, clusters=keys))
    each = spread_out(each_M.tolist(), again)
    return with_seed_variance(value, (value - half, value + half), each, chance=chance, groups=groups)
