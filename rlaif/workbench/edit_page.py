"""The page of an edit: text, stale labels, turned verdicts, changed preferences, and of an applied one the
policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif.feedback.earlier_labels import REASONS
from rlaif.pages import charts
from rlaif.pages.page import write_page
from rlaif.workbench.edit_text import asked_in_words, cost_in_words, headline, known, stale_in_words


def write_edit(path: Path, data: Mapping[str, Any], policy: Mapping[str, Any] | None = None) -> Path:
    """The page of `diff`'s data, with `apply`'s part about the policy where there is one; returns its
    path."""
    refresh = data["labels"]["refresh"] if "labels" in data else None
    return write_page(
        path,
        "edit.html.j2",
        data=data,
        headline=headline(data),
        cost=cost_in_words(refresh) if refresh else "",
        stale=stale_in_words(data["labels"]) if refresh else "",
        asked=asked_in_words(data) if refresh and data["labels"]["asked"] else "",
        titled=[
            (f"Verdicts under {name}", cases)
            for name, cases in data.get("examples", {}).get("principles", {}).items()
        ],
        reasons=REASONS,
        known="labels" in data and known(data),
        chart=_chart(data),
        policy=policy,
        policy_chart=_policy_chart(policy) if policy else None,
    )


def _chart(data: Mapping[str, Any]) -> Any:
    """Shares of verdicts and preferences that change, by principle, with their intervals."""
    rows = []
    for name, row in data.get("principles", {}).items():
        parts = [
            (row["verdicts"], "mid0", "verdicts that change"),
            (row["alone"], "last", "preferences that change"),
        ]
        dots = [
            charts.Dot(found["changed_rate"], tuple(found["changed_ci"]), slot, what)
            for found, slot, what in parts
            if found and found["both"] and not (row["waiting"] and found is row["verdicts"])
        ]
        rows += [(name, dots)] if dots else []
    edge = max((dot.ci[1] for _, dots in rows for dot in dots), default=0.0)
    return charts.dot_chart("What changes, by principle", rows, (0.0, max(0.02, edge))) if rows else None


def _policy_chart(policy: Mapping[str, Any]) -> Any:
    """Each principle's change of the policy with its interval: by gold, and in the judge's opinion."""
    rows = []
    for name, row in policy["principles"].items():
        parts = [(row["gold"], "last", "gold"), (row["judge"], "mid0", "judge")]
        dots = [
            charts.Dot(change["value"], tuple(change["ci"]), slot, who)
            for change, slot, who in parts
            if change and None not in change["ci"]
        ]
        rows += [(name, dots)] if dots else []
    edge = max((abs(x) for _, dots in rows for dot in dots for x in dot.ci), default=0.0)
    return (
        charts.dot_chart("Change of the policy", rows, (-max(edge, 0.05), max(edge, 0.05))) if rows else None
    )
