"""May a judge stand in for people? The alternative annotator test, and the ceiling that people set.

Axes: I items, H people. Ratings are numbers of categories; MISSING is nothing that can be read.
"""

from __future__ import annotations

import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from rlaif.agreement.coefficients import MISSING, Ratings
from rlaif.agreement.decisions import Decision, decide, false_discovery, p_below
from rlaif.intervals import GAP, LEAST, NAN, UNIT, Clusters, Interval, count, mean_interval
from rlaif.stats import mean

LEVEL = 0.05  # false discovery rate of the test
WINNING = 0.5  # share of the people that a judge must not be worse than
Named = dict[str, Any]
Bools = NDArray[np.bool_]


class Replaced(TypedDict):
    """One person whom the judge is put in place of.

    `judge` and `person` are the shares of items in which each agrees with the other people at least as well
    as the other does; `gap` is person − judge, and the upper end of its 90 % interval
    that of the one-sided test.
    """

    person: str
    judge: float
    own: float
    gap: float
    ci: Interval
    p: float
    p_adjusted: float
    n: int
    groups: int
    decision: Decision


class StandIn(TypedDict):
    """The alternative annotator test: `winning_rate` of the people, and the mean share in which the judge is
    at least as good."""

    verdict: str
    epsilon: float
    winning_rate: float
    advantage: float
    people: list[Replaced]
    reason: str | None
    more: int | None


def alternative_annotator_test(
    people_IH: Ratings,
    judge_I: NDArray[np.intp],
    names: list[str],
    epsilon: float = 0.1,
    clusters: Clusters = None,
) -> StandIn:
    """The test of Calderon, Reichart and Dror (arXiv 2501.10970, section 3) for verdicts.

    Each person in turn is left out: on the items that this person and another one rated, judge and person are
    scored by the share of the other people they agree with. The judge is not worse than the person where
    person − judge, as the shares of items at which each is at least as good, is shown to be below `epsilon`,
    which stands for what a judge saves; over people the p-values are corrected by Benjamini and Yekutieli. It
    may stand in for them where that is so of half of them.

    Unlike there, the test of one person is the inverted interval of `mean_interval`: it takes clusters of
    prompts as independent, and its error is the stated one where differences are rare, which that of a t-test
    is not (docs/results/agreement-coverage.md). What cannot be read of the judge agrees with nobody.
    """
    found: list[Replaced] = []
    if people_IH.shape[1] < 2:
        return _untested(epsilon, "the test needs two people or more who labelled the same pairs")
    rows = [_left_out(people_IH, judge_I, h) for h in range(people_IH.shape[1])]
    kept = [h for h, (_, rated) in enumerate(rows) if rated.any()]
    if not kept:
        return _untested(epsilon, "no pair was labelled by two people and the judge")
    p = [p_below(_gaps(rows[h]), epsilon, GAP, _of(clusters, rows[h][1])) for h in kept]
    p = [p if _enough(rows[h][1], clusters) else 1.0 for h, p in zip(kept, p, strict=True)]
    adjusted = false_discovery(p)
    for h, raw, q in zip(kept, p, adjusted, strict=True):
        found.append(_replaced(names[h], rows[h], epsilon, raw, q, clusters))
    won = sum(row["decision"]["verdict"] == "holds" for row in found)
    open_ = [row for row in found if row["decision"]["verdict"] == "inconclusive"]
    needed = math.ceil(WINNING * len(found))
    verdict = "holds" if won >= needed else "inconclusive" if won + len(open_) >= needed else "fails"
    return {
        "verdict": verdict,
        "epsilon": epsilon,
        "winning_rate": won / len(found),
        "advantage": mean([row["judge"] for row in found]),
        "people": found,
        "reason": None,
        "more": _more(open_, needed - won) if verdict == "inconclusive" else None,
    }


def _untested(epsilon: float, reason: str) -> StandIn:
    return {
        "verdict": "inconclusive",
        "epsilon": epsilon,
        "winning_rate": NAN,
        "advantage": NAN,
        "people": [],
        "reason": reason,
        "more": None,
    }


def _more(open_: list[Replaced], needed: int) -> int | None:
    """Labels each that the easiest of the undecided people need for the judge to win as many as it lacks."""
    asked = sorted(math.inf if row["decision"]["more"] is None else row["decision"]["more"] for row in open_)
    return None if not asked or math.isinf(asked[needed - 1]) else int(asked[needed - 1])


