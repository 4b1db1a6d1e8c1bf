"""One row of a run with everything that led to it: `rlaif show RUN ROW --json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.runs.folder import Run
from rlaif.runs.rows import named_rows
from rlaif.runs.storage import files_below

Row = dict[str, Any]


def index_rows(path: Path) -> dict[str, Row]:
    """Every row of a run that has an id, by it, each with its `file`; raises UserError for what is no run."""
    Run.load(path)
    index: dict[str, Row] = {}
    for file in (file for file in files_below(path) if file.suffix == ".jsonl"):
        for row in named_rows(file):
            if isinstance(row.get("id"), str):
                index.setdefault(row["id"], {"file": str(file.relative_to(path)), **row})
    return index


def row_named(path: Path, index: Mapping[str, Row], row_id: str) -> Row:
    """The row with that id, or the only one whose id begins so; raises UserError where there is none."""
    matches = [row_id] if row_id in index else [i for i in index if i.startswith(row_id)]
    if len(matches) != 1:
        raise UserError(
            f"{path}: {'no row has' if not matches else 'several rows have'} the id {row_id}.",
            "the id of one row, from any .jsonl file of the run",
            f"for example: {next(iter(index), '')}",
        )
    return index[matches[0]]


def lineage(path: Path, row_id: str) -> list[Row]:
    """The row with that id (or unambiguous beginning of it) first, then the rows it rests on, each with its
    `file`.

    A row rests on every row whose id it names, and a preference also on its comparison's labels.
    """
    index = index_rows(path)
    first = row_named(path, index, row_id)
    found: dict[str, Row] = {}
    waiting = [(first["id"], "votes" in first)]
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


def _named(row: Row) -> list[str]:
    values = [value for key, value in row.items() if key not in ("id", "file", "text", "critique")]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, str)]
