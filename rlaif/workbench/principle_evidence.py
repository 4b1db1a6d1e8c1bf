"""Which principles explain labels: the verdicts under each candidate, a sparse fit, what it tells of held-out
labels, and a constitution of what was found.

    labels ─► P(a is better)          candidates ─► verdicts, stored or asked
         └────────────── sparse fit (sparse_fit) ──────────┘
                              └─► weights, held-out agreement, a constitution file
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlaif.constitution import Constitution, Principle
from rlaif.errors import UserError
from rlaif.feedback.preferences import BOUND, aggregate, combine_orders, logit, opinions
from rlaif.intervals import LEAST, Array, count, members, rate
from rlaif.pages.page import fixed
from rlaif.records import TIE_MARGIN, AnnotatorKind, Label
from rlaif.workbench import sparse_fit
from rlaif.workbench.pairs import LabelledPairs, of_this_wording

FEWEST = 20  # labels
Bools = NDArray[np.bool_]
DIGITS = 3  # of a written weight


@dataclass(frozen=True)
class Target:
    """What is to be explained: P(a is better) by comparison, whose labels it is made of, and what was left
    out, by reason."""

    p: dict[str, float]
    of: str
    left_out: Counter[str] = field(default_factory=Counter)


def target(pairs: LabelledPairs, kind: AnnotatorKind | None = None) -> Target:
    """The labels on whole comparisons, of people where there are any, else of a judge; of a run that has none
    the preferences that its own principles give.

    `kind` names whose labels count. Raises UserError where too few are left.
    """
    whole = {
        pair: [row for row in labels if row.principle_id is None and kind in (None, row.annotator.kind)]
        for pair, labels in pairs.labels.items()
    }
    kinds = {row.annotator.kind for rows in whole.values() for row in rows}
    chosen = next((k for k in ("human", "simulated", "ai") if k in kinds), None)
    said: dict[str, float] = {}
    left_out: Counter[str] = Counter()
    for pair, labels in pairs.labels.items():
        own = [row for row in whole[pair] if row.annotator.kind == chosen]
        p = fmean(found.values()) if (found := opinions(own)) else None
        if chosen is None and kind in (None, "ai"):
            p = _preference(pairs, labels)
        if p is None:
            left_out["no readable label of a whole comparison"] += 1
        else:
            said[pair] = p
    of = chosen or "the preferences of the run's own principles"
    if len(said) < FEWEST:
        under = sum(row.principle_id is not None for rows in pairs.labels.values() for row in rows)
        why = left_out + pairs.left_out + Counter({"label under a principle": under})
        reasons = ", ".join(f"{n} × {reason}" for reason, n in sorted((+why).items()))
        raise UserError(
            f"{pairs.source}: {len(said)} labels on whole comparisons{f' of kind {kind}' if kind else ''}"
            f"{f' (left out: {reasons})' if reasons else ''}.",
            f"{FEWEST} or more: which of two responses is better, without a principle",
            "name a run, or a file or folder of preference data",
        )
    return Target(said, of, left_out)


def _preference(pairs: LabelledPairs, labels: Sequence[Label]) -> float | None:
    options = pairs.options()
    if options is None or pairs.run is None:
        return None
    found = aggregate(labels, pairs.run.constitution, options.human_weight, options.bounds)
    return found[0] if found else None


def stored_verdicts(
    pairs: LabelledPairs, candidates: Constitution
) -> tuple[dict[str, list[Label]], Counter[str]]:
    """The stored labels under candidates as they are worded here, and how many are under another wording."""
    known = {p.id: p for p in candidates.principles}
    found: dict[str, list[Label]] = {}
    other: Counter[str] = Counter()
    templates = pairs.templates  # which are read from their files anew
    for pair, labels in pairs.labels.items():
        rows = [row for row in labels if row.principle_id in known]
        own = [row for row in rows if of_this_wording(row, known[str(row.principle_id)], templates)]
        other["label under another wording of a candidate"] += len(rows) - len(own)
        found[pair] = own
    return found, other


@dataclass(frozen=True)
class Evidence:
    """What is fitted, a row a comparison: the candidates' bounded logits, which of them could be read, the
    labels, the difference in length, and what is taken as independent."""

    pairs: list[str]
    x_NJ: Array
    read_NJ: Bools
    y_N: Array
    length_N: Array
    clusters: list[str]
    unit: str  # what an interval is over

    @property
    def member_N(self) -> sparse_fit.Members:
        """The number of each label's cluster."""
        return members(len(self.pairs), self.clusters)


