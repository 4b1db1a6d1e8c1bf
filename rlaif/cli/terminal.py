"""What commands print with: results on stdout, progress on stderr, no control characters."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.console import Console

from rlaif.errors import OBEYED, UserError, printable

stderr = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
PAGE = (b"<!doctype html",)
NO_LICENCE = "unknown"  # in a card, where nobody has said which
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def emit(data: Any) -> None:
    """Print a result as JSON; control characters, and characters that stdout cannot encode, are escaped: no
    value changes."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2, default=str)
    print(OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def say(text: object) -> None:
    """Print a result as text, without control characters."""
    print(printable(str(text)))


def as_argument(path: Path) -> str:
    """A path as a command's argument: one that begins with a dash would be read as an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def tell(text: object) -> None:
    """Print progress, without control characters."""
    Progress.told = time.monotonic()
    stderr.print(printable(str(text)))


def page_at(
    path: Path, option: str = "--out", example: str = "page.html", begins: tuple[bytes, ...] = PAGE
) -> Path:
    """Where a page will be written, its folder made: said before anything is asked, not after.

    A page takes the place of an earlier one, which `begins` tells from labels, configs and devices: these are
    not to be lost by a mistyped option.
    """
    if path.is_dir():
        raise UserError(
            f"{option} {path}: a folder.", "the name of a file to write", f"{option} {path / example}"
        )
    if path.exists() and not (path.is_file() and _replaceable(path, begins)):
        raise UserError(
            f"{option} {path}: holds something else, which would be lost.",
            "a new name, or a file that this command wrote before",
            f"{option} {path.with_name(example)}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise UserError(
            f"{option} {path}: nothing can be written to {path.parent}.", "a folder that can be written"
        )
    return path


def _replaceable(path: Path, begins: tuple[bytes, ...]) -> bool:
    """Whether a file is empty or begins like one that may be replaced."""
    with path.open("rb") as file:
        head = file.read(200).lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return not head or head.startswith(begins)


def typed_lines() -> Iterator[str]:
    """Lines from the terminal, which are asked for, or from a pipe; UserError for one that is no text."""
    if not sys.stdin.isatty():
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield line.decode(sys.stdin.encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"line {number} of what is typed: not {error.encoding.upper()} text "
                    f"(byte 0x{line[error.start]:02X}).",
                    "a line of text",
                    "save what is piped in as UTF-8",
                ) from None
        return
    import readline  # noqa: F401  - lets input() keep earlier lines

    while True:
        try:
            yield input("> ")
        except EOFError:
            return


SILENCE = 9.0  # seconds without a line, at most


class Progress:
    """A progress bar with rate and time left; where stderr is not a terminal plain lines every ten seconds,
    also while nothing is done: a model is loaded, a batch is long.

    The rate is measured from the first unit done on, before which models are loaded, and at most once a
    second: units that an engine gives together count when the next ones come. Without a `total` it shows how
    long it has been at work. Of bars inside one another the innermost is shown.
    """

    open: ClassVar[list[Progress]] = []
    told: ClassVar[float] = time.monotonic()  # when the last line was printed, of whatever bar

    def __init__(self, what: str, total: int | None, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self.started = time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first unit was done, and how many then were
        self.measured, self.rate = 0.0, 0.0  # when the rate was measured, and units a second, 0 where unknown
        self.note = ""
        self.bar: Any = None
        self.left = threading.Event()

    def __enter__(self) -> Any:
        if stderr.is_terminal:
            from rich import progress as bars

            for outer in self.open[-1:]:
                outer.bar.stop()
            counted = () if self.total is None else (bars.MofNCompleteColumn(),)
            self.bar = bars.Progress(
                bars.TextColumn("{task.description}", markup=False),
                bars.BarColumn(),
                *counted,
                bars.TimeElapsedColumn(),
                bars.TextColumn("{task.fields[left]}"),
                bars.TextColumn("{task.fields[note]}", markup=False),
                console=stderr,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(
                printable(self.what), total=self.total, completed=self.done, left="", note=""
            )
        else:
            threading.Thread(target=self._tell_on, daemon=True).start()
        self.open.append(self)
        return self.tick

    def _tell_on(self) -> None:
        while not self.left.wait(1):
            if self.open[-1:] == [self] and time.monotonic() - Progress.told > SILENCE:
                self._tell()

    def _tell(self) -> None:
        Progress.told = now = time.monotonic()
        state = f"{now - self.started:.0f} s" if self.total is None else f"{self.done}/{self.total}"
        pace = [f"{self.rate:.2g}/s", self._left()] if self.rate else []
        tell(", ".join([f"{self.what}: {state}", *pace, *([self.note] if self.note else [])]))

    def tick(self, n: int = 1, note: str = "") -> None:
        """`n` more are done; `note` is what there is to say of them, e.g. the loss."""
        self.done, self.note = self.done + n, note
        now = time.monotonic()
        self._measure(n, now)
        if self.bar:
            self.bar.update(self.task, advance=n, left=self._left(), note=printable(note))
        elif now - Progress.told > SILENCE:
            self._tell()

    def _measure(self, n: int, now: float) -> None:
        if n and self.first is None:
            self.first, self.measured = (now, self.done), now
        elif n and self.first and now - self.measured >= 1:
            start, done = self.first
            self.measured, self.rate = now, (self.done - done) / (now - start)

    def _left(self) -> str:
        return f"{(self.total - self.done) / self.rate:.0f} s left" if self.rate and self.total else ""

    def __exit__(self, *_: object) -> None:
        self.left.set()
        self.open.remove(self)
        if self.bar:
            self.bar.stop()
            for outer in self.open[-1:]:
                outer.bar.start()
