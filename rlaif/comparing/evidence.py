"""What a run folder holds, read without touching it: a running process may be appending to the same files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rlaif.records import Evaluation, Prompt, Record, Response, by_id
from rlaif.runfolder import Run, Stage, read_json

R = TypeVar("R", bound=Record)


def whole_lines(path: Path) -> Iterator[str]:
    """The finished lines of a JSONL file; a last line that is still being written is left alone."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (line for line in file if line.endswith("\n"))


def plain(value: Any) -> Any:
    """JSON-able copy: undefined numbers become None, tuples lists, floats keep six digits."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class Evidence:
    """A run's rows and summaries; everything is read once, when first asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, Run.load(path)
        self.stages = [stage for stage in self.run.stages if stage.summary]

    def last(self, name: str) -> Stage | None:
        """The latest begun stage of that name."""
        return next((stage for stage in reversed(self.stages) if stage.name == name), None)

    def metrics(self, name: str) -> dict[str, Any]:
        """The metrics of the latest stage of that name, empty where there is none."""
        stage = self.last(name)
        return stage.summary.get("metrics", {}) if stage else {}

    def rows(self, stage: Stage | None, name: str, record: type[R]) -> list[R]:
        """A stage's rows, none where the stage or the file is missing."""
        lines = whole_lines(stage.dir / f"{name}.jsonl") if stage else ()
        return [record.model_validate_json(line) for line in lines]

    def curve(self, stage: Stage | None) -> list[dict[str, Any]]:
        """A training stage's metrics.jsonl."""
        return [json.loads(line) for line in whole_lines(stage.dir / "metrics.jsonl")] if stage else []

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json, empty where it is missing."""
        path = self.path / "manifest.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """Every prompt by id, imported ones included."""
        files = [self.path / "prompts.jsonl", *(stage.dir / "prompts.jsonl" for stage in self.stages)]
        return by_id([Prompt.model_validate_json(line) for file in files for line in whole_lines(file)])

    @cached_property
    def responses(self) -> dict[str, Response]:
        """Every response of every stage by id."""
        return by_id([row for stage in self.stages for row in self.rows(stage, "responses", Response)])

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Evaluation]]:
        """policy → prompt id → evaluation, of the last evaluate stage, oldest policy first."""
        stage = self.last("evaluate")
        found: dict[str, dict[str, Evaluation]] = {name: {} for name in stage.policies()} if stage else {}
        for row in self.rows(stage, "evaluation", Evaluation):
            found.setdefault(row.policy, {})[row.prompt_id] = row
        return {name: rows for name, rows in found.items() if rows}

    @property
    def final(self) -> str | None:
        """The name of the last evaluated policy."""
        return next(reversed(self.evaluations), None)

    @property
    def unfinished(self) -> Stage | None:
        """The first stage that is not done."""
        return next((stage for stage in self.run.stages if not stage.is_done), None)
