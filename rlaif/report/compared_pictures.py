"""All runs of a comparison in one picture: what training earned against its distance, and proxy against
gold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from rlaif.options import OnlineOptions
from rlaif.pages import charts
from rlaif.report.arms import Arm, ComparedRun
from rlaif.report.measures import compliance, gold
from rlaif.stats import mean

SLOTS = ("last", "mid0", "mid2", "mid1", "base")
STEPS = 12  # points of a curve: updates are averaged in equal groups


def colours(arms: Sequence[Arm]) -> dict[str, str]:
    """A colour an arm by its letter; from the sixth on the colours come again, dashed."""
    return {
        arm.letter: SLOTS[at % len(SLOTS)] + (" dash" if at >= len(SLOTS) else "")
        for at, arm in enumerate(arms)
    }


def pictures(arms: Sequence[Arm]) -> list[Markup]:
    """Score against KL and gold against score over training, gold against KL of the evaluated policies; those
    for which some run has points. Seeds of one arm share a colour."""
    slot = colours(arms)
    sides = [(arm, side) for arm in arms for side in arm.sides]
    rows = {id(side): _updates(side) for _, side in sides}
    truth = any("gold" in row for found in rows.values() for row in found)
    rules = {
        frozenset((p.text, p.applies_to) for p in side.reader.run.constitution.principles)
        for _, side in sides
    }
    own = ", each run by its own principles" if len(rules) > 1 else ""
    measured = "gold" if any(gold(side.rows.values()) for _, side in sides) else "judge"
    panels = [
        ("Reward against KL: the score in training", "KL to the reference, nats", "kl", "score"),
        *([(f"Gold against the proxy, in training{own}", "score", "score", "gold")] if truth else []),
    ]
    drawn = [
        charts.line_chart(
            title,
            [
                charts.Line(
                    arm.name,
                    _steps([(r[x], r[y]) for r in rows[id(side)] if x in r and y in r]),
                    slot[arm.letter],
                )
                for arm, side in sides
            ],
            label,
            ends=True,
        )
        for title, label, x, y in panels
    ]
    policies = [
        charts.Line(arm.name, list(_policies(side, measured)), slot[arm.letter]) for arm, side in sides
    ]
    title = f"Held out: {measured} against KL{own}"
    drawn.append(charts.line_chart(title, policies, "KL to base, nats; one point a policy", ends=True))
    return [chart for chart in drawn if chart]


def _updates(side: ComparedRun) -> list[dict[str, float]]:
    """KL, score and gold of each update of the last stage that learned from its own samples."""
    stages = [stage for stage in side.reader.stages if isinstance(stage.options, OnlineOptions)]
    curve = side.reader.curve(stages[-1] if stages else None)
    keys = {"kl": ("exact_kl", "kl"), "score": ("score",), "gold": ("gold",)}
    return [
        {
            name: float(row[key])
            for name, tried in keys.items()
            for key in [next((k for k in tried if row.get(k) is not None), None)]
            if key
        }
        for row in curve
    ]


def _steps(points: Sequence[charts.Point]) -> list[charts.Point]:
    """At most STEPS points, each the mean of as many updates."""
    size = -(-len(points) // STEPS) or 1
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(mean([x for x, _ in group]), mean([y for _, y in group])) for group in groups]


def _policies(side: ComparedRun, measured: str) -> Iterator[charts.Point]:
    """(mean KL, share of responses that keep every principle) of each evaluated policy, oldest first."""
    for rows in side.reader.evaluations.values():
        table: dict[str, Any] = (gold if measured == "gold" else compliance)(rows.values())
        kl = [row.kl for row in rows.values() if row.kl is not None]
        if kl and table.get("all"):
            yield mean(kl), mean(list(table["all"].values()))
