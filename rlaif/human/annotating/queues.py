"""In which order people see what they annotate: a table of queues, each a pure function of stored rows.

`rlaif annotate --queue` orders by them, and `label.human.route` sends people the first of them.
Only a random order gives figures that hold for all pairs. The others find the pairs on which a label tells
most, so that agreement measured on their first labels is that on hard pairs.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeVar

from rlaif.errors import UserError, nearest
from rlaif.feedback.preferences import opinion, p_a_by_annotator, sigmoid
from rlaif.human.labelled import judge_of
from rlaif.records import Label

T = TypeVar("T")


@dataclass(frozen=True)
class Evidence:
    """What is stored of one comparison: judges' labels, weights of principles, rewards of (a, b)."""

    labels: Sequence[Label] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    rewards: tuple[float, float] | None = None

    def judges(self) -> list[Mapping[str | None, float]]:
        """Of each judge, by principle, p_a of both orders together; asked in another way it is another
        judge."""
        asked: defaultdict[tuple[str, ...], list[Label]] = defaultdict(list)
        for label in self.labels:
            if label.annotator.kind == "ai":
                asked[judge_of(label)].append(label)
        ids = {label.principle_id for own in asked.values() for label in own if label.principle_id}
        weights = self.weights or dict.fromkeys(ids, 1.0)
        return [said for own in asked.values() for said in p_a_by_annotator(own, weights).values()]

    def opinions(self) -> list[float]:
        """Each judge's probability that a is better."""
        judges = self.judges()
        weights = {p: self.weights.get(p, 1.0) for said in judges for p in said if p is not None}
        return [opinion(said, weights) for said in judges]


Score = Callable[[Evidence], float | None]


@dataclass(frozen=True)
class Queue:
    """An order. `score` says how early a comparison comes, the highest first; None where nothing is known."""

    name: str
    title: str
    needs: str = ""
    score: Score | None = None


def unsure(found: Evidence) -> float | None:
    """How near the judges' mean opinion is to one half."""
    said = found.opinions()
    return -abs(fmean(said) - 0.5) if said else None


def orders_disagree(found: Evidence) -> float | None:
    """How far the verdicts of the two orders are apart, a mean over judges and principles."""
    read: defaultdict[tuple[tuple[str, ...], str | None], dict[str, float]] = defaultdict(dict)
    for label in found.labels:
        if label.annotator.kind == "ai" and label.p_a is not None:
            read[judge_of(label), label.principle_id][label.order] = label.p_a
    apart = [abs(by["ab"] - by["ba"]) for by in read.values() if len(by) == 2]
    return fmean(apart) if apart else None


def principles_conflict(found: Evidence) -> float | None:
    """How strongly the principles of the weaker side speak for it, a mean over judges."""
    conflicts = []
    for said in found.judges():
        leads = [found.weights.get(p, 1.0) * (p_a - 0.5) for p, p_a in said.items() if p is not None]
        if len(leads) > 1:
            conflicts.append(min(sum(x for x in leads if x > 0), -sum(x for x in leads if x < 0)))
    return fmean(conflicts) if conflicts else None


def reward_against_judge(found: Evidence) -> float | None:
    """How far the reward model's probability is from the judges' mean opinion."""
    said = found.opinions()
    if not said or found.rewards is None:
        return None
    return abs(fmean(said) - sigmoid(found.rewards[0] - found.rewards[1]))


def judges_disagree(found: Evidence) -> float | None:
    """How far apart the two judges are that are furthest apart."""
    said = found.opinions()
    return max(said) - min(said) if len(said) > 1 else None


_ALL = (
    Queue("random", "in random order"),
    Queue("in-order", "as they stand in the data"),
    Queue("unsure", "where the judge is unsure", "a judge's labels", unsure),
    Queue("orders", "where the orders disagree", "a judge's labels in both orders", orders_disagree),
    Queue("principles", "where principles conflict", "labels under two principles", principles_conflict),
    Queue(
        "reward",
        "where reward model and judge disagree",
        "a judge's labels and rewards",
        reward_against_judge,
    ),
    Queue("judges", "where two judges disagree", "the labels of two judges", judges_disagree),
)
QUEUES: dict[str, Queue] = {queue.name: queue for queue in _ALL}


def queue_named(name: str, option: str = "--queue") -> Queue:
    """The queue of that name, which `option` asks for; UserError where there is none."""
    if name not in QUEUES:
        known = "; ".join(f"{queue.name} ({queue.title})" for queue in QUEUES.values())
        raise UserError(f'{option} "{name}" — {nearest(name, list(QUEUES))}', known)
    return QUEUES[name]


def ordered(
    queue: Queue,
    items: Sequence[T],
    evidence: Callable[[T], Sequence[Evidence]],
    seed: int,
    option: str = "--queue",
) -> list[T]:
    """The items as the queue orders them; one of several comparisons goes by their mean.

    Equal ones are in random order, and those of which nothing is known come last. Raises UserError where
    nothing is known of any.
    """
    if queue.name == "in-order":
        return list(items)
    shuffled = random.Random(seed).sample(list(items), len(items))
    if queue.score is None:
        return shuffled
    known: list[tuple[float, T]] = []
    unknown: list[T] = []
    for item in shuffled:
        scores = [score for each in evidence(item) if (score := queue.score(each)) is not None]
        if scores:
            known.append((fmean(scores), item))
        else:
            unknown.append(item)
    if not known:
        raise UserError(
            f"{option} {queue.name}: nothing stored says {queue.title}.", queue.needs, f"{option} random"
        )
    return [item for _, item in sorted(known, key=lambda pair: -pair[0])] + unknown