def evidence(
    pairs: LabelledPairs,
    said: Mapping[str, float],
    verdicts: Mapping[str, Sequence[Label]],
    ids: Sequence[str],
) -> Evidence:
    """The verdicts beside the labels; an unread verdict is no evidence for either side.

    Clusters are groups of prompts; where there are fewer than 20 of them they say too little, and each
    comparison is taken on its own: then nothing is said of other prompts.
    """
    at, rows = {name: j for j, name in enumerate(ids)}, list(said)
    p_NJ = np.full((len(rows), len(ids)), np.nan)
    for n, pair in enumerate(rows):
        seen: dict[str, list[float]] = {}
        for (_, principle), p in combine_orders(verdicts.get(pair, ())).items():
            if principle in at:
                seen.setdefault(principle, []).append(logit(p, BOUND))
        for principle, logits in seen.items():
            p_NJ[n, at[principle]] = fmean(logits)
    prompts = [pairs.prompt(pair).cluster for pair in rows]
    few = count(len(rows), prompts) < LEAST
    gaps = np.array([len(a) - len(b) for a, b in map(pairs.texts, rows)], float)
    return Evidence(
        rows,
        np.nan_to_num(p_NJ),
        ~np.isnan(p_NJ),
        np.array([said[pair] for pair in rows], float),
        np.tanh(gaps / (gaps.std() or 1.0)),
        rows if few else prompts,
        "comparisons" if few else "groups of prompts",
    )


def induced(found: Evidence, candidates: Constitution, level: float = sparse_fit.LEVEL) -> dict[str, Any]:
    """The figures: each candidate, those that explain the labels, and how well they tell held-out ones."""
    member = found.member_N
    chosen = sparse_fit.explain(found.x_NJ, found.y_N, member, level)
    order = [row["at"] for row in chosen]
    outside = sparse_fit.held_out(found.x_NJ, found.y_N, found.length_N, member, level)
    beside = sparse_fit.fit(
        np.column_stack([found.x_NJ[:, order], found.length_N]), found.y_N, [0.0] * len(order) + [-np.inf]
    )
    rows = [_candidate(found, j, p, order, candidates.ids) for j, p in enumerate(candidates.principles)]
    for place, row in enumerate(chosen):
        rows[row["at"]] |= {
            "chosen": place + 1,
            "p": row["p"],
            "weight": row["weight"],
            "weight_ci": row["ci"],
            "weight_beside_length": float(beside[place]),
        }
    for j, row in enumerate(rows):
        row["chosen_in_folds"] = outside["chosen_in"][j]
    return {
        "labels": len(found.pairs),
        "groups": count(len(found.pairs), found.clusters),
        "over": found.unit,
        "candidates": rows,
        "held_out": {key: value for key, value in outside.items() if key != "chosen_in"},
    }


def _candidate(
    found: Evidence, j: int, principle: Principle, chosen: Sequence[int], ids: Sequence[str]
) -> dict[str, Any]:
    """One candidate on its own: how often it decides, and how often the label is then on its side."""
    x, read = found.x_NJ[:, j], found.read_NJ[:, j]
    edge = logit(0.5 + TIE_MARGIN)
    decides = np.abs(x) > edge
    both = decides & (np.abs(found.y_N - 0.5) > TIE_MARGIN)
    alike = [(float(np.corrcoef(x, found.x_NJ[:, i])[0, 1]), i) for i in chosen if i != j and x.std() > 0]
    r, i = max(alike, default=(0.0, -1))
    return {
        "id": principle.id,
        "text": principle.text,
        "read": int(read.sum()),
        "decides": rate(decides[read].astype(float), _of(found, read)),
        "agreement": rate(((x > 0) == (found.y_N > 0.5))[both].astype(float), _of(found, both)),
        "chosen": None,
        "alike": {"id": ids[i], "r": r} if i >= 0 else None,
    }


def _of(found: Evidence, rows: Bools) -> list[str]:
    return [cluster for cluster, kept in zip(found.clusters, rows, strict=True) if kept]


def constitution_of(figures: Mapping[str, Any], candidates: Constitution, source: str) -> Constitution:
    """The chosen candidates with their weights, most telling first; UserError where none was chosen."""
    rows = sorted((row for row in figures["candidates"] if row["chosen"]), key=lambda row: row["chosen"])
    if not rows:
        raise UserError(
            f"None of the {len(figures['candidates'])} candidates explains the labels of {source}.",
            "a candidate whose verdicts go with the labels",
            "try other candidates, or a judge that reads them better",
        )
    known = {p.id: p for p in candidates.principles}
    agreement = figures["held_out"]["agreement"]
    kept = tuple(
        known[row["id"]].model_copy(update={"weight": max(10**-DIGITS, round(row["weight"], DIGITS))})
        for row in rows
    )
    return candidates.model_copy(
        update={
            "name": f"{candidates.name}-induced",
            "description": f"What explains {figures['labels']} labels of {source}: {len(rows)} of "
            f"{len(figures['candidates'])} candidates, held-out agreement {fixed(agreement['value'])}.",
            "principles": kept,
        }
    )
