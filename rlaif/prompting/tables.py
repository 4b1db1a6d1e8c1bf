"""Rows of files and data sets of any kind: text lines, JSON, CSV, Parquet, folders of `datasets`, the hub.

A row is what its file holds, with its place for messages; what a row means is decided elsewhere. Files are
recognised from what they hold, their names decide where that is not enough, and rows are read one at a time.
"""

from __future__ import annotations

import csv
import gzip
import json
import shlex
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, cast

from rlaif.errors import UserError, first_line
from rlaif.options.data import DataSourceOptions

_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
_MARKS = {  # of the encodings that are not read; the longer ones first
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_PACKED = {b"\x28\xb5\x2f\xfd": "zstd -d", b"PK\3\4": "unzip", b"\xfd7zXZ": "xz -d"}
_BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 20  # bytes of a packed line that are unpacked at a time
# Bytes that any packed file may unpack to, and how many times its own size a larger one may: texts pack 3 to
# 30 times, and gzip at most 1,032 times.
_PLAUSIBLE, _MOST_PACKED = 1 << 26, 100
_CARRIAGE_RETURN = "a carriage return without a line feed, outside quotes"


@dataclass(frozen=True)
class Place:
    """Where a row stands: a line of a file, or a row of what has no lines."""

    file: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.file}:{self.number}" if self.unit == "line" else f"{self.file}, {self.short}"

    @property
    def short(self) -> str:
        """The place without the file."""
        return f"{self.unit} {self.number}"


Rows = Iterator[tuple[Place, Any]]


def read_table(source: DataSourceOptions) -> Rows:
    """The rows of a source: dictionaries by column, or texts where a row is only that.

    Raises UserError, with the line where there is one, for what cannot be read.
    """
    if source.hub is not None:
        return _numbered(source.name, _from_hub(source))
    path = Path(source.path or "")
    if path.is_dir():
        return _numbered(source.name, _from_folder(path, source.split))
    if source.split is not None:
        raise UserError(f"{path}: a file, which has no splits.", "a folder of datasets, or no split")
    return _READERS[kind_of(path, source.format)](path)


def require_kept(path: Path) -> None:
    """UserError for a named pipe, a device or a socket: what comes out of one cannot be read twice, or never
    ends. What is missing is left to who opens it."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}.get(stat.S_IFMT(mode), "a device")
        raise UserError(
            f"{path}: {kind}, not a file.",
            "a file on disk: it is read more than once",
            "write what comes out of it to a file, and name that" if kind == "a pipe" else "check the path",
        )


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` of `datasets` writes."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def kind_of(path: Path, format: str | None = None) -> str:
    """What a file holds: text, json, csv or parquet."""
    with _opened(path) as file:
        head = b"".join(islice(_whole(file, path), 1))
    if head.startswith(b"PAR1"):
        return "parquet"
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix == ".parquet":
        raise UserError(f"{path}: not a Parquet file.", "a whole Parquet file", "fetch the file again")
    if format or suffix in _SUFFIXES:
        return format or _SUFFIXES[suffix]
    first = next((line.strip() for _, line in text_lines(path) if line.strip()), "")
    if first in ("{", "[", "[{"):
        raise UserError(
            f'{path}: begins with "{first}": JSON over several lines, or text?',
            "format: json or format: text",
            f"{{path: {path.name}, format: json}}",
        )
    try:
        value = json.loads(first, parse_int=float)  # of any length
    except (ValueError, RecursionError):
        return "text"
    rows = value if isinstance(value, list) else [value]
    return "json" if rows and all(isinstance(row, dict) for row in rows) else "text"


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, gzipped or not, with their numbers and ends."""
    with _opened(path) as file:
        for number, line in enumerate(_whole(file, path), 1):
            if tool := next((t for m, t in _PACKED.items() if number == 1 and line.startswith(m)), None):
                raise UserError(
                    f"{path}: packed, and not with gzip.",
                    "a file as it is, or packed with gzip",
                    f"unpack it: {tool} {shlex.quote(str(path))}",
                )
            mark = next((m for m in _MARKS if number == 1 and line.startswith(m)), None)
            if mark:
                raise _not_utf8(f"{path}: {_MARKS[mark]} text, as its first bytes say.", path, _MARKS[mark])
            try:
                text = (line.removeprefix(_BOM) if number == 1 else line).decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                found = f"{path}:{number}: not UTF-8 text (byte 0x{byte:02X})."
                # Control characters in ISO-8859-1, which no text holds: quotes and dashes in the other one.
                raise _not_utf8(found, path, "CP1252" if 0x80 <= byte < 0xA0 else "ISO-8859-1") from None
            if "\0" in text:
                order = "BE" if number == 1 and text.index("\0") % 2 == 0 else "LE"
                raise _not_utf8(f"{path}:{number}: holds a zero byte.", path, f"UTF-16{order}")
            yield number, text


