"""Judges side by side on the same pairs: how often each is right, how sure, how steady, how far they agree.

A judge's verdict on a pair is that of the whole constitution, as the label stage would make a preference of
it; order flips and unreadable verdicts are counted principle by principle, as on the judge card. The truth is
what most people say, where it is known. Intervals are 95 %, over clusters of prompts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from rlaif.agreement.decisions import decide
from rlaif.audit import measures
from rlaif.audit.cases import AuditCase
from rlaif.audit.measures import GUESSES, Reading, WholeReading, is_correct
from rlaif.constitution import Constitution
from rlaif.feedback.preferences import order_statistics
from rlaif.forecasts import kappa_interval
from rlaif.intervals import GAP, count, mean_interval, shown
from rlaif.records import Label
from rlaif.stats import mean

MARGIN = 0.05  # beyond the bar: what the power of a verdict on it is told for
Figures = dict[str, Any]
READABILITY = ("verdicts", "invalid_rate", "invalid_rate_ci", "refused", "too_long", "not_numbers", "mass")


@dataclass(frozen=True)
class JudgedCases:
    """One judge's verdicts on some of the cases; `asked` says what identifies it, `cost` what it took."""

    name: str
    cases: Sequence[AuditCase]
    labels: Sequence[Label]
    whole: Sequence[WholeReading]
    asked: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        cases: Sequence[AuditCase],
        labels: Sequence[Label],
        constitution: Constitution,
        asked: Mapping[str, Any],
        cost: Mapping[str, Any] | None = None,
    ) -> JudgedCases:
        """The judge's labels read as verdicts under the whole constitution."""
        return cls(name, cases, labels, measures.whole_readings(cases, labels, constitution), asked, cost)

    @property
    def by_pair(self) -> dict[str, WholeReading]:
        """The verdicts by comparison."""
        return {row.case.question.comparison.id: row for row in self.whole}


def side_by_side(judges: Sequence[JudgedCases], bar: float | None = None) -> Figures:
    """Every figure, as plain data; the judge that is right most often first.

    `bar` asks of each judge whether it is right at least so often, corrected for their number.
    """
    known = any(row.truth for judge in judges for row in judge.whole)
    rows = [_judge(judge, bar, len(judges)) for judge in judges]
    if known:
        rows.sort(key=lambda row: -(row["accuracy"]["value"] or 0.0))
    place = {row["name"]: at for at, row in enumerate(rows)}
    ordered = sorted(judges, key=lambda judge: place[judge.name])
    pairs = list(combinations(ordered, 2))
    return {
        "judges": rows,
        "bar": bar,
        "rules": _rules(ordered) if known else None,
        "people": _people(ordered) if known else None,
        "differences": [_difference(x, y, len(pairs)) for x, y in pairs] if known else [],
        "between": [_between(x, y) for x, y in pairs],
    }


def decides(rows: Sequence[Reading]) -> list[Reading]:
    """The readings whose truth knows a better side, whether or not the judge could be read."""
    return [row for row in rows if row.truth in ("a", "b")]


def _judge(judge: JudgedCases, bar: float | None, judges: int) -> Figures:
    rows = judge.whole
    clusters = {case.question.comparison.id: case.question.prompt.cluster for case in judge.cases}
    read = [row for row in rows if row.p_a is not None]
    sided = [row for row in read if row.verdict != "tie" and row.longer != "tie"]
    labels = order_statistics(judge.labels, clusters)
    right = decides(rows)
    accuracy = measures.accuracy(rows)
    return {
        "name": judge.name,
        "asked": dict(judge.asked),
        "pairs": len(rows),
        "accuracy": measures.rate((row, is_correct(row)) for row in right),
        "readable": {key: accuracy[key] for key in ("value", "ci", "n", "groups")},
        "decision": _decision(right, bar, judges),
        "people": _agreement([row for row in rows if row.truth]),
        "calibration": measures.calibration(rows),
        "order": measures.order(measures.readings(judge.cases, judge.labels)),
        "ties": measures.rate((row, row.verdict == "tie") for row in read),
        "tie_distance": accuracy["ties"],
        "unread": len(rows) - len(read),
        "prefers_longer": measures.rate((row, row.verdict == row.longer) for row in sided),
        "readability": {key: labels[key] for key in READABILITY},
        "cost": None if judge.cost is None else dict(judge.cost),
    }


