"""How preferences or verdicts on the same comparisons differ between two sets of labels, counted a pair at a
time.

A verdict has turned where it is another one of a, tie and b. Intervals take prompts that ask the same as one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rlaif.feedback.preferences import DRAW, ShareByCluster
from rlaif.intervals import UNIT, mean_interval
from rlaif.records import TIE_MARGIN, verdict_of
from rlaif.stats import mean

EXAMPLES = 6  # pairs that are shown of the preferences, and a third as many of each principle
STEPS = (0.05, 0.25, 0.5)  # of the shift of a preference, between which pairs are counted
T = TypeVar("T")


@dataclass
class Shifts:
    """Preferences before and after an edit, counted a pair at a time."""

    both: int = 0
    lost: int = 0
    gained: int = 0
    turned: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed: ShareByCluster = field(default_factory=ShareByCluster)  # another one of a, tie and b
    flipped: ShareByCluster = field(default_factory=ShareByCluster)  # the other side of one half
    moved: list[float] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)

    def add(self, before: float | None, after: float | None, cluster: str) -> None:
        """Count one pair; None where there is no preference."""
        if before is None or after is None:
            self.lost += before is not None
            self.gained += after is not None
            return
        self.both += 1
        sides = verdict_of(before), verdict_of(after)
        self.turned[sides] += sides[0] != sides[1]
        self.changed.add(cluster, sides[0] != sides[1])
        self.flipped.add(
            cluster, min(abs(before - 0.5), abs(after - 0.5)) > DRAW and (before > 0.5) != (after > 0.5)
        )
        self.moved.append(after - before)
        self.clusters.append(cluster)

    def figures(self) -> dict[str, Any]:
        """Counts, and shares of the pairs that have both with their intervals."""
        sizes = [abs(x) for x in self.moved]
        bins = Counter(sum(size > step for step in STEPS) for size in sizes)
        return {
            "both": self.both,
            "lost": self.lost,
            "gained": self.gained,
            "changed": self.changed.hits.total(),
            "changed_rate": self.changed.value,
            "changed_ci": self.changed.ci,
            "flipped": self.flipped.hits.total(),
            "flipped_rate": self.flipped.value,
            "flipped_ci": self.flipped.ci,
            "groups": len(self.changed.of),
            "turned": {f"{a} → {b}": n for (a, b), n in sorted(self.turned.items()) if n},
            "shift": mean(sizes),
            "shift_ci": mean_interval(sizes, UNIT, self.clusters) if sizes else None,
            "shifts": {
                name: bins[at] for at, name in enumerate(("≤ 0.05", "0.05–0.25", "0.25–0.5", "> 0.5"))
            },
        }


class Furthest(Generic[T]):
    """The pairs that moved furthest, one a cluster of prompts, so that examples are chosen by rule."""

    def __init__(self) -> None:
        self.best: dict[str, tuple[float, str, T]] = {}

    def add(self, cluster: str, shift: float, pair: str, item: T) -> None:
        """Offer a pair by its id; one that moved no further than a tie is wide is none."""
        offered = (-round(abs(shift), 6), pair, item)
        best = self.best.get(cluster)
        if abs(shift) > TIE_MARGIN and (best is None or offered[:2] < best[:2]):
            self.best[cluster] = offered

    def first(self, count: int) -> list[T]:
        """At most `count` items, the furthest first, equals by their pairs' ids."""
        return [item for *_, item in sorted(self.best.values(), key=lambda held: held[:2])[:count]]