def _not_utf8(found: str, path: Path, encoding: str) -> UserError:
    there, new = (shlex.quote(str(p)) for p in (path, path.with_name(f"utf8_{path.name}")))
    return UserError(
        found,
        "text in UTF-8",
        f"save it as UTF-8; if it is {encoding}: iconv -f {encoding} -t UTF-8 {there} > {new}",
    )


def parse_json(line: str) -> Any:
    """The value of a JSON text; ValueError where it is none, or an object has one key twice: parsers drop
    one without a word."""
    try:
        return json.loads(line, object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, character {error.pos + 1})") from None
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):
            most = sys.get_int_max_str_digits()
            raise ValueError(f"a whole number of more than {most:,} digits") from None
        raise


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError where it has one key twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        double = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f'the key "{double}" stands twice')
    return row


def _opened(path: Path) -> IO[bytes]:
    require_kept(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        return gzip.open(path) if zipped else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}).", "a file that exists", "check the path"
        ) from None


def _whole(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The lines of an open file; UserError where it is cut short, or unpacks to what no text unpacks to."""
    try:
        yield from _unpacked(file, path) if isinstance(file, gzip.GzipFile) else file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}).", "a whole file", "fetch the file again"
        ) from None


def _unpacked(file: gzip.GzipFile, path: Path) -> Iterator[bytes]:
    pieces: list[bytes] = []
    size, behind = 0, cast(IO[bytes], file.fileobj)
    while piece := file.readline(_PIECE):
        size += len(piece)
        packed = behind.tell()
        if size > _PLAUSIBLE and size > _MOST_PACKED * packed:
            raise UserError(
                f"{path}: {packed:,} bytes of it unpack to {size:,}, more than {_MOST_PACKED} times as many.",
                "a file of texts, which never packs so well",
                "look at what is in it; to read it all the same, unpack it",
            )
        pieces.append(piece)
        if piece.endswith(b"\n"):
            yield b"".join(pieces)
            pieces = []
    if pieces:
        yield b"".join(pieces)


def _texts(path: Path) -> Rows:
    for number, line in text_lines(path):
        if line.strip():
            yield Place(str(path), number), line.rstrip("\r\n")


def _json(path: Path) -> Rows:
    lines = ((number, line) for number, line in text_lines(path) if line.strip())
    first = next(lines, (1, ""))
    if first[1].lstrip().startswith("["):
        yield from _array(path)
        return
    for number, line in chain([first] if first[1] else [], lines):
        try:
            yield Place(str(path), number), parse_json(line)
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: {error}.",
                "a JSON object a line, or one array",
                f"fix line {number} of {path}; if it holds plain text: format: text",
            ) from None


def _array(path: Path) -> Rows:
    try:
        values = parse_json("".join(line for _, line in text_lines(path)))
    except ValueError as error:
        raise UserError(
            f"{path}: {error}.", "one JSON array, or a JSON object a line", f"fix {path}"
        ) from None
    yield from _numbered(str(path), iter(values))


def _csv(path: Path) -> Rows:
    number, header = next(((at, line) for at, line in text_lines(path) if line.strip()), (1, ""))
    if header.lstrip().startswith("{"):
        raise UserError(
            f"{path}:{number}: the first line begins with a brace, as JSON does.",
            "a header with the columns' names",
            f"{{path: {path.name}, format: json}}, or name the file .jsonl",
        )
    delimiter = max(",;\t", key=lambda mark: _cells(header, mark))
    csv.field_size_limit(sys.maxsize)  # 131,072 by default, which a long conversation is beyond
    reader = csv.reader((line for _, line in text_lines(path)), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        where = Place(str(path), reader.line_num + 1)  # a cell may hold several lines
        try:
            cells = next(reader, None)
        except csv.Error as error:
            why = _CARRIAGE_RETURN if "new-line character" in str(error) else str(error)
            raise UserError(f"{where}: {why}.", "a CSV file", f"fix the row of {where.short}") from None
        if cells is None:
            return
        if cells and not names:
            names = _header(cells, where)
        elif cells and len(cells) != len(names):
            raise UserError(
                f"{where}: {len(cells)} cells, but {len(names)} columns.",
                "as many cells as the header has",
                f'put quotes around a cell with "{delimiter}" in it',
            )
        elif cells:
            yield where, dict(zip(names, cells, strict=True))


def _cells(header: str, delimiter: str) -> int:
    """How many cells a header has with that delimiter; 0 where it is none, which the reader then says."""
    try:
        return len(next(csv.reader([header], delimiter=delimiter), ()))
    except csv.Error:
        return 0


def _header(cells: list[str], where: Place) -> list[str]:
    names = [cell.strip() for cell in cells]
    _refuse_doubled(names, where)
    return names


def _refuse_doubled(names: list[str], where: object) -> None:
    double = [name for name, n in Counter(names).items() if n > 1]
    if double:
        raise UserError(
            f'{where}: the column "{double[0]}" stands twice.', "a name of its own for each column"
        )


def _parquet(path: Path) -> Rows:
    require_library("pyarrow")
    import pyarrow
    import pyarrow.parquet

    def rows() -> Iterator[Any]:
        try:
            # Read a piece at a time: by default whole row groups are, and are held until the last one.
            file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
            _refuse_doubled(file.schema_arrow.names, path)
            classes = _classes((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            for batch in file.iter_batches(1024):
                yield from (_with_names(row, classes) for row in batch.to_pylist())
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            first = str(error).split("\n")[0]
            raise UserError(
                f"{path}: cannot be read ({first}).", "a whole Parquet file", "fetch the file again"
            ) from None

    return _numbered(str(path), rows())


def _from_folder(path: Path, split: str | None) -> Iterator[Any]:
    if not is_saved_dataset(path):
        raise UserError(
            f"{path}: a folder, but none that save_to_disk of datasets wrote.",
            "a file, or a folder with state.json or dataset_dict.json",
            "name one file of it",
        )
    require_library("datasets")
    import datasets

    try:
        found: Any = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder makes of the library
        raise _unreadable(str(path), error) from None
    if isinstance(found, dict):
        if split not in found:
            raise UserError(
                f"{path}: " + (f'no split "{split}".' if split else "holds several splits."),
                f"split: one of {', '.join(found)}",
                f"{{path: {path.name}, split: {next(iter(found), '')}}}",
            )
        found = found[split]
    elif split is not None and str(found.split) != split:
        raise UserError(f"{path}: holds one table, not splits.", "no split", f"{{path: {path.name}}}")
    return _rows_of(found, str(path))


def _from_hub(source: DataSourceOptions) -> Iterator[Any]:
    require_library("datasets")
    import datasets

    try:
        found = datasets.load_dataset(source.hub or "", source.subset, split=source.split)
    except Exception as error:  # no network, no such data set, split or subset
        raise _unreadable(source.name, error) from None
    return _rows_of(found, source.name)


def _classes(said: bytes) -> dict[str, list[str]]:
    """The names of classes, of the columns of a Parquet file that hold their numbers, by what datasets says
    in the file."""
    try:
        features = json.loads(said)["info"]["features"]
        return {
            name: feature["names"] for name, feature in features.items() if feature["_type"] == "ClassLabel"
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _with_names(row: dict[str, Any], classes: dict[str, list[str]]) -> dict[str, Any]:
    """A row with the names of classes in place of their numbers, as other kinds of files have them; none for
    -1."""
    named = {key: row[key] for key in classes if isinstance(row.get(key), int)}
    within = {key: 0 <= number < len(classes[key]) for key, number in named.items()}
    return row | {key: classes[key][number] if within[key] else None for key, number in named.items()}


def _rows_of(table: Any, name: str) -> Iterator[Any]:
    features = (getattr(table, "features", None) or {}).items()
    classes = {key: feature.names for key, feature in features if getattr(feature, "names", None)}
    try:
        yield from (_with_names(row, classes) for row in table) if classes else table
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name}: datasets cannot read it ({first_line(error)}).",
        "a data set that datasets can load on this machine",
        "check the name, the split and, for a hub id, the network",
    )


def require_library(name: str) -> None:
    """Raise UserError where a library of the extra `train` is not installed."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise UserError(f"{name} is not installed.", "the extra train", "pip install 'rlaif-loop[train]'")


def _numbered(name: str, rows: Iterator[Any]) -> Rows:
    return ((Place(name, number, "row"), row) for number, row in enumerate(rows, 1))


_READERS: dict[str, Callable[[Path], Rows]] = {
    "text": _texts,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}
