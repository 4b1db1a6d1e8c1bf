"""The figures of the judge card, from verdicts alone: accuracy, calibration, order, length and wording.

Intervals are 95 %, over the pairs' prompts (their clusters): verdicts on one pair under several principles or
wordings are not independent of each other. A rate of nothing has the value None. Unreadable verdicts are
missing and counted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.audit.cases import AuditCase, Side
from rlaif.constitution import Constitution
from rlaif.feedback.preferences import aggregate, logit, sigmoid
from rlaif.forecasts import calibration_error
from rlaif.intervals import UNIT, count, mean_interval
from rlaif.records import Label, Order, verdict_of
from rlaif.stats import mean, reliability

Rate = dict[str, Any]
ALL = "all"  # the whole constitution, where it stands beside the ids of principles
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.M)


@dataclass(frozen=True)
class Reading:
    """One case under one principle: the probability that a is better, as read in each order."""

    case: AuditCase
    principle_id: str
    shown: dict[Order, float]

    @property
    def p_a(self) -> float | None:
        """Both orders combined: the mean of their logits, None where nothing could be read."""
        logits = [logit(p) for p in self.shown.values()]
        return sigmoid(sum(logits) / len(logits)) if logits else None

    @property
    def cluster(self) -> str:
        """What its verdict may share with others': the prompt, or its group."""
        return self.case.question.prompt.cluster

    @property
    def verdict(self) -> str:
        """The combined verdict: a, b, tie or invalid."""
        return verdict_of(self.p_a)

    @property
    def truth(self) -> Side | None:
        """The better side, "tie", or None where the truth is not known."""
        return self.case.truth.get(self.principle_id)

    @property
    def longer(self) -> Side:
        """The side with more characters."""
        a, b = len(self.case.question.a), len(self.case.question.b)
        return "tie" if a == b else "a" if a > b else "b"


@dataclass(frozen=True)
class WholeReading(Reading):
    """One case under the whole constitution; `preferred` is what the label stage would make of all
    verdicts."""

    preferred: float | None = None

    @property
    def p_a(self) -> float | None:
        """The preference, None where nothing could be read."""
        return self.preferred


def readings(cases: Sequence[AuditCase], labels: Sequence[Label]) -> list[Reading]:
    """The readings of cases under all their principles, in the order of the cases."""
    found: dict[tuple[str, str | None], dict[Order, float]] = defaultdict(dict)
    for label in labels:
        if label.p_a is not None:
            found[label.comparison_id, label.principle_id][label.order] = label.p_a
    return [
        Reading(case, principle.id, found[case.question.comparison.id, principle.id])
        for case in cases
        for principle in case.question.principles
    ]


def whole_readings(
    cases: Sequence[AuditCase], labels: Sequence[Label], constitution: Constitution
) -> list[WholeReading]:
    """The readings of cases under the whole constitution, by the weights of its principles."""
    by_pair: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        by_pair[label.comparison_id].append(label)
    found = []
    for case in cases:
        own = by_pair[case.question.comparison.id]
        sides: dict[Order, list[Label]] = {"ab": [], "ba": []}
        for label in own:
            sides[label.order].append(label)
        shown: dict[Order, float] = {}
        for order, rows in sides.items():
            if said := aggregate(rows, constitution):
                shown[order] = said[0]
        p_a = aggregate(own, constitution)
        found.append(WholeReading(case, ALL, shown, p_a[0] if p_a else None))
    return found


def rate(hits: Iterable[tuple[Reading, float]]) -> Rate:
    """A share with its interval, the number of readings it was counted on and that of their prompts'
    clusters.

    Halves count as half a hit.
    """
    counted = list(hits)
    values, of = [float(hit) for _, hit in counted], [row.cluster for row, _ in counted]
    return {
        "value": mean(values) if values else None,
        "ci": list(mean_interval(values, UNIT, of)),
        "n": len(values),
        "groups": count(len(values), of),
    }


def is_correct(reading: Reading) -> bool:
    """Whether the combined verdict is on the truth's side of one half."""
    p = reading.p_a
    return p is not None and p != 0.5 and (p > 0.5) == (reading.truth == "a")


def decided(rows: Sequence[Reading]) -> list[Reading]:
    """The readings about which the truth knows a better side and the judge could be read."""
    return [row for row in rows if row.truth in ("a", "b") and row.p_a is not None]


