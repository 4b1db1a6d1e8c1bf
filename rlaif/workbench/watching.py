"""A constitution's file while somebody edits it: on each save the probe set's verdicts by the new text.

The file is looked at several times a second and read once it has been at rest between two looks. A save that
cannot be loaded is told with its line, and the verdicts stay those of the last one that could.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.records import content_hash
from rlaif.workbench.probe import Effect, Probe, ProbePair, Verdicts

LOOK = 0.1  # seconds between two looks at the file
Stamp = tuple[int, int, int]  # inode, size, nanoseconds of the last change


@dataclass(frozen=True)
class Saved:
    """What came of one save: its effect, or why it could not be loaded or judged.

    `number` counts the saves from 1; 0 is the file as it was at the start. `version` is the text's hash. The
    first text that could be judged, after others that could not, has neither an effect nor an error.
    """

    number: int
    version: str
    effect: Effect | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and a page."""
        found = self.effect.as_dict() if self.effect else {}
        return {"number": self.number, "version": self.version, "error": self.error, **found}


@dataclass
class Watch:
    """A file, its probe set, and what its saves have turned so far.

    `start` judges the file as it is; `open` does so where it can be loaded. `saves` then yields each save's
    effect, for as long as it is read; another thread may read `verdicts` and `history` meanwhile. `pairs`
    makes the probe's pairs, where it has none, once a text could be loaded.
    """

    path: Path
    probe: Probe
    pairs: Callable[[Constitution], Sequence[ProbePair]] | None = None
    verdicts: Verdicts | None = None
    version: str = ""  # of the text that was read last
    judging: bool = False
    history: list[Saved] = field(default_factory=list)
    _gone: bool = False  # whether the file could not be read when it was looked at last

    def start(self) -> Verdicts:
        """Judge the file as it is; raises UserError where it cannot be loaded."""
        return self._judge(load_text(self.path, self._read()))

    def open(self) -> None:
        """The same; that the file cannot be loaded is told as of a save, and what is saved next is judged.
        Raises UserError where there is no file, or the judge cannot be asked."""
        text = self._read()
        try:
            constitution = load_text(self.path, text)
        except UserError as error:
            self.history.append(Saved(0, self.version, error=str(error)))
        else:
            self._judge(constitution)

    def _read(self) -> bytes:
        text, self._stamp = read_at_rest(self.path)
        self.version = version_of(text)
        return text

    def _judge(self, constitution: Constitution) -> Verdicts:
        if self.pairs and not self.probe.pairs:
            self.probe.pairs = list(self.pairs(constitution))
        self.verdicts = self.probe.verdicts(constitution)
        return self.verdicts

    def saves(self, stop: threading.Event | None = None) -> Iterator[Saved]:
        """Every save from now on, until `stop` is set."""
        stop = stop or threading.Event()
        while not stop.wait(LOOK):
            if stamp_of(self.path) == self._stamp:
                continue
            saved = self._saved()
            if saved:
                self.history.append(saved)
                yield saved

    def _saved(self) -> Saved | None:
        """What came of the text that stands in the file now; None where it is as it was. A file that is back
        as it was is told, too: the last that was told is that it cannot be read."""
        number, before = self.history[-1].number + 1 if self.history else 1, self.verdicts
        try:
            text, self._stamp = read_at_rest(self.path)
        except UserError as error:
            self._stamp, self._gone = stamp_of(self.path), True
            return Saved(number, self.version, error=str(error))
        if version_of(text) == self.version and not self._gone:
            return None
        self.version, self.judging, self._gone = version_of(text), True, False
        try:
            verdicts = self._judge(load_text(self.path, text))
        except UserError as error:
            return Saved(number, self.version, error=str(error).replace("and run again", "and save it again"))
        finally:
            self.judging = False
        return Saved(number, self.version, Effect.of(before, verdicts) if before else None)


def stamp_of(path: Path) -> Stamp | None:
    """What changes when a file is written; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def read_at_rest(path: Path, tries: int = 20) -> tuple[bytes, Stamp | None]:
    """(a file's content, its stamp), once nobody has written it between two looks; raises UserError where
    there is none, or where it does not come to rest."""
    before, why, text = None, "no such file", b""
    for _ in range(tries):
        before = stamp_of(path)
        try:
            text = path.read_bytes()
        except OSError as error:  # an editor may be putting another file in its place
            before, why = None, error.strerror or why
        time.sleep(LOOK / 2)
        if before is not None and stamp_of(path) == before:
            return text, before
    if before is None:
        raise UserError(f"{path}: cannot be read ({why}).", "an existing file", "check the path")
    raise UserError(
        f"{path}: is written all the time.", "a file that is at rest for a moment", "save it once more"
    )


def version_of(text: bytes) -> str:
    """What identifies a text."""
    return content_hash(text.hex())


def load_text(path: Path, text: bytes) -> Constitution:
    """The constitution of a text that stands, or could stand, in a file."""
    return Constitution.load_with_lines(path, text)[0]
