"""Comparisons and their labels in other projects' formats, each row checked to be read back as it was."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.errors import UserError, nearest
from rlaif.feedback.preferences import opinions
from rlaif.human.folder import ImportFolder, read_folder
from rlaif.human.formats import FORMATS, Format, ImportedRow
from rlaif.human.formats.base import NOT_HELD, Pair, Vote
from rlaif.prompting.conversations import Unusable
from rlaif.records import Label
from rlaif.runs.storage import move_into_place


def export_file(folder: Path, format: str, path: Path) -> dict[str, Any]:
    """Write a folder's comparisons in a format, the winner being that of its annotators' mean opinion;
    returns the counts.

    Left out and counted: a comparison without a winner where the format has no ties, and whatever would not
    be read back the same.
    """
    made = writable(format)
    dropped: Counter[str] = Counter()
    rows, total = [], 0
    for pair in pairs_of(read_folder(folder)):
        total += 1
        row = exported(made, pair)
        if isinstance(row, Unusable):
            dropped[row] += 1
        else:
            rows.append(row)
    write_rows(made, rows, path)
    return {"in": total, "kept": len(rows), "dropped": dict(dropped)}


def writable(name: str) -> Format:
    """The format of that name; UserError where rlaif cannot write it."""
    names = [format.name for format in FORMATS.values() if format.write]
    if name not in names:
        known = f"{FORMATS[name].title} can only be read" if name in FORMATS else nearest(name, names)
        raise UserError(f'--format "{name}": {known}.', f"one of {', '.join(names)}")
    return FORMATS[name]


def exported(format: Format, pair: Pair) -> dict[str, Any] | Unusable:
    """The row of a pair, or why there is none."""
    row = format.write(pair) if format.write else NOT_HELD
    if isinstance(row, Unusable):
        return row
    back = format.read(row)
    texts = (pair.first, pair.second) if format.sided else pair.sorted
    same = isinstance(back, ImportedRow) and (back.messages, back.responses) == (pair.messages, texts)
    return row if same else NOT_HELD


def pairs_of(folder: ImportFolder) -> Iterator[Pair]:
    """The comparisons of a folder with their labels."""
    labels = folder.labels()
    for row in folder.comparisons.values():
        prompt, own = folder.prompts[row.prompt_id], labels.get(row.id, [])
        a, b = folder.responses[row.a], folder.responses[row.b]
        said = opinions(own).values()
        yield Pair(
            tuple((m.role, m.content) for m in prompt.messages),
            a.text,
            b.text,
            fmean(said) if said else None,
            models=("" if a.model == prompt.source else a.model, "" if b.model == prompt.source else b.model),
            votes=tuple(map(_vote, own)),
        )


def _vote(label: Label) -> Vote:
    principle = label.principle_id
    return Vote(
        label.annotator,
        label.verdict,
        p_first=label.p_a,
        order=label.order,
        principle=(principle, label.judge.get("principle", principle)) if principle is not None else None,
        rationale=label.rationale,
        seconds=label.seconds,
    )


def write_rows(format: Format, rows: list[dict[str, Any]], path: Path) -> None:
    """Rows as a file of the kind that its name says: .json, .csv, and otherwise a JSON object a line."""
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8", newline="") as file:
        if format.whole or path.suffix == ".json":
            json.dump(format.whole(rows) if format.whole else rows, file, ensure_ascii=False, indent=1)
        elif path.suffix == ".csv":
            table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    move_into_place(partial, path)
