"""From labels to preferences: pure arithmetic on what a judge and people said.

Each annotator's opinion of a comparison is one probability before annotators are mixed. A judge's principles
are pieces of evidence: their logits are added, each bounded. People are votes: their share with a Beta prior.
Both are then mixed by weight as probabilities (the linear opinion pool: Stone, Ann. Math. Statist. 32, 1961),
so a weight of 1 against 1 is a mean and one annotator's certainty does not outvote the others. Orders are
averaged in logit space (RLAIF, arXiv 2309.00267, section 2.1, averages both orders). Labels stay as they were
read, so weights and subsets of principles never cost a model call. docs/labelling.md says why, and what was
measured.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from rlaif.constitution import Constitution, Principle
from rlaif.errors import UserError
from rlaif.intervals import UNIT, Interval, mean_interval
from rlaif.records import Label, verdict_of
from rlaif.runs.folder import Stage
from rlaif.stats import MAX_LOGIT

RULE = "2: votes as shares, bounded principles, annotators mixed as probabilities"
OLD_RULE = "1: annotators averaged as logits"  # of runs whose stage.json names none
BOUND = 4.0  # of one principle under one annotator: benchmarks/annotators.py measures 2 to 8
PRIOR = 0.125  # votes for either side before any vote: a vote on its own is stated as 0.9
DRAW = 1e-9  # rounding: nothing decides where the mixed opinion is no further than this from ½
Bounds = tuple[float, float]


def logit(p: float, bound: float = MAX_LOGIT) -> float:
    """log p/(1−p), bounded by ±`bound`."""
    if p <= 0.0 or p >= 1.0:
        return math.copysign(bound, p - 0.5)
    x = math.log(p) - math.log1p(-p)
    return x if -bound < x < bound else math.copysign(bound, x)


def sigmoid(x: float) -> float:
    """1/(1+e^−x), stable on both sides."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def combine_orders(labels: Sequence[Label]) -> dict[tuple[str, str | None], float]:
    """p_a by (annotator, principle): the mean logit over the orders that could be read, one order's as it
    is."""
    read: dict[tuple[str, str, str | None], list[float]] = defaultdict(list)
    for label in labels:
        if label.p_a is not None:
            who = label.annotator
            read[who.kind, who.id, label.principle_id].append(label.p_a)
    return {
        (f"{kind}:{who}", principle): p[0] if len(p) == 1 else sigmoid(sum(map(logit, p)) / len(p))
        for (kind, who, principle), p in read.items()
    }


def p_a_by_annotator(
    labels: Sequence[Label], weights: Mapping[str, float]
) -> dict[str, dict[str | None, float]]:
    """annotator → principle → p_a, of what counts; None stands for the whole comparison.

    A principle that `weights` lacks, or gives 0, says nothing, and an annotator whose labels all say nothing
    is not there. A verdict on the whole comparison stands before those on single principles.
    """
    found: dict[str, dict[str | None, float]] = defaultdict(dict)
    for (annotator, principle), p in combine_orders(labels).items():
        if principle is None or weights.get(principle):
            found[annotator][principle] = p
    return {who: {None: said[None]} if None in said else said for who, said in found.items()}


def opinion(said: Mapping[str | None, float], weights: Mapping[str, float]) -> float:
    """One annotator's probability that a is better: of the whole comparison, or its principles' logits
    added."""
    if None in said:
        return said[None]
    return sigmoid(sum(weights[i] * logit(p, BOUND) for i, p in said.items() if i is not None))


def opinions(labels: Sequence[Label]) -> dict[str, float]:
    """Each annotator's probability that a is better, by "kind:id", where all principles weigh the same."""
    weights = {label.principle_id: 1.0 for label in labels if label.principle_id is not None}
    return {who: opinion(said, weights) for who, said in p_a_by_annotator(labels, weights).items()}


def share(votes: Sequence[float]) -> float:
    """What votes for a, each in [0, 1] and a tie ½, say of the next vote: the mean under a Beta(PRIOR, PRIOR)
    prior."""
    return (sum(votes) + PRIOR) / (len(votes) + 2 * PRIOR)


def aggregate(
    labels: Sequence[Label], constitution: Constitution, human_weight: float = 1.0, clamp: Bounds = (0.0, 1.0)
) -> tuple[float, str | None] | None:
    """(p_a, the id of the principle that decided) of one comparison's labels; None where nothing was said.

    A judge has weight 1, each person `human_weight`: where that is infinite, a judge counts only where people
    say nothing. A judge's opinion is kept within `clamp`.

    The principle that decided moved the mixed opinion furthest towards its side; None where that was no
    principle.
    """
    weights = {p.id: p.weight for p in constitution.principles}
    return mixed(p_a_by_annotator(labels, weights), weights, human_weight, clamp)


