"""Preference data in other projects' formats: a table of them, each an object with its reader and its writer.

A reader is a function from one row of the input to an `ImportedRow`, or to the reason why it cannot be used.
A format is recognised from the first rows of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from rlaif.errors import UserError
from rlaif.human.files import raw_rows
from rlaif.human.formats.base import Format, ImportedRow
from rlaif.human.formats.chosen import KTO, NEMO, REWARDBENCH, SHAREGPT, TRL, UNPAIRED
from rlaif.human.formats.dialogues import HH, HHH
from rlaif.human.formats.ranked import ARGILLA, LABEL_STUDIO, RANKING, ULTRAFEEDBACK
from rlaif.human.formats.tables import ARENA, TABLE
from rlaif.human.formats.votes import ALPACA, ANNOTATED_PAIRS, ICAI, PANDALM
from rlaif.prompting.conversations import Unusable

__all__ = ["FORMATS", "Format", "ImportedRow", "format_of"]

_ALL = (
    *(HH, HHH, TRL, UNPAIRED, SHAREGPT, KTO, REWARDBENCH, NEMO),
    *(PANDALM, ICAI, ANNOTATED_PAIRS, ALPACA, ARENA, TABLE),
    *(ULTRAFEEDBACK, RANKING, LABEL_STUDIO, ARGILLA),
)
FORMATS: dict[str, Format] = {format.name: format for format in _ALL}
_LOOKED_AT = 20  # rows, of which the first that any format fits decides


def fits_first(path: Path, formats: Iterable[Format]) -> bool:
    """Whether a file's first row has the keys of one of these formats."""
    first = list(islice(raw_rows(path), 1))
    return any(format.fits(row) for format in formats for row in first)


def format_of_any(paths: Sequence[Path]) -> str:
    """The format of the first of several files that is in one: the others may belong to it."""
    known = (path for path in paths if len(paths) > 1 and fits_first(path, FORMATS.values()))
    return format_of(next(known, paths[0]))


def format_of(path: Path) -> str:
    """The name of the format that a file's first rows are in; UserError where there is none, or several."""
    rows = list(islice(raw_rows(path), _LOOKED_AT))
    for row in rows:
        fitting = [format.name for format in FORMATS.values() if format.fits(row)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise UserError(
                f"{path}: could be in the formats {' and '.join(fitting)}.",
                "the name of its format",
                f"rlaif data import {fitting[0]} {path.name} --out FOLDER",
            )
    keys = next((", ".join(map(str, row)) for row in rows if isinstance(row, dict)), "")
    if keys:
        why = f"the keys of its first row: {keys[:200]}"
    else:
        why = (
            f"its first row is {rows[0] if isinstance(rows[0], Unusable) else 'no object'}"
            if rows
            else "empty"
        )
    raise UserError(
        f"{path}: in no format that rlaif recognises ({why}).",
        f"one of {', '.join(FORMATS)}",
        "name the format, e.g. rlaif data import hh FILE --out FOLDER (docs/data-formats.md)",
    )
