"""A run as it goes on, read from its folder: what `rlaif show RUN --follow` prints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlaif.runs.catalog import status_of
from rlaif.runs.folder import Run, Stage
from rlaif.runs.locking import is_locked
from rlaif.runs.lookup import CutRowWarning, complete_lines, json_rows


def follow(path: Path, every: float = 1.0) -> Iterator[list[str]]:
    """The run's state, one line a stage that has begun, whenever it has changed.

    Ends when all stages are done, or no process works in the run. Raises UserError where the folder is no
    run.
    """
    before: list[str] = []
    while True:
        started = time.monotonic()
        run = Run.load(path)
        stages = [stage for stage in run.stages if stage.summary]
        # Before the lines, so that what ends the run meanwhile is shown before this ends.
        ended = not is_locked(path) or (len(stages) == len(run.stages) and all(s.is_done for s in stages))
        with warnings.catch_warnings(action="ignore", category=CutRowWarning):  # they are being written
            lines = [state(stage) for stage in stages]
        if lines != before:
            yield lines
            before = lines
        if ended:
            return
        # Reading a long run takes time: it is read again when ten times as long has passed.
        time.sleep(max(every, 10 * (time.monotonic() - started)))


def state(stage: Stage) -> str:
    """What a stage has done so far, in one line."""
    from rlaif.training.monitoring import headline

    if stage.is_done:
        return describe(stage.summary).splitlines()[0]
    parts = [status_of(stage)]
    for file in sorted(stage.dir.glob("*.jsonl")):
        if file.stem == "metrics":
            rows = list(json_rows(file))
            unit = "update" if rows and "update" in rows[-1] else "step"
            parts += [f"{unit} {rows[-1][unit]}", headline(rows[-1])] if rows else []
        elif file.stem != "samples":
            parts.append(f"{sum(1 for _ in complete_lines(file)):,} {file.stem.replace('_', ' ')}")
    return f"{stage.dir.name}: {', '.join(part for part in parts if part)}"


def describe(summary: dict[str, Any]) -> str:
    """A stage's summary in one line, every dropped row with its reason."""
    counts = f" {summary['kept']} of {summary['in']} kept" if "in" in summary else ""
    dropped = {reason: n for reason, n in summary.get("dropped", {}).items() if n}
    why = "; dropped: " + ", ".join(f"{n} × {reason}" for reason, n in dropped.items()) if dropped else ""
    warning = ""
    if "in" in summary and sum(dropped.values()) > 0.05 * summary["in"]:
        warning = f" — warning: {sum(dropped.values()) / summary['in']:.0%} dropped"
    notes = "".join(f"\n  note: {note}" for note in summary.get("notes", []))
    return (
        f"{summary['number']:02d}_{summary['name']}: {summary['status']} in {summary['seconds']:.1f} "
        f"s{counts and ','}{counts}{why}{warning}{notes}"
    )
