"""Rows of imported files: JSON lines, a JSON array or object, CSV, Parquet, folders of `datasets`.

Rows are read one at a time, but for a file that is one JSON object. A line that is not JSON is a row that
cannot be used; a file that ends in the middle is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.options.data import DataSourceOptions
from rlaif.prompting.conversations import Unusable
from rlaif.prompting.tables import is_saved_dataset, kind_of, parse_json, read_table, text_lines, unique_keys

_ENDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_PIECE = 1 << 16  # characters of an array that are read at a time


def raw_rows(path: Path) -> Iterator[Any]:
    """The rows of a file or folder, whatever their format; `Unusable` for a line that is not JSON.

    Raises UserError where the file cannot be read.
    """
    kind = _container(path)
    if kind == "lines":
        return (_json(line) for _, line in text_lines(path) if line.strip())
    if kind == "array":
        return _array(path)
    if kind == "document":
        return iter([_document(path)])
    split = None
    if path.is_dir() and (path / "dataset_dict.json").is_file():
        split = _train_split(path)
    return (row for _, row in read_table(DataSourceOptions(path=str(path), split=split)))


def files_of(folder: Path) -> list[Path]:
    """The files of a folder that rows can stand in, sorted; where some are called `train…`, these alone.

    A folder that `save_to_disk` of `datasets` wrote is one file to all readers.
    """
    if is_saved_dataset(folder):
        return [folder]
    found = [
        path for path in sorted(folder.rglob("*")) if path.name.lower().removesuffix(".gz").endswith(_ENDS)
    ]
    if not found:
        raise UserError(
            f"{folder}: a folder without a file of rows.",
            f"files that end in {', '.join(_ENDS)}, or a folder that save_to_disk of datasets wrote",
        )
    return [path for path in found if path.name.startswith("train")] or found


def count_rows(path: Path, limit: int | None = None) -> int:
    """How many rows there are, of at most `limit`, without reading more of them than needed."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        with suppress(pyarrow.ArrowException, OSError, ValueError):  # which the reader tells in words
            total = pyarrow.parquet.read_metadata(path).num_rows
            return total if limit is None else min(limit, total)
    if _container(path) == "lines":
        return sum(1 for _ in islice((1 for _, line in text_lines(path) if line.strip()), limit))
    return sum(1 for _ in islice(raw_rows(path), limit))


def _train_split(path: Path) -> str:
    """The split that is imported of a folder with several: `train`, or the only one."""
    try:
        names = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        if "train" in names or len(names) == 1:
            return "train" if "train" in names else str(names[0])
    except (OSError, ValueError, KeyError, TypeError):
        raise _broken(path / "dataset_dict.json", "it names no splits") from None
    raise UserError(
        f"{path}: a data set with the splits {', '.join(map(str, names))}.",
        "a split",
        f"name its folder: {path}/{names[0] if names else 'SPLIT'}",
    )


def _container(path: Path) -> str:
    """How rows stand in a file: in lines, in an array, in one object, or in a table."""
    if path.is_dir() or path.suffix.lower() in (".parquet", ".csv", ".tsv"):
        return "table"
    named = path.name.removesuffix(".gz").lower()
    if named.endswith((".csv", ".tsv")) or kind_of(path, "json") == "parquet":
        return "table"
    lines = (line for _, line in text_lines(path) if line.strip())
    first, second = next(lines, ""), next(lines, None)
    try:
        value = json.loads(first)
    except ValueError as error:
        cut = isinstance(error, json.JSONDecodeError) and error.pos >= len(first.rstrip())
        return {"[": "array", "{": "document"}.get(first.lstrip()[:1], "lines") if cut else "lines"
    except RecursionError:
        return "lines"
    return "array" if isinstance(value, list) and second is None else "lines"


def _json(line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        return Unusable("a key that stands twice" if "stands twice" in str(error) else "not JSON")


def _document(path: Path) -> Any:
    try:
        return parse_json("".join(line for _, line in text_lines(path)))
    except ValueError as error:
        raise _broken(path, str(error)) from None


def _array(path: Path) -> Iterator[Any]:
    """The elements of one array, each given once it has been read, which the text after it shows."""
    decode = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode
    lines = (line for _, line in text_lines(path))
    text, ended, wanted = _more(lines, "", _PIECE)
    at = text.index("[") + 1
    while True:
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        if text[at : at + 1] == "]":
            return
        try:
            value, end = decode(text, at)
            after = text[end:].lstrip(" \t\r\n")[:1]
        except RecursionError:
            raise _broken(path, "nested too deeply") from None
        except ValueError as error:
            value, end, after = None, at, "" if not ended else str(error)
        if after in (",", "]"):
            yield value
            at = end
        elif ended or after:
            raise _broken(path, after if len(after) > 1 else "it ends in the middle of a row")
        else:
            text, ended, wanted = _more(lines, text[at:], 2 * wanted)
            at = 0


def _more(lines: Iterator[str], rest: str, wanted: int) -> tuple[str, bool, int]:
    """`rest` and at least `wanted` characters after it; whether the file has ended; `wanted`."""
    pieces, size = [rest], 0
    for line in lines:
        pieces.append(line)
        size += len(line)
        if size >= wanted:
            return "".join(pieces), False, wanted
    return "".join(pieces), True, wanted


def _broken(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: cannot be read ({reason}).", "a whole JSON file", "check the path, or fetch the file again"
    )
