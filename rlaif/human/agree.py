"""How far annotators agree: people with people, people with judges, judges with judges; one dictionary for
the terminal, for JSON and for the page.

A rate has its 95 % interval over clusters of prompts. What cannot be read is counted, and where an agreement
is with it, it counts as wrong: both figures are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from rlaif.agreement.coefficients import (
    MISSING,
    Ratings,
    agreement_by_item,
    counts_of,
    fleiss_kappa,
    krippendorff_alpha,
)
from rlaif.agreement.decisions import decide
from rlaif.agreement.reliability import dawid_skene
from rlaif.agreement.stand_in import alternative_annotator_test, human_ceiling
from rlaif.forecasts import kappa_interval
from rlaif.human.anchoring import anchoring
from rlaif.human.leanings import leanings
from rlaif.human.powered import powered_estimates
from rlaif.human.said import Annotated, Said
from rlaif.intervals import rate
from rlaif.records import Verdict, verdict_of
from rlaif.stats import mean

CODE = {"b": 0, "tie": 1, "a": 2}  # in their order, which the ordinal alpha needs
UNREAD = 3  # an own category where what cannot be read counts as wrong
NAMES = {"human": "human", "simulated": "human", "ai": "AI"}
SHOWN = 8  # disagreements of each kind
Figures = dict[str, Any]


class Table:
    """Verdicts as numbers of categories: `codes` [items, annotators], MISSING where nothing was read."""

    def __init__(self, found: Annotated) -> None:
        self.found = found
        self.names = list(found.said)
        self.ids = list(found.items)
        self.clusters = [found.items[i].cluster for i in self.ids]
        said = [[found.said[who].get(i) for who in self.names] for i in self.ids]
        self.codes: Ratings = np.array(
            [[MISSING if x is None else CODE.get(x.verdict, MISSING) for x in row] for row in said], np.intp
        ).reshape(len(self.ids), len(self.names))
        self.unread = np.array(
            [[x is not None and x.verdict == "invalid" for x in row] for row in said], bool
        ).reshape(self.codes.shape)
        self.people = [self.names.index(who) for who in found.of_kind("human", "simulated")]
        self.judges = [self.names.index(who) for who in found.of_kind("ai")]

    def of(self, kept: Any) -> list[str]:
        """The clusters of the items that are kept."""
        return [key for key, ok in zip(self.clusters, kept, strict=True) if ok]

    @cached_property
    def reliability(self) -> Any:
        """How often each annotator is right by the model of Dawid and Skene."""
        return dawid_skene(self.codes, 3)["accuracy_A"]

    @cached_property
    def majority(self) -> Ratings:
        """The people's most frequent verdict [items], MISSING where none was read or two share the lead."""
        return majority_of(self.codes[:, self.people])


def majority_of(codes_IA: Ratings) -> Ratings:
    """The most frequent code of each item [I], MISSING where none was read or two share the lead."""
    counts = counts_of(codes_IA, 3)
    most = counts.max(1, initial=0)
    alone = ((counts == most[:, None]).sum(1) == 1) & (most > 0)
    return np.where(alone, counts.argmax(1), MISSING)


def agree(found: Annotated, epsilon: float = 0.1) -> Figures:
    """Every figure, as plain data."""
    table = Table(found)
    data: Figures = {
        "sources": found.sources,
        "pairs": len(table.ids),
        "clusters": len(set(table.clusters)),
        "dropped": dict(sorted(found.dropped.items())),
        "epsilon": epsilon,
        "annotators": [_annotator(table, at) for at in range(len(table.names))],
        "between": [_between(table, x, y) for x, y in combinations(range(len(table.names)), 2)],
        "groups": {
            "human–human": _group(table, table.people),
            "AI–AI": _group(table, table.judges),
        },
        "judges": [_judge(table, at, epsilon) for at in table.judges] if table.people else [],
        "majority": leanings(_majority_said(table), found.items) if table.people else None,
        "tags": _tags(table),
        "anchored": anchoring(found),
        "powered": powered_estimates(found),
        "disagreements": _disagreements(table),
    }
    data["between"] = [row for row in data["between"] if row["n"]]
    _principles(table, data["judges"])
    return data


