"""Rows found by a key without being held: an index on disk from a key to the places of its rows.

A run of 200,000 comparisons then needs no more memory than one of 1,000. The index is a private SQLite file
that disappears with the process; it holds digests and file positions, never a row.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import warnings
import weakref
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from rlaif.errors import UserError, printable
from rlaif.prompting.tables import require_kept

R = TypeVar("R", bound=BaseModel)
BEGINS = b'{"'  # every row


class CutRowWarning(UserWarning):
    """The last row of a file is not whole, and is left out."""


def complete_lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file, none where it is missing.

    A last line that is not whole is left out with a warning: a kill cut it short, or it is just being
    written. UserError names one that no row begins with.
    """
    if path.exists():
        require_kept(path)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield line
                else:
                    _left_out(path, number, line)


def _left_out(path: Path, number: int, line: bytes) -> None:
    """What to say of a last line that is not whole; zero bytes at its end are what a power cut leaves."""
    begun = line.rstrip(b"\0")
    if not BEGINS.startswith(begun[: len(BEGINS)]):
        shown = printable(begun[:40].decode(errors="replace"))
        raise damaged_line(path, number, f"it ends in {shown!r}, which is no row")
    warnings.warn(
        f"{path}:{number}: the row is not whole and is left out; a kill cut it short, or it is being written",
        CutRowWarning,
        stacklevel=1,  # so that each is told once, whoever reads
    )


def drop_torn_line(path: Path) -> None:
    """Cut off what a killed process left half written; only a file's one writer may."""
    if path.exists():
        os.truncate(path, _end_of_last_line(path))


def torn_line(path: Path) -> bytes:
    """What stands behind the last whole line of a file."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(_end_of_last_line(path))
        return file.read()


def cut_files(folder: Path) -> list[Path]:
    """The row files of a folder whose last row is not whole."""
    return [path for path in sorted(folder.glob("*.jsonl")) if path.is_file() and torn_line(path)]


def _end_of_last_line(path: Path) -> int:
    """Where the last whole line ends, searched from the back."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def key_of(path: Path, number: int, line: bytes, key: str = "id") -> str:
    """One field of a row; UserError names a line that is no such row."""
    try:
        value = from_json(line)[key]
    except (ValueError, KeyError, TypeError):
        raise damaged_line(path, number) from None
    if not isinstance(value, str):
        raise damaged_line(path, number)
    return value


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a JSONL file as dictionaries; UserError names a line that is none."""
    for number, line in enumerate(complete_lines(path), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise damaged_line(path, number)
        yield row


def fault_of(record: type[BaseModel], error: ValidationError) -> str:
    """The first thing wrong with a row, with the words that its field allows where it allows only some."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "line"
    given = "" if where == "line" else f" (found {repr(first['input'])[:80]})"
    if first["type"] == "literal_error":
        given = json.dumps(first["input"], ensure_ascii=False)[:80]
        return f"{where}: {given}, which should be {first.get('ctx', {}).get('expected')}"
    if first["type"] == "missing":
        field = record.model_fields.get(where)
        words = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
        return f"{where} is missing" + (f", which should be one of {', '.join(words)}" if words else "")
    return f"{where}: {first['msg']}{given}"


def damaged_line(path: Path, number: int, why: str = "") -> UserError:
    """The error that names a line which is no row, and why."""
    return UserError(
        f"{path}:{number}: damaged row{f' ({why})' if why else ''}.",
        "rows as they were written",
        f"remove line {number}, and the stage makes its row again",
    )


class Lookup(Generic[R]):
    """The rows of some files by one of their fields, read from disk when they are asked for."""

    def __init__(self, files: Sequence[Path], record: type[R], key: str = "id") -> None:
        self.record, self.key = record, key
        # The first fields as rows are written: enough to say where a row stands. It is parsed when it is
        # read.
        own = "" if key == "id" else f'[^"\\\\]+","{re.escape(key)}":"'
        self._head = re.compile(rf'\{{"v":\d+,"id":"{own}([^"\\]+)"'.encode())
        there = [path for path in files if path.exists()]
        for path in there:
            require_kept(path)
        self._files: list[BinaryIO] = [path.open("rb") for path in there]
        db = self._db = sqlite3.connect(
            "", isolation_level=None, check_same_thread=False
        )  # no name: a temporary file
        weakref.finalize(self, _close, db, self._files)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-4096"):
            db.execute(f"PRAGMA {setting}")
        db.execute(
            "CREATE TABLE places (key INTEGER, file INTEGER, start INTEGER, size INTEGER, "
            "PRIMARY KEY (key, file, start)) WITHOUT ROWID"
        )
        db.execute("BEGIN")
        for number, path in enumerate(there):
            db.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", self._places(number, path))
        db.execute("COMMIT")

    def _places(self, number: int, path: Path) -> Iterator[tuple[int, int, int, int]]:
        """(key, file, start, size) of each stretch of rows with one key: labels of a pair stand together."""
        start = end = 0
        current: bytes | None = None
        for count, line in enumerate(complete_lines(path), 1):
            found = self._head.match(line)
            value = found[1] if found else key_of(path, count, line, self.key).encode()
            if value != current and current is not None:
                yield _digest(current), number, start, end - start
                start = end
            current, end = value, end + len(line)
        if current is not None:
            yield _digest(current), number, start, end - start

    def all(self, value: str) -> list[R]:
        """Every row whose key is `value`, in the order of the files."""
        return [row for row, _ in self.lines(value)]

    def lines(self, value: str) -> list[tuple[R, bytes]]:
        """The same, each row with the line it was read from."""
        key = (_digest(value.encode()),)
        places = self._db.execute("SELECT file, start, size FROM places WHERE key = ?", key)
        rows = [pair for place in places.fetchall() for pair in self._read(*place)]
        return [pair for pair in rows if getattr(pair[0], self.key) == value]

    def __getitem__(self, value: str) -> R:
        """The first row whose key is `value`; UserError where there is none, which another row then names."""
        row = self.get(value)
        if row is None:
            folders = dict.fromkeys(str(Path(file.name).parent) for file in self._files)
            raise UserError(
                f'{", ".join(folders) or "the run"}: no {self.record.__name__.lower()} "{value}", which '
                "another row names.",
                "rows as they were written",
                "restore the files from a copy",
            )
        return row

    def get(self, value: str) -> R | None:
        """The first row whose key is `value`, None where there is none."""
        return next(iter(self.all(value)), None)

    def __len__(self) -> int:
        """How many keys there are."""
        return self._db.execute("SELECT COUNT(DISTINCT key) FROM places").fetchone()[0]

    def __contains__(self, value: str) -> bool:
        return self.get(value) is not None

    def _read(self, number: int, start: int, size: int) -> Iterator[tuple[R, bytes]]:
        file = self._files[number]
        file.seek(start)
        for at, line in enumerate(file.read(size).split(b"\n")[:-1], 1):
            try:
                yield self.record.model_validate_json(line), line
            except ValidationError as error:
                file.seek(0)
                line_number = file.read(start).count(b"\n") + at
                raise damaged_line(Path(file.name), line_number, fault_of(self.record, error)) from None


def _digest(value: bytes) -> int:
    return int.from_bytes(blake2b(value, digest_size=8).digest(), signed=True)


def _close(db: Any, files: list[BinaryIO]) -> None:
    db.close()
    for file in files:
        file.close()
