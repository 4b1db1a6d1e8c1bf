"""How several executors read the same principles: which ones they read differently, and on which pairs.

An executor is a judge, or the people whose labels are at hand. "all" stands for the whole constitution, which
people who label without principles judge by. Verdicts are a, b or tie, both orders
together. Agreement is corrected for chance by Fleiss' kappa, of two executors by Cohen's, with 95 % intervals
over clusters of prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rlaif.agreement.coefficients import MISSING, fleiss_kappa
from rlaif.audit.measures import ALL
from rlaif.constitution import Constitution
from rlaif.feedback.preferences import (
    BOUND,
    aggregate,
    combine_orders,
    logit,
    order_statistics,
    share,
    sigmoid,
)
from rlaif.forecasts import kappa_interval
from rlaif.intervals import rate
from rlaif.records import Label, verdict_of

PEOPLE = "people"
EXAMPLES = 3  # comparisons of a principle
NO_FLIPS = {"flip_rate": None, "flip_rate_ci": None, "flips_n": 0}
Read = dict[str, float]  # comparison → P(a is better)
Verdicts = dict[str, dict[str, Read]]  # executor → principle → what was read


def read_labels(labels: Mapping[str, Sequence[Label]], constitution: Constitution) -> dict[str, Read]:
    """What one executor's labels say by principle, and under "all" by the constitution's weights; of people
    the share of their votes."""
    found: dict[str, Read] = defaultdict(dict)
    for pair, rows in labels.items():
        people = [row for row in rows if row.annotator.kind != "ai"]
        judged = [row for row in rows if row.annotator.kind == "ai"]
        votes: dict[str, list[float]] = defaultdict(list)
        for (_, principle), p in combine_orders(people).items():
            votes[principle or ALL].append(p)
        for name, given in votes.items():
            found[name][pair] = share(given)
        for principle, p in _by_principle(judged).items():
            found[principle or ALL][pair] = p
        whole = aggregate(judged, constitution)
        if judged and whole and ALL not in votes:
            found[ALL][pair] = whole[0]
    return dict(found)


def _by_principle(labels: Sequence[Label]) -> dict[str | None, float]:
    logits: dict[str | None, list[float]] = defaultdict(list)
    for (_, principle), p in combine_orders(labels).items():
        logits[principle].append(logit(p, BOUND))
    return {principle: sigmoid(sum(x) / len(x)) for principle, x in logits.items()}


def compared(
    verdicts: Verdicts,
    constitution: Constitution,
    clusters: Mapping[str, str],
    flips: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """The figures: a row a principle, the one on which executors agree least first, those of which nothing
    can be told last; `clusters` holds that of each comparison's prompt."""
    rows = [_principle(name, verdicts, clusters, flips or {}) for name in [*constitution.ids, ALL]]
    rows = [row for row in rows if len(row["executors"]) > 1]
    principles = sorted((row for row in rows if row["id"] != ALL), key=_order)
    texts = {p.id: p.text for p in constitution.principles}
    for row in rows:
        row["text"] = texts.get(row["id"], "the whole constitution")
    return {
        "executors": list(verdicts),
        "comparisons": len({pair for by in verdicts.values() for read in by.values() for pair in read}),
        "principles": principles,
        "whole": next((row for row in rows if row["id"] == ALL), None),
        "together": _together(principles, verdicts, clusters),
    }