def _annotator(table: Table, at: int) -> Figures:
    name, found = table.names[at], table.found
    own = found.said[name]
    verdicts = Counter(x.verdict for x in own.values())
    flips = [(float(x.flips), found.items[i].cluster) for i, x in own.items() if x.flips is not None]
    seconds = [x.seconds for x in own.values() if x.seconds is not None]
    kind, _, id = name.partition(":")
    return {
        "name": name,
        "kind": kind,
        "id": id,
        "pairs": len(own),
        "verdicts": {v: verdicts[v] for v in ("a", "b", "tie", "abstain", "invalid")},
        "flips": rate([x for x, _ in flips], [of for _, of in flips]),
        "seconds": {"n": len(seconds), "total": sum(seconds), "median": median(seconds) if seconds else None},
        "cost": found.costs.get(name),
        "leanings": leanings(own, found.items),
        "reliability": float(table.reliability[at]) if len(table.names) > 2 else None,
    }


def _between(table: Table, x: int, y: int) -> Figures:
    """Two annotators on the pairs that both labelled."""
    kinds = sorted((NAMES[table.names[at].partition(":")[0]] for at in (x, y)), reverse=True)
    return {
        "between": [table.names[x], table.names[y]],
        "kind": "–".join(kinds),
        **_two(table, table.codes[:, x], table.codes[:, y], table.unread[:, x] | table.unread[:, y]),
    }


def _two(table: Table, a: Ratings, b: Ratings, unread: Any) -> Figures:
    """Two columns of verdicts: agreement and coefficients where both can be read; then the same with what
    cannot be read as a category of its own, which agrees with nothing."""
    read = (a != MISSING) & (b != MISSING)
    asked = read | (unread & ((a != MISSING) | (b != MISSING)))
    columns = np.stack([np.where(a == MISSING, UNREAD, a), np.where(b == MISSING, UNREAD, b)], 1)
    of = table.of(read)
    found: Figures = {"n": int(read.sum()), "groups": len(set(of)), "unread": int(asked.sum() - read.sum())}
    for name, kept in (("", read), ("strict", asked)):
        left, right = columns[kept].T.tolist() if kept.any() else ([], [])
        keys = table.of(kept)
        figures: Figures = {
            "agreement": rate([float(p == q) for p, q in zip(left, right, strict=True)], keys),
            **kappa_interval(left, right, keys),
        }
        found |= figures if not name else {name: figures}
    pair = np.where(read[:, None], np.stack([a, b], 1), MISSING)
    return found | {
        "fleiss": fleiss_kappa(pair, 3, table.clusters),
        "alpha": krippendorff_alpha(pair, 3, "nominal", table.clusters),
        "alpha_ordinal": krippendorff_alpha(pair, 3, "ordinal", table.clusters),
    }


def _group(table: Table, columns: Sequence[int], kept: Any = None) -> Figures | None:
    """Several annotators together, over the pairs that two or more of them labelled; None for fewer than
    two."""
    if len(columns) < 2:
        return None
    codes = table.codes[:, list(columns)]
    codes = codes if kept is None else np.where(kept[:, None], codes, MISSING)
    agreed = agreement_by_item(counts_of(codes, 3))
    twice = ~np.isnan(agreed)
    return {
        "annotators": len(columns),
        "agreement": rate(agreed[twice].tolist(), table.of(twice)),
        "fleiss": fleiss_kappa(codes, 3, table.clusters),
        "alpha": krippendorff_alpha(codes, 3, "nominal", table.clusters),
        "alpha_ordinal": krippendorff_alpha(codes, 3, "ordinal", table.clusters),
    }


def _judge(table: Table, at: int, epsilon: float) -> Figures:
    """A judge against the people's majority, beside what people reach, and whether it may stand in for
    them."""
    codes, unread = table.codes[:, at], table.unread[:, at]
    majority = table.majority
    labelled = (codes != MISSING) | unread
    people = np.where(labelled[:, None], table.codes[:, table.people], MISSING)
    several = (people != MISSING).sum(1) >= 2
    names = [table.names[i] for i in table.people]
    ceiling = human_ceiling(people, codes, table.clusters) if several.any() else None
    gap = ceiling and decide(ceiling["gap"], ceiling["gap_ci"], -epsilon, epsilon, ceiling["n"])
    return {
        "judge": table.names[at],
        **_two(table, codes, majority, unread),
        "no_majority": int((labelled & ((people != MISSING).any(1)) & (majority == MISSING)).sum()),
        "ceiling": ceiling,
        "ceiling_decision": gap,
        "stand_in": alternative_annotator_test(people, codes, names, epsilon, table.clusters),
    }


