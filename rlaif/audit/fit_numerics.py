"""The numbers of a judge's fit, from arrays: the prior from both orders, temperature and linear heads from
people's opinions, and how well they do on opinions that they were not fitted on.

R readings are one pair under one principle, asked in both orders; N opinions are people's, each of one
reading or, on the whole comparison, of several, whose logits are added by weight as `feedback.preferences`
adds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlaif.engines.fit import HEADS, Kind
from rlaif.feedback.preferences import BOUND
from rlaif.stats import MAX_LOGIT, sigmoid

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
TEMPERATURE_FROM = 50  # opinions from which a temperature is fitted; of a principle, one of its own
HEAD_FROM = 200  # opinions from which a head is fitted
OWN_HEAD_FROM = 50  # opinions of a principle from which its head may differ from the shared one
PRIOR_FROM = 20  # readings of a principle from which it has a prior of its own
STRENGTHS = (10.0, 2.0, 0.5, 0.1)  # of the ridge, from strong to weak, by the number of opinions
OUTER, INNER = 5, 4  # folds that measure, and that choose


@dataclass(frozen=True)
class Readings:
    """What the judge says: own, lean [R] and principle [R] (a number), and states by kind.

    `own` is half the difference of the log-odds of the first-shown response over the two orders: for a
    against b, whatever the order adds; `lean` half their sum: what the order adds. States [R, L, D] likewise:
    `differs[kind]` for a against b, `leans[kind]` what the order adds to them.
    """

    own: Floats
    lean: Floats
    principle: Ints
    differs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    leans: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Opinions:
    """What people say: p_a and cluster [N], principle [N] (−1 for the whole comparison); and of which
    readings: opinion, reading, weight [M]."""

    p_a: Floats
    cluster: Ints
    principle: Ints
    opinion: Ints
    reading: Ints
    weight: Floats

    def added(self, values: Floats) -> Floats:
        """Values [R] or [R, D] of readings added by weight for each opinion."""
        out = np.zeros((len(self.p_a), *values.shape[1:]))
        weight = self.weight.reshape(-1, *[1] * (values.ndim - 1))
        np.add.at(out, self.opinion, weight * values[self.reading])
        return out

    def of(self, kept: NDArray[np.bool_]) -> Opinions:
        """Those opinions alone."""
        number = np.cumsum(kept) - 1
        rows = kept[self.opinion]
        return Opinions(
            self.p_a[kept],
            self.cluster[kept],
            self.principle[kept],
            number[self.opinion[rows]],
            self.reading[rows],
            self.weight[rows],
        )


@dataclass(frozen=True)
class Setting:
    """What is chosen: the kind, of a head its layer (a place in L) and ridge, and whether principles with
    enough opinions have numbers of their own."""

    kind: Kind
    layer: int = 0
    strength: float = 0.0
    own: bool = False


@dataclass(frozen=True)
class Numbers:
    """A fit in numbers, a row for each principle [P] and one that is shared (the last): scale [P+1], prior
    [P+1], head [P+1, D]; middle [P+1, D] as `engines.fit` has it."""

    setting: Setting
    scale: Floats
    prior: Floats
    head: Floats
    middle: Floats

    def logits(self, readings: Readings) -> tuple[Floats, Floats]:
        """(log-odds of a over b [R] over both orders, what the order still adds to one of them [R])."""
        row = readings.principle
        z = self.scale[row] * readings.own
        rest = self.scale[row] * (readings.lean - self.prior[row])
        if self.setting.kind in HEADS:
            at, head = self.setting.layer, self.head[row]
            z = z + np.einsum("rd,rd->r", readings.differs[self.setting.kind][:, at], head)
            if self.setting.kind in readings.leans:
                x = readings.leans[self.setting.kind][:, at] - self.middle[row]
                rest = rest + np.einsum("rd,rd->r", x, head)
        return z, rest


def unfitted(groups: int, prior: Floats | None = None) -> Numbers:
    """The judge as it is, or less the order's prior [P+1]."""
    none = np.zeros((groups + 1, 0))
    zero = np.zeros(groups + 1) if prior is None else prior
    return Numbers(Setting("prior"), np.ones(groups + 1), zero, none, none)


