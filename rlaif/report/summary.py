"""A run in one dictionary (`rlaif show RUN --json`), and one row with everything that led to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.report.run_reader import RunReader, plain
from rlaif.runs.folder import Stage
from rlaif.runs.lookup import json_rows

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


def lineage(path: Path, row_id: str) -> list[dict[str, Any]]:
    """The row with that id (or unambiguous beginning of it) first, then the rows it rests on, each with its
    `file`.

    A row rests on every row whose id it names, and a preference also on its comparison's labels.
    """
    index = _index(RunReader(path))
    matches = [row_id] if row_id in index else [i for i in index if i.startswith(row_id)]
    if len(matches) != 1:
        raise UserError(
            f"{path}: {'no row has' if not matches else 'several rows have'} the id {row_id}.",
            "the id of one row, from any .jsonl file of the run",
            f"for example: {next(iter(index), '')}",
        )
    found: dict[str, dict[str, Any]] = {}
    waiting = [(matches[0], "votes" in index[matches[0]])]
    while waiting:
        current, with_labels = waiting.pop(0)
        if current in found:
            continue
        row = found[current] = index[current]
        waiting += [(name, False) for name in _named(row) if name in index]
        if with_labels:
            pair = row["comparison_id"]
            waiting += [(i, False) for i, r in index.items() if r.get("comparison_id") == pair]
    return list(found.values())


def _index(reader: RunReader) -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = {}
    for file in sorted(reader.path.rglob("*.jsonl")):
        for row in json_rows(file):
            if isinstance(row.get("id"), str):
                index.setdefault(row["id"], {"file": str(file.relative_to(reader.path)), **row})
    return index


def _named(row: dict[str, Any]) -> list[str]:
    values = [value for key, value in row.items() if key not in ("id", "file", "text", "critique")]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, str)]