Scored = tuple[NDArray[np.float64], Bools]


def _left_out(people_IH: Ratings, judge_I: NDArray[np.intp], h: int) -> Scored:
    """Of the person h left out: judge and own agreement with the others [I, 2], and the items that count."""
    others = np.delete(people_IH, h, 1)
    said = (others != MISSING).sum(1)
    kept = (people_IH[:, h] != MISSING) & (said > 0)
    agreed = [((others == x[:, None]) & (others != MISSING)).sum(1) for x in (judge_I, people_IH[:, h])]
    return np.stack(agreed, 1) / np.maximum(said, 1)[:, None], kept


def _gaps(row: Scored) -> list[float]:
    """At each item that counts: 1 where the person alone is better, −1 where the judge is, 0 for equals."""
    scores, kept = row
    return np.sign(scores[kept, 1] - scores[kept, 0]).tolist()


def _of(clusters: Clusters, kept: Bools) -> Clusters:
    return None if clusters is None else [key for key, ok in zip(clusters, kept, strict=True) if ok]


def _enough(kept: Bools, clusters: Clusters) -> bool:
    return count(int(kept.sum()), _of(clusters, kept)) >= LEAST


def _replaced(
    name: str, row: Scored, epsilon: float, p: float, adjusted: float, clusters: Clusters
) -> Replaced:
    gaps, of = _gaps(row), _of(clusters, row[1])
    ci = mean_interval(gaps, GAP, of, 1 - 2 * LEVEL)
    edges = ci if _enough(row[1], clusters) else (NAN, NAN)
    decision = decide(mean(gaps), edges, epsilon, epsilon, len(gaps), at_least=False, level=1 - 2 * LEVEL)
    if decision["verdict"] == "holds" and adjusted > LEVEL:  # shown alone, but not beside the other people
        decision["verdict"] = "inconclusive"
    return {
        "person": name,
        "judge": mean([gap <= 0 for gap in gaps]),
        "own": mean([gap >= 0 for gap in gaps]),
        "gap": mean(gaps),
        "ci": ci,
        "p": p,
        "p_adjusted": adjusted,
        "n": len(gaps),
        "groups": count(len(gaps), of),
        "decision": decision,
    }


class Ceiling(TypedDict):
    """How far a person agrees with the majority of the others, and the judge with the same majorities."""

    people: float
    people_ci: Interval
    judge: float
    judge_ci: Interval
    gap: float
    gap_ci: Interval
    n: int
    groups: int


def human_ceiling(people_IH: Ratings, judge_I: NDArray[np.intp], clusters: Clusters = None) -> Ceiling:
    """The judge beside the people, each measured against the same majorities: those without one person.

    Of every person who rated an item that others rated, too: does the person, does the judge agree with the
    majority of the others? Where two categories share the lead, agreeing with either of k counts 1/k. Means
    are over persons and items; people's disagreement is the ceiling of what any judge can reach here.
    """
    mine, judge, of = [], [], []
    categories = int(max(people_IH.max(initial=0), judge_I.max(initial=0))) + 1
    for h in range(people_IH.shape[1]):
        lead_IC, kept = _majority(np.delete(people_IH, h, 1), categories)
        kept &= people_IH[:, h] != MISSING
        at = np.flatnonzero(kept)
        mine += lead_IC[at, people_IH[at, h]].tolist()
        judge += [float(lead_IC[i, judge_I[i]]) if judge_I[i] != MISSING else 0.0 for i in at]
        of += [at_i if clusters is None else clusters[at_i] for at_i in at.tolist()]
    gaps = [x - y for x, y in zip(judge, mine, strict=True)]
    return {
        "people": mean(mine),
        "people_ci": mean_interval(mine, UNIT, of),
        "judge": mean(judge),
        "judge_ci": mean_interval(judge, UNIT, of),
        "gap": mean(gaps),
        "gap_ci": mean_interval(gaps, GAP, of),
        "n": len(mine),
        "groups": count(len(mine), of),
    }


def _majority(people_IH: Ratings, categories: int) -> tuple[NDArray[np.float64], Bools]:
    """Each category's share of the lead [I, C] (1 for the only most frequent one), and where there is any."""
    counts = np.stack([(people_IH == c).sum(1) for c in range(categories)], 1)
    most = counts.max(1)
    leads = (counts == most[:, None]) & (counts > 0)
    shares = leads / np.maximum(leads.sum(1), 1)[:, None]
    return shares, most > 0