def forecast(numbers: Numbers, readings: Readings, opinions: Opinions) -> Floats:
    """p_a [N] of each opinion, as `preferences` would have it from the fitted judge's labels."""
    z, _ = numbers.logits(readings)
    alone = sigmoid(opinions.added(np.clip(z, -MAX_LOGIT, MAX_LOGIT)))
    whole = sigmoid(opinions.added(np.clip(z, -BOUND, BOUND)))
    return np.where(opinions.principle >= 0, alone, whole)


def order_priors(readings: Readings, principles: int) -> Floats:
    """The median of `lean` under each principle, and of all (the last) [P+1]: with it as many verdicts lean
    to the first position as to the second. The shared one where a principle has too few."""
    shared = float(np.median(readings.lean)) if len(readings.lean) else 0.0
    own = [readings.lean[readings.principle == p] for p in range(principles)]
    return np.array([float(np.median(x)) if len(x) >= PRIOR_FROM else shared for x in own] + [shared])


def fit_logistic(
    own: Floats, x: Floats, y: Floats, strength: float, offset: Floats | float = 0.0, start: Any = None
) -> tuple[float, Floats]:
    """(scale ≥ 0, head [D]) that minimise the mean cross-entropy of sigmoid(offset + scale·own + x·head)
    against y [N] in [0, 1], plus strength/(2N)·|head|².

    The loss is convex; without an intercept, so that a and b may be swapped. `start` is where the search
    begins.
    """
    from scipy.optimize import minimize

    n = max(1, len(y))

    def loss(w: Floats) -> tuple[float, Floats]:
        z = offset + w[0] * own + x @ w[1:]
        error = (sigmoid(z) - y) / n
        value = float((np.logaddexp(0.0, z) - y * z).mean() + strength / (2 * n) * w[1:] @ w[1:])
        return value, np.concatenate([[error @ own], error @ x + strength / n * w[1:]])

    first = np.zeros(1 + x.shape[1]) if start is None else np.concatenate([[start[0]], start[1]])
    bounds = [(0.0, None)] + [(None, None)] * x.shape[1]
    found: Any = minimize(
        loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500, "gtol": 1e-6}
    )
    return float(found.x[0]), np.asarray(found.x[1:])


def fit_numbers(setting: Setting, readings: Readings, opinions: Opinions, prior: Floats) -> Numbers:
    """The numbers of one setting from these opinions; `prior` [P+1] comes from readings alone."""
    groups = len(prior) - 1
    plain = unfitted(groups, prior)
    if setting.kind == "prior":
        return plain
    scale = plain.scale
    own, y = opinions.added(readings.own), opinions.p_a
    if setting.kind == "temperature":
        scale[:] = fit_logistic(own, np.zeros((len(y), 0)), y, 0.0)[0]
        for p in _enough(opinions, groups, TEMPERATURE_FROM) if setting.own else ():
            rows = opinions.principle == p
            scale[p] = fit_logistic(own[rows], np.zeros((int(rows.sum()), 0)), y[rows], 0.0)[0]
        return replace(plain, setting=setting)
    states = readings.differs[setting.kind][:, setting.layer]
    x = opinions.added(states)
    unit = np.sqrt((x**2).mean(0) * x.shape[1])
    unit[unit == 0] = 1.0
    x = x / unit
    scale[:], shared = fit_logistic(own, x, y, setting.strength)
    head = np.tile(shared, (groups + 1, 1))
    for p in _enough(opinions, groups, OWN_HEAD_FROM) if setting.own else ():
        rows = opinions.principle == p
        # The ridge draws a principle's head to the shared one, which its opinions move as far as they bear.
        scale[p], moved = fit_logistic(own[rows], x[rows], y[rows], setting.strength, x[rows] @ shared)
        head[p] = shared + moved
    return Numbers(setting, scale, prior, head / unit, _middles(setting, readings, groups, len(unit)))


