"""What annotators say of pairs: the items, one opinion of each by each annotator, and how labels make it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.feedback.preferences import opinion, p_a_by_annotator
from rlaif.human.folder import with_implied_p
from rlaif.human.formats.base import SWAPPED
from rlaif.records import Label, Verdict, verdict_of


@dataclass(frozen=True)
class Item:
    """One pair: `cluster` is what intervals take as independent; texts are empty where they are not known.

    `row` is the id of the comparison that a run's or folder's rows name; empty for other projects' rows.
    """

    id: str
    cluster: str
    tags: tuple[str, ...] = ()
    prompt: str = ""
    a: str = ""
    b: str = ""
    models: tuple[str, str] = ("", "")
    row: str = ""


@dataclass(frozen=True)
class Said:
    """One annotator's opinion of one item, all its orders and principles put together."""

    verdict: Verdict
    p_a: float | None = None
    by_principle: Mapping[str, float] = field(default_factory=dict)
    first: tuple[bool, ...] = ()  # of each decided verdict: whether the response shown first won, if known
    flips: bool | None = None  # where both orders were shown and one was decided
    seconds: float | None = None
    rationale: str = ""


@dataclass
class Annotated:
    """All items and opinions: `said` by annotator ("kind:name") and item id.

    `anchored` are those of people who had seen an AI's opinion, from the anchored.jsonl of a folder.
    """

    items: dict[str, Item] = field(default_factory=dict)
    said: dict[str, dict[str, Said]] = field(default_factory=dict)
    anchored: dict[str, dict[str, Said]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    sources: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> list[str]:
        """The annotators of these kinds, in the order in which they were met."""
        return [who for who in self.said if who.partition(":")[0] in kinds]


def flips(labels: Sequence[Label], weights: Mapping[str, float]) -> bool | None:
    """Whether one annotator's opinion of one item changes with the order; None where that is not known.

    Both opinions are of the principles that were read in both orders, so that they differ by the order alone.
    At least one of them must be decided.
    """
    orders = [[x for x in labels if x.p_a is not None and x.order == order] for order in ("ab", "ba")]
    both = {x.principle_id for x in orders[0]} & {x.principle_id for x in orders[1]}
    opinions = []
    for own in orders:
        said = p_a_by_annotator([x for x in own if x.principle_id in both], weights)
        opinions += [opinion(of, weights) for of in said.values()]
    if len(opinions) < 2 or all(verdict_of(p) == "tie" for p in opinions):
        return None
    return (opinions[0] > 0.5) != (opinions[1] > 0.5)


def opinion_of(labels: Sequence[Label], weights: Mapping[str, float], placed: bool = True) -> Said:
    """One annotator's labels of one item as one opinion, as `rlaif.feedback.preferences` puts them together.

    `weights` are those of a constitution; without any, all principles weigh the same. `placed`: the labels
    say what was shown first.
    """
    labels = [with_implied_p(x) for x in labels]
    own = weights or {x.principle_id: 1.0 for x in labels if x.principle_id is not None}
    said = next(iter(p_a_by_annotator(labels, own).values()), None)
    p_a = None if said is None else opinion(said, own)
    verdict = verdict_of(p_a)
    if p_a is None:
        verdict = "abstain" if all(x.verdict == "abstain" for x in labels) else "invalid"
    shown = [(x.order, x.p_a) for x in labels if x.p_a is not None and verdict_of(x.p_a) != "tie"]
    times = [x.seconds for x in labels if x.seconds is not None]
    return Said(
        verdict,
        p_a,
        {i: p for i, p in (said or {}).items() if i is not None},
        tuple((p > 0.5) == (order == "ab") for order, p in shown) if placed else (),
        flips(labels, own),
        sum(times) if times else None,
        next((x.rationale for x in labels if x.rationale), ""),
    )


def turned_round(label: Label) -> Label:
    """The label as told about the pair the other way round."""
    turned = {
        "verdict": SWAPPED.get(label.verdict, label.verdict),
        "p_a": None if label.p_a is None else 1 - label.p_a,
        "order": "ba" if label.order == "ab" else "ab",
    }
    return label.model_copy(update=turned)


def add_source(found: Annotated, path: Path, kind: str, labels: int) -> None:
    found.sources.append({"path": str(path), "kind": kind, "labels": labels})