def mixed(
    said: Mapping[str, Mapping[str | None, float]],
    weights: Mapping[str, float],
    human_weight: float = 1.0,
    clamp: Bounds = (0.0, 1.0),
) -> tuple[float, str | None] | None:
    """The same of what `p_a_by_annotator` found."""
    counts = _counts(said, human_weight)
    p_a = pool({who: opinion(by, weights) for who, by in said.items()}, human_weight, clamp)
    if p_a is None:
        return None
    pushed: dict[str, float] = defaultdict(float)
    for who, by in said.items():
        for principle, p in by.items():
            if principle is not None:
                towards = math.copysign(abs(p_a - 0.5) > DRAW, p_a - 0.5)
                pushed[principle] += towards * counts[who] * weights[principle] * logit(p, BOUND)
    deciding = max(pushed, key=lambda i: pushed[i], default=None)
    return p_a, deciding if deciding is not None and pushed[deciding] > 0 else None


def pool(opinions: Mapping[str, float], human_weight: float, clamp: Bounds) -> float | None:
    """Annotators' opinions of a comparison, by "kind:id", as one; None where none counts."""
    low, high = clamp
    people = [p for who, p in opinions.items() if not is_judge(who)]
    if people and math.isinf(human_weight):
        return share(people)
    judges = [min(high, max(low, p)) for who, p in opinions.items() if is_judge(who)]
    total = sum(_counts(opinions, human_weight).values())
    voted = human_weight * len(people) * share(people) if people else 0.0
    return (sum(judges) + voted) / total if total else None


def _counts(annotators: Iterable[str], human_weight: float) -> dict[str, float]:
    """What each annotator counts."""
    counted = {who: 1.0 if is_judge(who) else human_weight for who in annotators}
    if math.inf in counted.values():
        return {who: float(count == math.inf) for who, count in counted.items()}
    return counted


def is_judge(who: str) -> bool:
    """Whether an annotator, as "kind:id", is a model."""
    return who.startswith("ai:")


def counting(labels: Sequence[Label], weights: Mapping[str, float], human_weight: float) -> list[Label]:
    """The labels that an aggregate goes by: people's alone where their weight is infinite and they say
    anything."""
    people = [label for label in labels if label.annotator.kind != "ai"]
    alone = math.isinf(human_weight) and p_a_by_annotator(people, weights)
    return people if alone else list(labels)


def without_each(
    said: Mapping[str, Mapping[str | None, float]],
    weights: Mapping[str, float],
    human_weight: float = 1.0,
    clamp: Bounds = (0.0, 1.0),
) -> dict[str, float | None]:
    """What `mixed` would be without each principle that takes part in it; None where nothing is left."""
    fixed = {who: by[None] for who, by in said.items() if None in by}
    logits = {
        who: {i: weights[i] * logit(p, BOUND) for i, p in by.items() if i is not None}
        for who, by in said.items()
        if None not in by
    }
    sums = {who: sum(by.values()) for who, by in logits.items()}
    return {
        principle: pool(
            fixed
            | {
                who: sigmoid(sums[who] - by.get(principle, 0.0))
                for who, by in logits.items()
                if by.keys() != {principle}
            },
            human_weight,
            clamp,
        )
        for principle in dict.fromkeys(i for by in logits.values() for i in by)
    }


def require_one_rule(stage: Stage, rows: str) -> None:
    """Note the rule in stage.json; UserError where earlier `rows` of stages of this name in this run had
    another."""
    for other in stage.run.stages[: stage.number]:
        theirs = other.summary.get("rule", OLD_RULE)
        if other.name == stage.name and (other.dir / f"{rows}.jsonl").exists() and theirs != RULE:
            raise UserError(
                f'{other.dir.name}/{rows}.jsonl: made by the rule "{theirs}", and this version has "{RULE}".',
                "one rule in all of a run",
                "start another run: label.labels_from takes the labels over",
            )
    stage.save("running", rule=RULE)


def weighted_mean(scores: Mapping[str, float], principles: Sequence[Principle]) -> float | None:
    """One reward from a response's scores by principle id, principles by their weights.

    None where one that counts is unread: the mean of the others would be the reward of another constitution.
    """
    counting = [p for p in principles if p.weight]
    if not counting or any(p.id not in scores for p in counting):
        return None
    return sum(scores[p.id] * p.weight for p in counting) / sum(p.weight for p in counting)