def accuracy(rows: Sequence[Reading]) -> dict[str, Any]:
    """How often the judge is right where the truth decides, beside rules that read no principle; ties beside
    it."""
    known = decided(rows)
    ties = [abs(row.p_a - 0.5) for row in rows if row.truth == "tie" and row.p_a is not None]
    guessed = {name: rate((row, guess(row)) for row in known) for name, guess in GUESSES.items()}
    return {
        **rate((row, is_correct(row)) for row in known),
        "baselines": {name: found["value"] for name, found in guessed.items()},
        "baselines_ci": {name: found["ci"] for name, found in guessed.items()},
        "ties": {"n": len(ties), "distance": mean(ties) if ties else None},
        "unread": sum(row.truth in ("a", "b") and row.p_a is None for row in rows),
    }


def _guessed(side: Callable[[Reading], Side]) -> Callable[[Reading], float]:
    return lambda row: 0.5 if side(row) == "tie" else float(side(row) == row.truth)


def _listed(row: Reading) -> Side:
    a, b = (bool(_LIST.search(row.case.side(side))) for side in "ab")
    return "tie" if a == b else "a" if a else "b"


GUESSES: dict[str, Callable[[Reading], float]] = {
    "the longer response": _guessed(lambda row: row.longer),
    "the shorter response": lambda row: 1.0 - _guessed(lambda row: row.longer)(row),
    "the response with a list": _guessed(_listed),
    "always the first stored": _guessed(lambda row: "a"),
}


def calibration(rows: Sequence[Reading]) -> dict[str, Any]:
    """Expected calibration error and reliability bins (forecast, observed, n) where the truth decides.

    `ece_floor` is what a perfect forecaster would get on average from as many verdicts.
    """
    known = decided(rows)
    p, y = [row.p_a or 0.0 for row in known], [float(row.truth == "a") for row in known]
    error = dict(calibration_error(p, y, [row.cluster for row in known]))
    return {**(error if known else dict.fromkeys(error)), "n": len(known), "bins": reliability(p, y)}


def order(rows: Sequence[Reading]) -> dict[str, Any]:
    """Verdicts that flip with the order, among those decided in an order; and towards which slot they
    go."""
    both = [row for row in rows if len(row.shown) == 2]
    firm = [
        (row, row.shown["ab"], row.shown["ba"])
        for row in both
        if any(verdict_of(p) != "tie" for p in row.shown.values())
    ]
    first = [(row, ab > 0.5 >= ba) for row, ab, ba in firm]
    second = [(row, ab <= 0.5 < ba) for row, ab, ba in firm]
    flips = [(row, x or y) for (row, x), (_, y) in zip(first, second, strict=True)]
    return {**rate(flips), "to_first": rate(first), "to_second": rate(second)}


def length(rows: Sequence[Reading]) -> dict[str, Any]:
    """Whether the judge favours length: where nothing else decides, and as the gap between the two kinds of
    pair."""
    open_ = [
        row for row in rows if row.truth in ("tie", None) and row.longer != "tie" and row.p_a is not None
    ]
    firm = [row for row in open_ if row.verdict != "tie"]
    known = decided(rows)
    longer = [row for row in known if row.longer == row.truth]
    shorter = [row for row in known if row.longer not in ("tie", row.truth)]
    return {
        "prefers_longer": {**rate((row, row.verdict == row.longer) for row in firm), "of": len(open_)},
        "right_where_longer_is_better": rate((row, is_correct(row)) for row in longer),
        "right_where_shorter_is_better": rate((row, is_correct(row)) for row in shorter),
    }


def probe(rows: Sequence[Reading], changed: Sequence[Side]) -> dict[str, Any]:
    """How often a response beats itself when only its style changes; ties count half.

    `changed` is the side that wears it, a value a row. Rows in which the truth knows a better side do not
    count.
    """
    fair = [
        (row, side)
        for row, side in zip(rows, changed, strict=True)
        if row.truth in ("tie", None) and row.p_a is not None
    ]
    hits = [(row, 0.5 if row.verdict == "tie" else row.verdict == side) for row, side in fair]
    return {**rate(hits), "ties": rate((row, row.verdict == "tie") for row, _ in fair)}


def wording(pairs: Sequence[tuple[Reading, Reading]]) -> dict[str, Any]:
    """Verdicts decided under one wording of a principle that another wording shares, blurs or turns."""
    firm = [(one, other) for one, other in pairs if one.verdict in ("a", "b") and other.verdict != "invalid"]
    return {
        **rate((one, one.verdict == other.verdict) for one, other in firm),
        "turned": rate((one, {one.verdict, other.verdict} == {"a", "b"}) for one, other in firm),
        "accuracy": accuracy([other for _, other in pairs]),
    }


def by_principle(rows: Sequence[Reading], measure: Callable[[Sequence[Reading]], Any]) -> dict[str, Any]:
    """A measure of each principle's readings."""
    groups: dict[str, list[Reading]] = defaultdict(list)
    for row in rows:
        groups[row.principle_id].append(row)
    return {principle_id: measure(group) for principle_id, group in groups.items()}
