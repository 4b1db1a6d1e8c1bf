"""One process a run folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlaif.errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder: a second process is refused instead of writing into the same files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{folder}: no run can be kept there ({error.strerror}).",
            "a folder that can be made and written",
            "name another folder with --out",
        ) from None
    with lock as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder}: another process is working in this run.",
                "one process a run folder",
                "wait for it, or name another folder with --out",
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
