"""Rows written as what a name says: JSON lines, JSON, CSV, Parquet, or a folder of `datasets`."""

from __future__ import annotations

import csv
import filecmp
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rlaif.errors import UserError
from rlaif.prompting.tables import require_library
from rlaif.runs.storage import move_into_place

Row = dict[str, Any]
KINDS = (".jsonl", ".json", ".csv", ".parquet")
_BATCH = 1024
_STATE = "state.json"  # of a folder of `datasets`
_MADE = re.compile(r"data-\d+-of-\d+\.arrow|dataset_info\.json|state\.json|README\.md(\.partial)?")  # in it


def write_rows(
    rows: Iterable[Row],
    path: Path,
    whole: Callable[[Sequence[Any]], Any] | None = None,
    format: str = "",
    complete: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write rows to a path: a file by its suffix, a folder of `datasets` where it has none.

    `whole` makes one JSON document of all rows; `complete` adds to a folder before it gets its name. Raises
    UserError for any other suffix, for lists in a CSV file, and where something else is there, which this
    would replace.
    """
    suffix = path.suffix.lower()
    if suffix and suffix not in KINDS:
        raise UserError(
            f"--out {path}: a file of no kind that rlaif writes.",
            f"a name that ends in {', '.join(KINDS)}, or a folder's",
        )
    if whole and suffix not in (".json", ".jsonl"):
        raise UserError(f"--out {path}: {format} is one JSON document.", "a name that ends in .json")
    if not suffix and path.exists() and not (path / _STATE).is_file():
        raise UserError(f"--out {path}: exists already.", "the name of a folder to make", "name another one")
    rows = iter(rows)
    first = next(rows, None)
    if suffix == ".csv" and any(isinstance(value, list | dict) for value in (first or {}).values()):
        raise UserError(
            f"--out {path}: rows of the format {format} hold lists, which no cell of a CSV file does.",
            "a name that ends in .jsonl, .json or .parquet, or a folder's",
            "for a CSV file: --format table",
        )
    rows = rows if first is None else chain([first], rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if partial.is_dir() and not all(_MADE.fullmatch(file.name) for file in partial.iterdir()):
        raise UserError(
            f"--out {path}: {partial} holds something else, and would be replaced meanwhile.",
            "a name beside which that with .partial is free",
            "name another one",
        )
    if whole:
        partial.write_text(json.dumps(whole(list(rows)), ensure_ascii=False, indent=1), encoding="utf-8")
    elif suffix in (".parquet", ""):
        _columns(rows, partial, suffix)
        if not suffix:
            complete(partial)
    else:
        with partial.open("w", encoding="utf-8", newline="") as file:
            (_csv if suffix == ".csv" else _json)(rows, file, suffix)
    if not path.exists():
        move_into_place(partial, path)
        return
    same = filecmp.cmp(partial, path, shallow=False) if suffix else _same(partial, path)
    shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    if not same:
        kind = "file" if suffix else "folder"
        raise UserError(
            f"--out {path}: holds something else already.", f"the name of a new {kind}", "name another one"
        )


def _same(folder: Path, other: Path) -> bool:
    """Whether two folders of `datasets` hold the same files, but for the fingerprint, which is drawn."""
    files = [{str(path.relative_to(at)) for path in at.rglob("*")} for at in (folder, other)]
    names = sorted(files[0] - {_STATE})
    states = [re.sub(rb'"_fingerprint": "\w*"', b"", (at / _STATE).read_bytes()) for at in (folder, other)]
    return (
        files[0] == files[1]
        and states[0] == states[1]
        and filecmp.cmpfiles(folder, other, names, shallow=False)[0] == names
    )


def _json(rows: Iterable[Row], file: Any, suffix: str) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    if suffix == ".jsonl":
        file.writelines(line + "\n" for line in lines)
    else:
        file.write("[")
        file.writelines(("," if number else "") + "\n" + line for number, line in enumerate(lines))
        file.write("\n]\n")


def _csv(rows: Iterable[Row], file: Any, suffix: str) -> None:
    """A table whose columns are those of all rows, which are known only once the last has been made."""
    names: dict[str, None] = {}
    with TemporaryFile("w+", encoding="utf-8") as lines:
        for row in rows:
            names |= dict.fromkeys(row)
            lines.write(json.dumps(row) + "\n")
        lines.seek(0)
        table = csv.DictWriter(file, list(names))
        if names:
            table.writeheader()
        table.writerows(map(json.loads, lines))


def _columns(rows: Iterable[Row], partial: Path, suffix: str) -> None:
    """A table whose columns are those of all rows, for Parquet or for a folder of `datasets`."""
    require_library("datasets")
    import datasets

    held = list(rows)
    names = dict.fromkeys(key for row in held for key in row)
    table = datasets.Dataset.from_dict({name: [row.get(name) for row in held] for name in names})
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if "principle_ids" in names:  # lists that are all empty do not say of what
            table = table.cast_column("principle_ids", datasets.List(datasets.Value("string")))
        if suffix:
            table.to_parquet(str(partial), batch_size=_BATCH)
        else:
            shutil.rmtree(partial, ignore_errors=True)
            table.save_to_disk(str(partial))
    finally:
        if shown:
            datasets.enable_progress_bars()