def _majority_said(table: Table) -> dict[str, Said]:
    verdicts: dict[int, Verdict] = {0: "b", 1: "tie", 2: "a"}
    found = zip(table.ids, table.majority.tolist(), strict=True)
    return {item: Said(verdicts[code]) for item, code in found if code != MISSING}


def _principles(table: Table, judges: list[Figures]) -> None:
    """Each judge under each principle against the people's majority; whether that agrees beyond chance is
    corrected for the number of principles (Bonferroni)."""
    majority = table.majority
    for row in judges:
        said = table.found.said[row["judge"]]
        ids = list(dict.fromkeys(p for x in said.values() for p in x.by_principle))
        row["principles"] = {}
        for principle in ids:
            opinions = [x.by_principle.get(principle) if (x := said.get(i)) else None for i in table.ids]
            codes = np.array([CODE.get(verdict_of(p), MISSING) for p in opinions], np.intp)
            figures = _two(table, codes, majority, np.zeros(len(codes), bool))
            read = (codes != MISSING) & (majority != MISSING)
            left, right = codes[read].tolist(), majority[read].tolist()
            level = 1 - 0.05 / len(ids)
            strict = kappa_interval(left, right, table.of(read), level)
            decision = decide(strict["kappa"], strict["kappa_ci"], 0.0, 0.1, len(left), level=level)
            sided = read & (codes != CODE["tie"]) & (majority != CODE["tie"])
            row["principles"][principle] = {
                **{key: figures[key] for key in ("agreement", "kappa", "kappa_ci", "n")},
                "ties": mean([x == CODE["tie"] for x in left]) if left else None,
                "same_side": rate((codes == majority)[sided].astype(float).tolist(), table.of(sided)),
                "decision": decision,
            }


def _tags(table: Table) -> Figures:
    """By tag of the prompts: people among themselves, and each judge against their majority."""
    items = table.found.items
    tags = dict.fromkeys(tag for i in table.ids for tag in items[i].tags)
    majority = table.majority
    found: Figures = {}
    for tag in tags:
        kept = np.array([tag in items[i].tags for i in table.ids])
        found[tag] = {
            "pairs": int(kept.sum()),
            "human–human": _group(table, table.people, kept),
            "judges": {},
        }
        for at in table.judges:
            codes = np.where(kept, table.codes[:, at], MISSING)
            figures = _two(table, codes, majority, table.unread[:, at] & kept)
            found[tag]["judges"][table.names[at]] = {
                key: figures[key] for key in ("agreement", "kappa", "kappa_ci", "n", "unread")
            }
    return found


def _disagreements(table: Table) -> list[Figures]:
    """Pairs worth reading: where judges turn the people's majority, the most people and the surest judge
    first, and where people are split; the rule is the order, nothing is chosen by hand."""
    majority, found = table.majority, []
    for row, item in enumerate(table.ids):
        said = {who: own[item] for who, own in table.found.said.items() if item in own}
        people = table.codes[row, table.people]
        people = people[people != MISSING]
        turned = [
            abs(_p_a(said[table.names[at]]) - 0.5)
            for at in table.judges
            if majority[row] in (0, 2) and table.codes[row, at] == 2 - majority[row]
        ]
        split = len({int(x) for x in people} & {0, 2}) == 2
        if turned or split:
            agreeing = int((people == majority[row]).sum())
            found.append((not turned, -len(turned), -agreeing, -max(turned, default=0.0), row, said))
    found.sort(key=lambda x: x[:5])
    first = [x for x in found if not x[0]][:SHOWN] + [x for x in found if x[0]][: SHOWN // 2]
    return [
        _shown(table, row, said, "people are split" if split else "a judge turns the people's majority")
        for split, *_, row, said in first
    ]


def _p_a(said: Said) -> float:
    return 0.5 if said.p_a is None else said.p_a


def _shown(table: Table, row: int, said: Any, why: str) -> Figures:
    item = table.found.items[table.ids[row]]
    return {
        "id": item.row or item.id,
        "why": why,
        "prompt": item.prompt,
        "a": item.a,
        "b": item.b,
        "verdicts": {
            who: {"verdict": x.verdict, "p_a": x.p_a, "rationale": x.rationale} for who, x in said.items()
        },
    }