def _order(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Least agreement first; where nothing can be told last."""
    kappa = row["kappa"]
    return kappa["value"] is None, kappa["value"] or 0.0


def _principle(
    name: str,
    verdicts: Verdicts,
    clusters: Mapping[str, str],
    flips: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Any]:
    said = {who: by[name] for who, by in verdicts.items() if by.get(name)}
    sides = {who: {pair: verdict_of(p) for pair, p in read.items()} for who, read in said.items()}
    silent = [who for who, by in sides.items() if not any(side != "tie" for side in by.values())]
    heard = {who: by for who, by in sides.items() if who not in silent}
    return {
        "id": name,
        "executors": {
            who: {
                "n": len(by),
                "decides": rate([side != "tie" for side in by.values()], [clusters[pair] for pair in by]),
                **flips.get(who, {}).get(name, NO_FLIPS),
                "kappa": _agreement(_against(who, heard), clusters)["kappa"],
            }
            for who, by in sides.items()
        },
        "silent": silent,
        **_agreement(_two_by_two(heard), clusters),
        "kappa": beyond_chance(heard, clusters),
        "two": {
            f"{x} · {y}": _agreement([(pair, a, b) for pair, a, b in _both(heard[x], heard[y])], clusters)
            for x, y in combinations(heard, 2)
        },
        "examples": furthest_apart(said, EXAMPLES),
    }


def beyond_chance(heard: Mapping[str, Mapping[str, str]], clusters: Mapping[str, str]) -> dict[str, Any]:
    """Fleiss' kappa of the executors that decide at all, on what two or more of them judged."""
    pairs = list(dict.fromkeys(pair for by in heard.values() for pair in by))
    if len(heard) < 2:
        return {"value": None, "ci": None, "n": 0, "groups": 0}
    numbers = {"a": 0, "b": 1, "tie": 2}
    ratings = np.array([[numbers.get(by.get(pair, ""), MISSING) for by in heard.values()] for pair in pairs])
    found = fleiss_kappa(ratings, len(numbers), [clusters[pair] for pair in pairs])
    return {**found, "value": found["value"] if math.isfinite(found["value"]) else None}


Two = tuple[str, str, str]  # comparison, verdicts of two executors


def _both(x: Mapping[str, str], y: Mapping[str, str]) -> Iterator[Two]:
    return ((pair, x[pair], y[pair]) for pair in x if pair in y)


def _two_by_two(heard: Mapping[str, Mapping[str, str]]) -> list[Two]:
    return [row for x, y in combinations(heard, 2) for row in _both(heard[x], heard[y])]


def _against(who: str, heard: Mapping[str, Mapping[str, str]]) -> list[Two]:
    """An executor against each other one; nothing of one that never decides."""
    others = [name for name in heard if name != who] if who in heard else []
    return [row for other in others for row in _both(heard[who], heard[other])]


def _agreement(rows: Sequence[Two], clusters: Mapping[str, str]) -> dict[str, Any]:
    """Agreement of executors two by two, raw and by Cohen's kappa; of what both decide the share on opposite
    sides, of what one decides the share that the other does not decide."""
    keys = [clusters[pair] for pair, *_ in rows]
    found = kappa_interval([a for _, a, _ in rows], [b for *_, b in rows], keys) if rows else None
    both = [(a != b, key) for (_, a, b), key in zip(rows, keys, strict=True) if "tie" not in (a, b)]
    some = [("tie" in (a, b), key) for (_, a, b), key in zip(rows, keys, strict=True) if {a, b} != {"tie"}]
    kappa = found["kappa"] if found and found["kappa"] == found["kappa"] else None
    return {
        "agreement": rate([a == b for _, a, b in rows], keys),
        "kappa": {"value": kappa, "ci": found["kappa_ci"] if found else None, "n": len(rows)},
        "opposite": rate(*_columns(both)),
        "one_sided": rate(*_columns(some)),
    }


def _columns(rows: Sequence[tuple[bool, str]]) -> tuple[list[bool], list[str]]:
    return [hit for hit, _ in rows], [key for _, key in rows]


def furthest_apart(said: Mapping[str, Read], count: int) -> list[dict[str, Any]]:
    """The `count` comparisons on which executors lie furthest apart, with what each says."""
    seen: dict[str, dict[str, float]] = defaultdict(dict)
    for who, read in said.items():
        for pair, p in read.items():
            seen[pair][who] = p
    apart = {
        pair: max(map(_bounded, by.values())) - min(map(_bounded, by.values())) for pair, by in seen.items()
    }
    first = sorted(apart, key=lambda pair: (-apart[pair], pair))[:count]
    differ = [pair for pair in first if len({verdict_of(p) for p in seen[pair].values()}) > 1]
    return [{"comparison_id": pair, "p_a": seen[pair]} for pair in differ]


def _bounded(p: float) -> float:
    return logit(p, BOUND)


def _together(
    rows: Sequence[Mapping[str, Any]], verdicts: Verdicts, clusters: Mapping[str, str]
) -> dict[str, Any]:
    """Agreement over all principles at once, as it is published: the share of equal verdicts."""
    pooled: list[Two] = []
    for row in rows:
        heard = {
            who: {pair: verdict_of(p) for pair, p in by[row["id"]].items()}
            for who, by in verdicts.items()
            if by.get(row["id"]) and who not in row["silent"]
        }
        pooled += _two_by_two(heard)
    return _agreement(pooled, clusters)


def flips_of(
    labels: Mapping[str, Sequence[Label]], ids: Sequence[str], clusters: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """By principle the share of one judge's decided verdicts that flip with the order, its interval, and of
    how many it is."""
    flat = [row for rows in labels.values() for row in rows]
    found = {}
    for name in ids:
        counted = order_statistics([row for row in flat if row.principle_id == name], clusters)
        found[name] = {
            "flip_rate": counted["order_flip_rate"],
            "flip_rate_ci": counted["order_flip_rate_ci"],
            "flips_n": counted["decided"],
        }
    return found
