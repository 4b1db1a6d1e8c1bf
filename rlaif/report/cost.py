"""What a run took: questions, tokens, seconds, money where prices are known, and people's labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rlaif.records import Label
from rlaif.report.run_reader import RunReader

COUNTED = ("calls", "cached", "prompt_tokens", "tokens")


def cost(reader: RunReader) -> dict[str, Any]:
    """The sums over all stages of a run, those that it shares with the run it is forked from included.

    `money` is None where a stage that asked its models had no prices; `people` is how many
    labels people gave and `people_hours` the time measured for them, None where none was.
    """
    used: Counter[str] = Counter()
    for stage in reader.stages:
        used.update({key: stage.summary.get("usage", {}).get(key, 0) for key in COUNTED})
    sources = reader.label_sources
    usages = [usage for stage in reader.stages if (usage := stage.summary.get("usage"))]
    known = ["money" in usage for usage in usages if usage.get("calls")]
    priced = any(known) and all(known)
    return {
        **{key: used[key] for key in COUNTED},
        "seconds": round(sum(stage.summary.get("seconds", 0.0) for stage in reader.stages), 1),
        "money": round(sum(usage.get("money", 0.0) for usage in usages), 6) if priced else None,
        "ai_labels": sources["ai"],
        "people": sources["human"],
        "simulated": sources["simulated"],
        "people_hours": _hours(reader) if sources["human"] else None,
        "shares": (reader.manifest.get("parent") or {}).get("path"),
    }


def _hours(reader: RunReader) -> float | None:
    rows = (row for stage in reader.every("label") for row in reader.each(stage, "labels", Label))
    known = [row.seconds for row in rows if row.annotator.kind == "human" and row.seconds is not None]
    return sum(known) / 3600 if known else None