def _decision(right: Sequence[Reading], bar: float | None, judges: int) -> Any:
    """Whether the judge is right at least as often as the bar asks, corrected for the number of judges
    (Bonferroni)."""
    if bar is None or not right:
        return None
    hits, of = [float(is_correct(row)) for row in right], [row.cluster for row in right]
    level = 1 - 0.05 / judges
    ci = mean_interval(hits, clusters=of, level=level)
    return decide(mean(hits), ci, bar, MARGIN, len(hits), level=level)


def _agreement(rows: Sequence[Reading]) -> Figures:
    """Agreement with the people's majority over a, tie and b; an unreadable verdict agrees with nothing."""
    said, truth = [row.verdict for row in rows], [str(row.truth) for row in rows]
    of = [row.cluster for row in rows]
    found = kappa_interval(said, truth, of) if rows else {"kappa": None, "kappa_ci": None}
    return {"agreement": measures.rate((row, row.verdict == row.truth) for row in rows), **found}


def _rules(judges: Sequence[JudgedCases]) -> Figures:
    """How often rules that read no principle are right on the pairs that any judge was asked about."""
    rows = decides(list({pair: row for judge in judges for pair, row in judge.by_pair.items()}.values()))
    return {name: measures.rate((row, guess(row)) for row in rows) for name, guess in GUESSES.items()}


def _people(judges: Sequence[JudgedCases]) -> Figures:
    """What people say of the same pairs: how often a tie, and how often the longer response."""
    rows = [row for row in {p: row for j in judges for p, row in j.by_pair.items()}.values() if row.truth]
    sided = [row for row in rows if row.truth != "tie" and row.longer != "tie"]
    return {
        "ties": measures.rate((row, row.truth == "tie") for row in rows),
        "prefers_longer": measures.rate((row, row.truth == row.longer) for row in sided),
    }


def _difference(x: JudgedCases, y: JudgedCases, tests: int) -> Figures:
    """How much more often x is right than y, on the pairs that both were asked about."""
    mine, theirs = x.by_pair, y.by_pair
    both = [pair for pair, row in mine.items() if row.truth in ("a", "b") and pair in theirs]
    gaps = [float(is_correct(mine[pair])) - float(is_correct(theirs[pair])) for pair in both]
    of = [mine[pair].cluster for pair in both]
    return {"between": [x.name, y.name], **paired_difference(gaps, of, tests)}


def paired_difference(gaps: Sequence[float], of: Sequence[Hashable], tests: int) -> Figures:
    """The mean of the gaps of pairs (1 = the first judge alone is right, −1 = the second), by clusters.

    `different` says that it is shown not to be 0, at a level corrected for the `tests` differences looked at
    together (Bonferroni), which is that of `ci_corrected`.
    """
    alpha = 0.05 / max(1, tests)
    strict = mean_interval(gaps, GAP, of, 1 - alpha)
    return {
        "value": mean(gaps) if gaps else None,
        "ci": mean_interval(gaps, GAP, of),
        "ci_corrected": strict,
        "n": len(gaps),
        "groups": count(len(gaps), of),
        "only_first": sum(gap > 0 for gap in gaps),
        "only_second": sum(gap < 0 for gap in gaps),
        "different": shown(gaps, strict, of, alpha),
    }


def _between(x: JudgedCases, y: JudgedCases) -> Figures:
    """Agreement of two judges over a, tie and b, where both could be read."""
    mine, theirs = x.by_pair, y.by_pair
    shared = [(row, theirs[pair]) for pair, row in mine.items() if pair in theirs]
    both = [(a, b) for a, b in shared if "invalid" not in (a.verdict, b.verdict)]
    of = [a.cluster for a, _ in both]
    found = (
        kappa_interval([a.verdict for a, _ in both], [b.verdict for _, b in both], of)
        if both
        else {"kappa": None, "kappa_ci": None}
    )
    return {
        "between": [x.name, y.name],
        "agreement": measures.rate((a, a.verdict == b.verdict) for a, b in both),
        "opposite": measures.rate((a, {a.verdict, b.verdict} == {"a", "b"}) for a, b in both),
        "unread": len(shared) - len(both),
        **found,
    }
