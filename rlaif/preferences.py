"""From labels to preferences: pure arithmetic on what a judge and people said.

Orders are averaged and principles added in logit space (RLAIF, arXiv 2309.00267, section 2.1, averages both orders);
labels stay as they were read, so weights and subsets of principles never cost a model call.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from rlaif.constitution import Constitution
from rlaif.records import Label, verdict_of

MAX_LOGIT = 8.0  # one principle's say is bounded: a saturated verdict must not silence all others


def logit(p: float) -> float:
    """log p/(1−p), bounded by ±MAX_LOGIT."""
    if p <= 0.0 or p >= 1.0:
        return math.copysign(MAX_LOGIT, p - 0.5)
    x = math.log(p) - math.log1p(-p)
    return x if -MAX_LOGIT < x < MAX_LOGIT else math.copysign(MAX_LOGIT, x)


def sigmoid(x: float) -> float:
    """1/(1+e^−x), stable on both sides."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def combine_orders(labels: Sequence[Label]) -> dict[tuple[str, str | None], float]:
    """p_a by (annotator, principle): the mean logit over the orders that could be read."""
    logits: dict[tuple[str, str, str | None], list[float]] = defaultdict(list)
    for label in labels:
        if label.p_a is not None:
            who = label.annotator
            logits[who.kind, who.id, label.principle_id].append(logit(label.p_a))
    return {(f"{kind}:{who}", principle): sigmoid(sum(values) / len(values))
            for (kind, who, principle), values in logits.items()}  # fmt: skip


def aggregate(
    labels: Sequence[Label], constitution: Constitution, human_weight: float = 1.0
) -> tuple[float, str | None] | None:
    """(p_a, the id of the principle that decided) of one comparison's labels; None where nothing could be read.

    Under each annotator the principles' logits are added with their weights, as independent pieces of evidence;
    annotators are then averaged, people counting `human_weight` against an AI judge's 1. A tie under a principle has
    logit 0 and says nothing.
    """
    weights = {p.id: p.weight for p in constitution.principles}
    totals: dict[str, float] = defaultdict(float)
    by_principle: dict[str, float] = defaultdict(float)
    for (annotator, principle_id), p in combine_orders(labels).items():
        say = logit(p) * (1.0 if principle_id is None else weights.get(principle_id, 0.0))
        totals[annotator] += say
        if principle_id is not None:
            by_principle[principle_id] += say
    shares = {name: 1.0 if name.startswith("ai:") else human_weight for name in totals}
    if not totals or sum(shares.values()) == 0:
        return None
    total = sum(totals[name] * share for name, share in shares.items()) / sum(shares.values())
    deciding = max(by_principle, key=lambda i: by_principle[i] * math.copysign(1, total), default=None)
    return sigmoid(total), deciding


def weighted_mean(scores: Mapping[str, float], constitution: Constitution) -> float | None:
    """One reward from a reply's scores by principle id, principles by their weights; None where nothing was read."""
    weights = {p.id: p.weight for p in constitution.principles if p.id in scores}
    total = sum(weights.values())
    return sum(scores[i] * weight for i, weight in weights.items()) / total if total else None


@dataclass
class Tally:
    """What a judge's labels say about the judge, counted comparison by comparison so that none has to be kept."""

    rows: int = 0
    judged: int = 0
    read: int = 0
    mass: float = 0.0
    confidence: float = 0.0
    sided: int = 0
    first: int = 0
    decided: int = 0
    flips: int = 0
    refused: int = 0
    too_long: int = 0
    not_numbers: int = 0
    abstained: int = 0
    written: int = 0

    def add(self, labels: Sequence[Label]) -> Tally:
        """Count labels; both orders of a verdict must come in one call."""
        pairs: dict[tuple[str | None, ...], dict[str, float]] = defaultdict(dict)
        for label in labels:
            self.rows += 1
            if label.annotator.kind == "ai":
                self._count(label)
                if label.p_a is not None:
                    # The best and the worst of several are two verdicts on a pair, told apart by how they were read.
                    asked = label.comparison_id, label.principle_id, label.judge.get("decoding")
                    pairs[asked][label.order] = label.p_a
        for p in pairs.values():
            # Where both orders are near 0.5 the judge calls a tie; which side of 0.5 they fall on says nothing.
            if len(p) == 2 and any(verdict_of(x) != "tie" for x in p.values()):
                self.decided += 1
                self.flips += (p["ab"] > 0.5) != (p["ba"] > 0.5)
        return self

    def _count(self, label: Label) -> None:
        self.judged += 1
        if label.reason is not None:
            self.refused += label.reason == "refused"
            self.too_long += label.reason == "too long"
            self.not_numbers += label.reason == "not a number"
        self.abstained += label.verdict == "abstain"
        if label.p_a is None:
            return
        self.read += 1
        self.written += label.mass is None
        self.mass += label.mass or 0.0
        self.confidence += abs(label.p_a - 0.5)
        side = verdict_of(label.p_a)
        if side != "tie":
            self.sided += 1
            self.first += (side == "a") == (label.order == "ab")

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """The tally of all that these have counted."""
        counted = [astuple(tally) for tally in tallies]
        return cls(*map(sum, zip(*counted, strict=True)))

    def figures(self) -> dict[str, Any]:
        """How far the judge can be trusted: flips with the order, first-position rate, captured mass, unreadable verdicts."""
        asked = self.judged - self.abstained
        return {
            "verdicts": self.judged,
            "decided": self.decided,
            "order_flip_rate": ratio(self.flips, self.decided),
            "first_position_rate": ratio(self.first, self.sided),
            "mass": ratio(self.mass, self.read - self.written),
            "written": self.written,
            "invalid_rate": ratio(asked - self.read, asked),
            "refused": self.refused,
            "too_long": self.too_long,
            "not_numbers": self.not_numbers,
            "abstained": self.abstained,
        }


def ratio(part: float, whole: float) -> float | None:
    """part/whole, None where there is nothing to take a part of."""
    return part / whole if whole else None


def order_statistics(labels: Sequence[Label]) -> dict[str, Any]:
    """The figures of a `Tally` of these labels."""
    return Tally().add(labels).figures()
