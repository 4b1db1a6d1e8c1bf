"""A run in one dictionary (`rlaif show RUN --json`), and one row with everything that led to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.report.run_reader import RunReader, plain
from rlaif.runs.folder import Stage

ALWAYS = ("labels", "reward_model", "ppo")  # there in every summary, empty where the run has no such stage


def summarise(path: Path) -> dict[str, Any]:
    """Status, stages, policies, and the figures of every stage that has some, under the name it is shown as.

    Of a stage that occurs several times, in rounds or in the list, the last one counts.
    """
    reader = RunReader(path)
    return plain(
        {
            "name": reader.run.config.name,
            "status": "unfinished" if reader.unfinished else "done",
            **{key: value for key, value in reader.run.manifest.items() if key == "parent"},
            "prompt_rows": reader.run.manifest.get("prompt_rows", {}),
            "stages": [_stage(stage) for stage in reader.run.stages],
            "policies": reader.metrics("evaluate").get("policies", {}),
            **figures(reader),
            "spent": reader.run.ledger.figures(),
        }
    )


def figures(reader: RunReader) -> dict[str, dict[str, Any]]:
    """Of every stage what `rlaif show` prints of it; of policies there is a table of their own."""
    found: dict[str, dict[str, Any]] = {name: {} for name in ALWAYS}
    for stage in reader.stages:
        metrics = stage.summary.get("metrics", {})
        name = stage.options.shown_as or stage.name
        if (
            "labels" in stage.options.makes
        ):  # verdicts may come from elsewhere, so how many questions were asked
            metrics = metrics | {"calls": stage.summary.get("usage", {}).get("calls", 0)}
        if "evaluation" not in stage.options.makes and (metrics or name in found):
            found[name] = metrics
    return found


def _stage(stage: Stage) -> dict[str, Any]:
    summary = stage.summary
    return {
        "name": stage.name,
        "round": stage.round,
        "status": summary.get("status", "waiting"),
        "seconds": summary.get("seconds", 0.0),
        "in": summary.get("in"),
        "kept": summary.get("kept"),
        "dropped": {reason: n for reason, n in summary.get("dropped", {}).items() if n},
        "usage": summary.get("usage", {}),
        "notes": summary.get("notes", []),
    }
