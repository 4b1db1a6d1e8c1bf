"""Files that survive a power cut, and files that are checked before they are used.

What a later start relies on is written beside its place, forced to disk (fsync) and renamed, so it is either
whole or not there. JSON files of a run carry a checksum of their own; the files of a finished stage are
listed in its stage.json with sizes and digests (`sync_and_digest`), which are compared when the stage is read
(`find_damage`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.records import MOST, ROWS
from rlaif.runs.lookup import cut_files

LARGE = 16 << 20  # bytes; a larger file is not read again while its size and time of change are those sealed
CHECKSUM = "checksum"


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _counts(value: Any) -> bool:
    """Whether a value is a number of things or of seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST


def _all_count(value: Any) -> bool:
    """Whether a value is an object of such numbers."""
    return isinstance(value, dict) and all(map(_counts, value.values()))


def _texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


# The keys of stage.json and manifest.json that are read, with what they hold: those that must be there, and
# the others.
Shape = tuple[dict[str, Callable[[Any], bool]], dict[str, Callable[[Any], bool]]]
SUMMARY: Shape = (
    {"name": _is(str), "number": _is(int), "status": _is(str), "seconds": _counts},
    {
        "dropped": _all_count,
        "metrics": _is(dict),
        "notes": _texts,
        "usage": _all_count,
        "files": _is(dict),
        "in": _counts,
        "kept": _counts,
    },
)
MANIFEST: Shape = (
    {"config_folder": _is(str)},
    {"files": _is(dict), "inputs": _is(dict), "endpoints": _is(dict), "versions": _is(dict)},
)
IMPORT: Shape = ({"dropped": _all_count}, {"left_out": _all_count, "in": _counts})  # of import.json
_PIECE, _ALL = 1 << 20, 1 << 62
_SAMPLED = 100_000_000  # bytes; larger weight files are fingerprinted by size and samples
_REFUSED = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG", "ELOOP")
}
# The same in the words of SQLite, safetensors and torch, which raise errors of their own.
_REFUSED_WORDS = re.compile(
    "no space left|quota exceeded|disk is full|file too large|read-?only (file|database)|permission denied"
    "|disk i/o error|i/o error|unable to open database|failed writing|unexpected pos",
    re.IGNORECASE,
)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, in order; those that a run at work removes meanwhile may be among them."""
    return sorted(Path(at, name) for at, _, names in os.walk(folder) for name in names)


def share(folder: Path, into: Path, leave_out: tuple[str, ...] = ()) -> None:
    """The files of a folder in another one as hard links, which stay when the folder is deleted; as copies
    where the file system has no links.
    """
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or inside.parts[0] in leave_out:
            continue
        new = into / inside
        new.parent.mkdir(parents=True, exist_ok=True)
        link(path, new)


def link(path: Path, new: Path) -> None:
    """Another name for a file, or a copy where the file system has no hard links."""
    try:
        os.link(path.resolve(), new)
    except OSError:
        shutil.copy2(path, new)


def unshare(folder: Path) -> None:
    """Files that have another name elsewhere, copied in place, so that what is written here stays here."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_nlink > 1:
            partial = path.with_name(path.name + ".partial")
            shutil.copy2(path, partial)
            move_into_place(partial, path)


def sync(path: Path) -> None:
    """Force a file, or a folder with everything below it, to disk."""
    for found in [*path.rglob("*"), path] if path.is_dir() else [path]:
        if found.is_file() or found.is_dir():
            _sync(found)


def move_into_place(partial: Path, final: Path) -> None:
    """Give a finished file or folder its name, once it is on disk."""
    sync(partial)
    os.replace(partial, final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without fsync on folders
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a power cut, sees the old content or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same of bytes; what the system refuses names the file."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
    except OSError as error:
        error.filename = error.filename or str(partial)  # a full disk is told without
        raise
    move_into_place(partial, path)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, atomically."""
    plain = json.loads(json.dumps(data, default=str))
    plain.pop(CHECKSUM, None)
    text = json.dumps({**plain, CHECKSUM: _checksum(plain)}, ensure_ascii=False, indent=1)
    write_text(path, text + "\n")


def read_json(
    path: Path, fix: str = "restore it from a copy, or start anew in another folder", shape: Shape = ({}, {})
) -> dict[str, Any]:
    """A JSON object written by `write_json`; raises UserError where it is damaged. One without a checksum is
    believed, but for the keys of `shape`.
    """
    if path.exists() and not path.is_file():  # of a pipe the end never comes
        raise UserError(f"{path}: no file.", "the file as it was written", fix)
    try:
        data = json.loads(path.read_bytes())
        json.dumps(data, ensure_ascii=False).encode()  # a lone surrogate is no text: it could not be written
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise UserError(f"{path}: damaged.", "the file as it was written", fix)
    given = data.pop(CHECKSUM, None)
    if given is not None and given != _checksum(data):
        raise UserError(
            f"{path}: damaged or changed by hand: its checksum does not fit.",
            "the file as it was written",
            fix,
        )
    required, optional = shape
    for key, holds in {**required, **optional}.items():
        if data.get(key) is None and key in optional:
            data.pop(key, None)  # null is missing
        elif not holds(data.get(key)):
            found = repr(data.get(key, "missing"))[:80]
            raise UserError(f"{path}: {key} is {found}.", "the file as it was written", fix)
    return data


def is_sealed(path: Path) -> bool:
    """Whether a stage.json or manifest.json holds a checksum and the digests of the files it is about; of a
    stage that is not done a checksum alone, as its files are still being written."""
    data = json.loads(path.read_bytes())
    unfinished = path.name == "stage.json" and data.get("status") != "done"
    return CHECKSUM in data and (unfinished or "files" in data)


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def digest(path: Path, limit: int | None = None) -> dict[str, Any]:
    """Size, SHA-256 and time of change of a file, or of its first `limit` bytes; of a .jsonl file its rows,
    too."""
    whole, rows, left = hashlib.sha256(), 0, _ALL if limit is None else limit
    with path.open("rb") as file:
        while piece := file.read(min(left, _PIECE)):
            left -= len(piece)
            whole.update(piece)
            rows += piece.count(b"\n")
        state = os.fstat(file.fileno())
    lines = {"rows": rows} if path.suffix == ".jsonl" else {}
    return {
        "bytes": min(state.st_size, _ALL if limit is None else limit),
        **lines,
        "sha256": whole.hexdigest(),
        "changed": state.st_mtime_ns,
    }


def sync_and_digest(folder: Path, leave_out: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The digests of all files of a folder, by relative path, after forcing them to disk."""
    sync(folder)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name: digest(folder / name) for name in names if not name.startswith(leave_out)}


