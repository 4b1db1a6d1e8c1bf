"""One process a run folder, and one a file of rows that a command appends to."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlaif.errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder: a second process is refused instead of writing into the same files."""
    with _held(folder / ".lock", folder, "working in this run", "a run folder", "folder"):
        yield


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """The same of a file that is appended to; it is made where it is missing."""
    with _held(path, path, "writing it", "a file", "file"):
        yield


@contextmanager
def _held(lock: Path, what: Path, doing: str, one: str, kind: str) -> Iterator[None]:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("a")
    except OSError as error:
        raise UserError(
            f"{what}: nothing can be kept there ({error.strerror}).",
            f"a {kind} that can be made and written",
            f"name another {kind} with --out",
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{what}: another process is {doing}.",
                f"one process {one}",
                f"wait for it, or name another {kind} with --out",
            ) from None
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process is working in a run folder."""
    try:
        with (folder / ".lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
