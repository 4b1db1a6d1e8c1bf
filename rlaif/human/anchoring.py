"""What seeing an AI's opinion does to people: agreement with the judge before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.human.said import Annotated
from rlaif.intervals import GAP, rate

READ = ("a", "b", "tie")


def anchoring(found: Annotated) -> list[dict[str, Any]]:
    """A row for each person and judge: how often they agree blind and once its verdict had been seen.

    Only pairs count that have both labels of the person and a verdict of the judge; `gap` is after less
    before, pair by pair; `towards` says how many of the changed labels became the judge's.
    """
    rows = []
    for who, after in found.anchored.items():
        before = found.said.get(who, {})
        for judge in found.of_kind("ai"):
            verdicts = [
                (before[item].verdict, after[item].verdict, said.verdict, found.items[item].cluster)
                for item, said in found.said[judge].items()
                if item in before and item in after
            ]
            kept = [each for each in verdicts if all(verdict in READ for verdict in each[:3])]
            if kept:
                rows.append({"person": who, "judge": judge, **_figures(kept)})
    return rows


def _figures(kept: Sequence[tuple[str, str, str, str]]) -> dict[str, Any]:
    clusters = [cluster for *_, cluster in kept]
    blind = [float(x == judge) for x, _, judge, _ in kept]
    anchored = [float(y == judge) for _, y, judge, _ in kept]
    return {
        "n": len(kept),
        "blind": rate(blind, clusters),
        "anchored": rate(anchored, clusters),
        "gap": rate([y - x for x, y in zip(blind, anchored, strict=True)], clusters, GAP),
        "changed": sum(x != y for x, y, *_ in kept),
        "towards": sum(x != y == judge for x, y, judge, _ in kept),
    }