def find_damage(folder: Path, sealed: Mapping[str, Mapping[str, Any]], small: bool = False) -> list[str]:
    """What is wrong with a sealed folder's files, in words; `small` leaves out the large ones (weights)."""
    found = []
    for name, then in sealed.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path}: missing")
            continue
        state = path.stat()
        large = state.st_size == then["bytes"] and state.st_size >= LARGE
        if large and (small or state.st_mtime_ns == then["changed"]):
            continue
        now = digest(path)
        if now["sha256"] != then["sha256"]:
            unit = "rows" if "rows" in then and now["rows"] != then["rows"] else "bytes"
            counts = f"{then[unit]:,} {unit} were written, {now[unit]:,} are there"
            found.append(f"{path}: {counts if now[unit] != then[unit] else 'its content has changed'}")
    return found


def damage_of(folder: Path, record: Mapping[str, Any], small: bool = False) -> list[str]:
    """The same of a folder with the record that was written of it (stage.json or manifest.json). Without
    digests all that can be seen of a finished stage is a file that ends inside a row, and a file of rows that
    holds none though the stage kept some."""
    if record.get("files") or record.get("status") != "done":
        return find_damage(folder, record.get("files") or {}, small)
    kept, files = record.get("kept"), (folder / f"{name}.jsonl" for name in ROWS)
    empty = [path for path in files if kept and path.is_file() and not path.stat().st_size]
    return [
        *(f"{path}: holds no rows, and the stage kept {kept:,}" for path in empty),
        *(f"{path}: its last row is not whole" for path in cut_files(folder)),
    ]


def folder_hash(folder: Path) -> str:
    """16 hex digits over everything that decides the output of a model folder, independent of the folder's
    name."""
    whole = hashlib.sha256()
    named = (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "gguf.json",
    )
    for file in [*(folder / name for name in named), *sorted(folder.glob("*.safetensors"))]:
        if file.is_file():
            whole.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
            for piece in _pieces(file):
                whole.update(piece)
    return whole.hexdigest()[:16]


def _pieces(file: Path) -> Iterator[bytes]:
    """A file's bytes; of a very large one its head, which names every tensor, and evenly spread samples."""
    size = file.stat().st_size
    starts = [0] if size < _SAMPLED else [0, *(size * i // 256 for i in range(1, 256)), size - 65536]
    with file.open("rb") as stream:
        for start in starts:
            stream.seek(start)
            yield stream.read() if size < _SAMPLED else stream.read(65536)


def fingerprint(path: Path) -> str:
    """16 hex digits of what a file, a model folder or a folder of data holds."""
    if (path / "config.json").is_file():
        return folder_hash(path)
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    told = [[file.name if path.is_dir() else "", digest(file)["sha256"]] for file in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


@contextmanager
def os_errors_as_user_errors() -> Iterator[None]:
    """What the system refuses (disk full, read-only, no such folder) becomes a UserError that names the
    file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = _in_words(error)
        if refused is None:
            raise
        raise refused from error


def _in_words(error: BaseException) -> UserError | None:
    """The UserError for an error of the file system, None where it is another one."""
    own = isinstance(error, OSError) and (error.filename is not None or error.errno in _REFUSED)
    if isinstance(error, OSError) and not own and error.errno is not None:
        return None
    if not own and not _REFUSED_WORDS.search(str(error)):
        return None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).strip().split("\n")[0]
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return UserError(
        f"{where}{reason}.",
        "files and folders that can be read and written, and room on the disk",
        "fix that and run the same command again: what was written before stays",
    )
