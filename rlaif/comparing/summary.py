"""A run in one dictionary (`rlaif show RUN --json`), and one row with everything that led to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.comparing.evidence import Evidence, plain
from rlaif.errors import UserError
from rlaif.lookup import json_rows
from rlaif.runfolder import Stage

ARMS = ("dpo", "best_of_n", "rejection", "rloo", "grpo")  # stages that may stand in PPO's place


def summarise(path: Path) -> dict[str, Any]:
    """Status, stages, policies, labels, reward model and PPO of a run; parts a run has not reached are empty.

    With several rounds every entry but `stages` is the last round's.
    """
    evidence = Evidence(path)
    return plain({
        "name": evidence.run.config.name,
        "status": "unfinished" if evidence.unfinished else "done",
        "stages": [_stage(stage) for stage in evidence.run.stages],
        "policies": evidence.metrics("evaluate").get("policies", {}),
        "labels": _labels(evidence),
        "reward_model": evidence.metrics("reward"),
        "ppo": evidence.metrics("ppo"),
        **{name: evidence.metrics(name) for name in ARMS if evidence.last(name)},
        "spent": evidence.run.ledger.figures(),
    })  # fmt: skip


def _labels(evidence: Evidence) -> dict[str, Any]:
    """The label stage's metrics, and how many questions it asked models: verdicts may come from elsewhere."""
    stage = evidence.last("label")
    calls = {"calls": stage.summary.get("usage", {}).get("calls", 0)} if stage else {}
    return evidence.metrics("label") | calls


def _stage(stage: Stage) -> dict[str, Any]:
    summary = stage.summary
    return {
        "name": stage.name, "round": stage.round, "status": summary.get("status", "waiting"),
        "seconds": summary.get("seconds", 0.0), "in": summary.get("in"), "kept": summary.get("kept"),
        "dropped": {reason: n for reason, n in summary.get("dropped", {}).items() if n},
        "usage": summary.get("usage", {}), "notes": summary.get("notes", []),
    }  # fmt: skip


def lineage(path: Path, row_id: str) -> list[dict[str, Any]]:
    """The row with that id (or unambiguous beginning of it) first, then the rows it rests on, each with its `file`.

    A row rests on every row whose id it names, and a preference also on its comparison's labels.
    """
    index = _index(Evidence(path))
    matches = [row_id] if row_id in index else [i for i in index if i.startswith(row_id)]
    if len(matches) != 1:
        raise UserError(f"{path}: {'no row has' if not matches else 'several rows have'} the id {row_id}.",
                        "the id of one row, from any .jsonl file of the run", f"for example: {next(iter(index), '')}")  # fmt: skip
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


def _index(evidence: Evidence) -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = {}
    for file in sorted(evidence.path.rglob("*.jsonl")):
        for row in json_rows(file):
            if isinstance(row.get("id"), str):
                index.setdefault(row["id"], {"file": str(file.relative_to(evidence.path)), **row})
    return index


def _named(row: dict[str, Any]) -> list[str]:
    values = [value for key, value in row.items() if key not in ("id", "file", "text", "critique")]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, str)]
