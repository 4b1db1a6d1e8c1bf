"""A run in one dictionary (`rlaif show RUN --json`), and one row with everything that led to it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rlaif.config import option_name
from rlaif.human.waiting import awaited
from rlaif.report.run_reader import RunReader, names_damage, plain
from rlaif.runs.catalog import status_of
from rlaif.runs.commands import resume_command
from rlaif.runs.folder import Stage
from rlaif.runs.locking import is_locked
from rlaif.runs.lookup import cut_files, json_rows
from rlaif.runs.spending import with_larger_budget

ALWAYS = ("labels", "reward_model", "ppo")  # there in every summary, empty where the run has no such stage


@names_damage
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
            "next": next_command(reader),
            "rows": row_commands(reader.path),
        }
    )


def next_command(reader: RunReader) -> str | None:
    """What to do so that the run goes on; None where it is done, or a process is working in it."""
    stage = reader.unfinished
    if stage is None or is_locked(reader.path):
        return None
    command = resume_command(reader.path)
    if path := awaited(stage):
        there = shlex.quote(str(reader.path))
        return f"write people's labels to {path} (rlaif annotate {there} does), then {command}"
    if stage.summary.get("status") == "stopped":  # by the budget: as it is, the run would stop again at once
        caps = stage.summary.get("caps") or [f"budget.{key}" for key in reader.run.ledger.remaining()]
        return with_larger_budget(command, caps)
    if stage.summary.get("status") != "failed":
        return command
    option = option_name(stage.config, (stage.number - 1) % len(stage.config.stages))
    return f"{command}; to change an option of the stage: {command} -s {shlex.quote(option)}.OPTION=VALUE"


def row_commands(path: Path) -> dict[str, str]:
    """Commands that tell one row's story, by what the row is: of the last pair, or response, and its
    prompt."""
    for name, what in (("comparisons", "a pair with its verdicts"), ("responses", "a response")):
        for file in sorted(path.glob(f"*/{name}.jsonl"), reverse=True):
            if row := next(json_rows(file), None):
                show = f"rlaif show {shlex.quote(str(path))}"
                prompt = f"{show} {row['prompt_id']}"
                return {what: f"{show} {row['id']}", "its prompt, with the ids of all responses": prompt}
    return {}


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
    cut = {f"last row of {file.name}, which is not whole": 1 for file in cut_files(stage.dir)}
    return {
        "name": stage.name,
        "round": stage.round,
        "status": status_of(stage),
        "error": summary.get("error"),
        "seconds": summary.get("seconds", 0.0),
        "in": summary.get("in"),
        "kept": summary.get("kept"),
        "dropped": {reason: n for reason, n in summary.get("dropped", {}).items() if n} | cut,
        "usage": summary.get("usage", {}),
        "notes": summary.get("notes", []),
    }
