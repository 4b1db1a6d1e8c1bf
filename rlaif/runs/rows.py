"""Rows in JSONL files: appended whole, keyed by id, a line that a kill cut short removed."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from rlaif.errors import UserError, first_line, printable
from rlaif.prompting.tables import parse_json, require_kept
from rlaif.records import ROWS, Record
from rlaif.runs.lookup import (
    complete_lines,
    damaged_line,
    drop_torn_line,
    fault_of,
    json_rows,
    key_of,
    torn_line,
)
from rlaif.runs.storage import sync, write_text

R = TypeVar("R", bound=Record)
T = TypeVar("T")
_BEGINS = b'{"v":'  # every row


def require_rows(path: Path, record: type[Record]) -> None:
    """Before a file that the user names is appended to: its last row gets the end of line that an editor
    left out.

    Raises UserError where it ends neither in a row nor in one that a kill cut short: that would be cut off.
    """
    require_kept(path)
    rest = torn_line(path)
    try:
        record.model_validate_json(rest)
    except ValidationError:
        if not _BEGINS.startswith(rest[: len(_BEGINS)]):
            raise UserError(
                f"{path}: ends in {printable(rest[:40].decode(errors='replace'))!r}, which is no row.",
                f"a new file, or one of {record.__name__} rows, a line each",
                "name another file",
            ) from None
    else:
        with path.open("ab") as file:
            file.write(b"\n")


class RowFile(Generic[R]):
    """An append-only JSONL file of one record type; it keeps nothing in memory."""

    def __init__(self, path: Path, record: type[R]) -> None:
        self.path, self.record = path, record
        self.mended = False

    def __iter__(self) -> Iterator[R]:
        for number, line in enumerate(complete_lines(self.path), 1):
            try:
                yield self.record.model_validate_json(line)
            except ValidationError as error:
                raise damaged_line(self.path, number, fault_of(self.record, error)) from None

    def write(self, rows: Iterable[R]) -> None:
        """Append rows that the caller knows to be new, and flush them."""
        self.copy(row.to_json().encode() for row in rows)

    def copy(self, lines: Iterable[bytes]) -> None:
        """The same for rows that are lines already."""
        text = b"".join(line + b"\n" for line in lines)
        if text:
            if not self.mended:
                drop_torn_line(self.path)
            self.mended = False  # until all of it is written
            with self.path.open("ab") as file:
                file.write(text)
            self.mended = True


def first_by_id(files: Iterable[Path], record: type[R]) -> dict[str, R]:
    """The rows of some files by id, the first of equal ids as a `Lookup` finds it: all stages read one
    text."""
    found: dict[str, R] = {}
    for file in files:
        for row in RowFile(file, record):
            found.setdefault(row.id, row)
    return found


def by_id(rows: Iterable[R]) -> dict[str, R]:
    """Rows keyed by their id."""
    return {row.id: row for row in rows}


class Rows(RowFile[R]):
    """A row file that holds the ids it contains, so that each is there at most once."""

    def __init__(self, path: Path, record: type[R]) -> None:
        super().__init__(path, record)
        self.ids = {key_of(path, number, line) for number, line in enumerate(complete_lines(path), 1)}

    def __contains__(self, row_id: str) -> bool:
        return row_id in self.ids

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, rows: Iterable[R]) -> None:
        """Write the rows whose ids are new and flush them."""
        fresh: dict[str, R] = {row.id: row for row in rows if row.id not in self.ids}
        self.write(fresh.values())
        self.ids.update(fresh)


def named_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a run's file as plain dictionaries, under the names that their fields have now."""
    record = ROWS.get(path.stem)
    for row in json_rows(path):
        yield record.with_new_names(row) if record else row


class JsonlLog:
    """A JSONL file of rows numbered by `key`, which a continued run takes back to where it goes on."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def rows(self) -> list[dict[str, Any]]:
        """Every whole row; a line cut short by a kill is left out."""
        return list(json_rows(self.path))

    def rewind(self, number: int) -> None:
        """Forget what was written after `number`: the continuation will write it again."""
        kept = [row for row in self.rows() if row[self.key] <= number]
        write_text(self.path, "".join(map(_line, kept)))

    def append(self, *rows: dict[str, Any]) -> None:
        """Write rows and flush them."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, rows)))

    def sync(self) -> None:
        """Force the rows to disk, before a checkpoint that rests on them gets its name."""
        if self.path.exists():
            sync(self.path)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_rows(path: Path, record: type[R]) -> list[R]:
    """A user's JSONL file as records; raises UserError naming file and line of what does not fit."""
    return [row for _, row in numbered_rows(path, record)]


def numbered_rows(path: Path, record: type[R]) -> Iterator[tuple[int, R]]:
    """The rows of `read_rows` with their line numbers."""
    require_kept(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}).", f"a JSONL file of {record.__name__} rows"
        ) from None
    # Not splitlines: JSON leaves U+2028 and its like unescaped inside a row.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = record.model_validate_json(line)
            parse_json(line)  # which finds a key that stands twice
        except ValidationError as error:
            raise UserError(
                f"{path}:{number}: {fault_of(record, error)}.",
                f"a {record.__name__} row of JSON a line",
                f"fix line {number} of {path}",
            ) from None
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: {error}.",
                f"a {record.__name__} row of JSON a line",
                f"fix line {number} of {path}",
            ) from None
        yield number, row


_ARROW = {str: "string", int: "int64", float: "float64", bool: "bool"}


def scalar_types(record: type[Record]) -> dict[str, tuple[str, bool]]:
    """By field the Arrow type that its values are made of and whether they are several; mappings are left
    out."""
    found: dict[str, tuple[str, bool]] = {}
    for name, field in record.model_fields.items():
        options = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else ()
        kind = next((option for option in options if option is not type(None)), field.annotation)
        several = get_origin(kind) is tuple
        kind = get_args(kind)[0] if several else kind
        kind = str if get_origin(kind) is Literal else kind
        if kind in _ARROW:
            found[name] = _ARROW[kind], several
    return found


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """With Python looking for cyclic garbage less often: a chunk's labels are many objects, and none is in a
    cycle."""
    before = gc.get_threshold()
    gc.set_threshold(20 * before[0], *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def pieces(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Rows in lists of `size`, the last one shorter."""
    iterator = iter(rows)
    while piece := list(islice(iterator, size)):
        yield piece