def _enough(opinions: Opinions, groups: int, least: int) -> list[int]:
    counts = np.bincount(opinions.principle[opinions.principle >= 0], minlength=groups)
    return [p for p in range(groups) if counts[p] >= least]


def _middles(setting: Setting, readings: Readings, groups: int, width: int) -> Floats:
    """The mean over both orders of the states under each principle, and of all [P+1, D]; 0 of responses,
    whose difference does not depend on the order."""
    if setting.kind not in readings.leans:
        return np.zeros((groups + 1, width))
    states = readings.leans[setting.kind][:, setting.layer]
    shared = states.mean(0)
    own = [states[readings.principle == p] for p in range(groups)]
    return np.array([x.mean(0) if len(x) >= PRIOR_FROM else shared for x in own] + [shared])


def settings_for(readings: Readings, opinions: Opinions, kinds: Sequence[str]) -> list[Setting]:
    """What may be chosen with so many opinions, from simple to rich; `choose` adds numbers of principles' own
    to the best of each kind."""
    n, found = len(opinions.p_a), [Setting("prior")]
    if "temperature" in kinds and n >= TEMPERATURE_FROM:
        found += [Setting("temperature")]
    for kind in HEADS if n >= HEAD_FROM else ():
        if kind in kinds and kind in readings.differs:
            layers = range(readings.differs[kind].shape[1])
            found += [Setting(kind, at, strength) for at in layers for strength in STRENGTHS]
    return found


def folds(cluster: Ints, count: int, seed: int) -> Ints:
    """A fold 0 … count−1 for each row [N]; rows of one cluster (prompt) share one, and folds are of even
    size."""
    rng = np.random.default_rng(seed)
    keys, place, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    fold, filled = np.zeros(len(keys), np.intp), np.zeros(count)
    shuffled = rng.permutation(len(keys))
    for key in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold[key] = int(filled.argmin())
        filled[fold[key]] += sizes[key]
    return fold[place]


def choose(
    settings: Sequence[Setting], readings: Readings, opinions: Opinions, prior: Floats, seed: int
) -> tuple[Setting, dict[Setting, float]]:
    """The setting with the smallest mean cross-entropy on inner folds, the simpler one of equals; and that of
    each. The best of each kind is also tried with numbers of principles' own, where there are several."""
    fold = folds(opinions.cluster, INNER, seed)
    parts = [(opinions.of(fold != held), opinions.of(fold == held)) for held in range(INNER)]
    parts = [(fitted, other) for fitted, other in parts if len(fitted.p_a) and len(other.p_a)]

    def loss(setting: Setting) -> float:
        found = [
            cross_entropies(
                forecast(fit_numbers(setting, readings, fitted, prior), readings, other), other.p_a
            )
            for fitted, other in parts
        ]
        return float(np.concatenate(found).mean()) if found else np.inf

    means = {setting: loss(setting) for setting in settings}
    if len(prior) > 2:  # of several principles
        for kind in dict.fromkeys(s.kind for s in settings if s.kind != "prior"):
            best = min((s for s in settings if s.kind == kind), key=means.__getitem__)
            means[replace(best, own=True)] = loss(replace(best, own=True))
    return min(means, key=lambda s: round(means[s], 9)), means


def nested(
    settings: Sequence[Setting], readings: Readings, opinions: Opinions, prior: Floats, seed: int
) -> Iterator[tuple[NDArray[np.bool_], Numbers]]:
    """(which opinions are held out, the numbers chosen and fitted on all others), fold by fold."""
    fold = folds(opinions.cluster, OUTER, seed)
    for held in range(OUTER):
        rest = opinions.of(fold != held)
        setting, _ = choose(settings, readings, rest, prior, seed + held + 1)
        yield fold == held, fit_numbers(setting, readings, rest, prior)


def cross_entropies(p: Floats, y: Floats) -> Floats:
    """−log of what forecasts p [N] give the outcomes y [N], p no further from ½ than a verdict's may be."""
    low = float(sigmoid(-MAX_LOGIT))
    q = np.clip(p, low, 1 - low)
    return -(y * np.log(q) + (1 - y) * np.log1p(-q))