@dataclass
class Tally:
    """What a judge's labels say about the judge, counted comparison by comparison so that none has to be
    kept."""

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
                    # The best and the worst of several are two verdicts on a pair, told apart by how they
                    # were read.
                    asked = label.comparison_id, label.principle_id, label.judge.get("decoding")
                    pairs[asked][label.order] = label.p_a
        for p in pairs.values():
            # Where both orders are near 0.5 the judge calls a tie; which side of 0.5 they fall on says
            # nothing.
            if len(p) == 2 and any(verdict_of(x) != "tie" for x in p.values()):
                self.decided += 1
                self.flips += (p["ab"] > 0.5) != (p["ba"] > 0.5)
        return self

    @property
    def asked(self) -> int:
        """Verdicts that are not abstentions."""
        return self.judged - self.abstained

    @property
    def unread(self) -> int:
        """Of those asked, how many could not be read."""
        return self.asked - self.read

    def _count(self, label: Label) -> None:
        self.judged += 1
        if label.reason is not None:
            self.refused += label.reason == "refused"
            self.too_long += label.reason == "too long"
            self.not_numbers += label.reason == label.NUMBERLESS
        self.abstained += label.verdict == "abstain"
        if label.p_a is None:
            return
        self.read += 1
        self.written += label.answer_mass is None
        self.mass += label.answer_mass or 0.0
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
        """How far the judge can be trusted: flips with the order, first-position rate, captured mass,
        unreadable verdicts."""
        return {
            "verdicts": self.judged,
            "decided": self.decided,
            "order_flip_rate": ratio(self.flips, self.decided),
            "first_position_rate": ratio(self.first, self.sided),
            "mass": ratio(self.mass, self.read - self.written),
            "written": self.written,
            "invalid_rate": ratio(self.unread, self.asked),
            "refused": self.refused,
            "too_long": self.too_long,
            "not_numbers": self.not_numbers,
            "abstained": self.abstained,
        }


def ratio(part: float, whole: float) -> float | None:
    """part/whole, None where there is nothing to take a part of."""
    return part / whole if whole else None


class ShareByCluster:
    """A share of 0/1 outcomes that is counted by cluster of prompts, for its interval."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.of: Counter[str] = Counter()

    def add(self, cluster: str, hits: int, of: int = 1) -> None:
        """Count `of` outcomes of a cluster, of which `hits` are 1."""
        if of:
            self.hits[cluster] += hits
            self.of[cluster] += of

    @property
    def value(self) -> float | None:
        """The share, None where nothing was counted."""
        return ratio(self.hits.total(), self.of.total())

    @property
    def ci(self) -> Interval | None:
        """The share's 95 % interval over clusters, None where nothing was counted."""
        values = [
            hit for key, n in self.of.items() for hit in [1] * self.hits[key] + [0] * (n - self.hits[key])
        ]
        return mean_interval(values, UNIT, list(self.of.elements())) if values else None


class TallyByCluster:
    """The shares of tallies that are counted by cluster of prompts, for their intervals."""

    def __init__(self) -> None:
        self.flips, self.first, self.unread = ShareByCluster(), ShareByCluster(), ShareByCluster()

    def add(self, cluster: str, tally: Tally) -> None:
        """Count one cluster's verdicts."""
        self.flips.add(cluster, tally.flips, tally.decided)
        self.first.add(cluster, tally.first, tally.sided)
        self.unread.add(cluster, tally.unread, tally.asked)

    def intervals(self) -> dict[str, Interval | None]:
        """The intervals, under the names that `Tally.figures` gives the shares and `_ci`."""
        shares = {
            "order_flip_rate": self.flips,
            "first_position_rate": self.first,
            "invalid_rate": self.unread,
        }
        return {f"{name}_ci": share.ci for name, share in shares.items()}


def order_statistics(labels: Sequence[Label], clusters: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The figures of a `Tally` of these labels, with the intervals of its shares.

    `clusters` names the cluster of each comparison's prompt; by default every comparison is its own.
    """
    rows: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        rows[label.comparison_id].append(label)
    found = TallyByCluster()
    for comparison, own in rows.items():
        found.add(clusters[comparison] if clusters else comparison, Tally().add(own))
    return {**Tally().add(labels).figures(), **found.intervals()}
