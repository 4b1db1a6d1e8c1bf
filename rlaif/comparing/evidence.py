"""What a run folder holds, read without touching it: a running process may be appending to the same files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rlaif.lookup import Lookup, whole_lines
from rlaif.records import Evaluation, Prompt, Record, Response
from rlaif.runfolder import Run, Stage, read_json

R = TypeVar("R", bound=Record)
ONLINE = ("ppo", "rloo", "grpo")  # stages that learn from what they sample


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
    """A run's rows and summaries; read when first asked for; texts stay on disk."""

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
        return list(self.each(stage, name, record))

    def each(self, stage: Stage | None, name: str, record: type[R]) -> Iterator[R]:
        """The same one at a time, for what there may be very many of."""
        lines = whole_lines(stage.dir / f"{name}.jsonl") if stage else ()
        return (record.model_validate_json(line) for line in lines)

    def lookup(self, stage: Stage | None, name: str, record: type[R], key: str) -> Lookup[R]:
        """A stage's rows by one of their fields."""
        return Lookup([stage.dir / f"{name}.jsonl"] if stage else [], record, key)

    def curve(self, stage: Stage | None) -> list[dict[str, Any]]:
        """A training stage's metrics.jsonl."""
        return [json.loads(line) for line in whole_lines(stage.dir / "metrics.jsonl")] if stage else []

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json, empty where it is missing."""
        path = self.path / "manifest.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def prompts(self) -> Lookup[Prompt]:
        """Every prompt by id, imported ones included."""
        files = [self.path / "prompts.jsonl", *(stage.dir / "prompts.jsonl" for stage in self.stages)]
        return Lookup(files, Prompt)

    @cached_property
    def responses(self) -> Lookup[Response]:
        """Every response of every stage by id."""
        return Lookup([stage.dir / "responses.jsonl" for stage in self.stages], Response)

    @property
    def writers(self) -> list[str]:
        """Fingerprints of the models that wrote the responses."""
        rows = (row for stage in self.stages for row in self.each(stage, "responses", Response))
        return sorted({row.model for row in rows if row.model})

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
