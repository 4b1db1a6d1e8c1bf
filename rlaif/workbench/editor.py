"""The page of `rlaif constitution open`: the file in an editor, the probe pairs beside it, what the last save
turned.

The page asks for the state several times a second; all texts reach it as JSON and are shown as text. Saving
writes what was typed, comments and all, in the file's own line ends, and is refused where the file is no
longer the one that the page was given.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlaif.constitution import json_schema
from rlaif.errors import Conflict, UserError, printable
from rlaif.pages.page import STATIC, render_page
from rlaif.pages.server import Site
from rlaif.records import Prompt
from rlaif.runs.storage import move_into_place
from rlaif.workbench.lint import lint
from rlaif.workbench.lint.files import unreadable
from rlaif.workbench.trying_text import headline
from rlaif.workbench.watching import Saved, Watch, read_at_rest, version_of

CODEMIRROR = (
    "lib/codemirror.js",
    "lib/codemirror.css",
    "mode/yaml/yaml.js",
    "addon/hint/show-hint.js",
    "addon/hint/show-hint.css",
    "addon/lint/lint.js",
    "addon/lint/lint.css",
    "addon/edit/matchbrackets.js",
    "addon/selection/active-line.js",
)
BOM = b"\xef\xbb\xbf"


@dataclass
class Editor:
    """What the page asks for, from a watched file; `judge` is its name as it was given."""

    watch: Watch
    judge: str
    prompts: Sequence[Prompt] = ()  # what the linter checks tags against
    failed: Callable[[str], None] = lambda said: None  # told of an error inside
    _stop: threading.Event = field(default_factory=threading.Event)
    _saving: threading.Lock = field(default_factory=threading.Lock)

    def site(self) -> Site:
        """The page and its answers."""
        values = {"path": str(self.watch.path), "judge": self.judge}
        return Site(
            page=lambda: render_page("editor.html.j2", **values),
            asks={
                "/api/file": lambda given: self.file(),
                "/api/facts": lambda given: self.facts(),
                "/api/state": self.state,
            },
            tells={"/api/check": self.check, "/api/save": self.save},
            files=static_files(),
            failed=self.failed,
        )

    def follow(self) -> threading.Thread:
        """Judge every save from now on, in a thread; `stop` ends it."""
        thread = threading.Thread(target=self._follow, daemon=True)
        thread.start()
        return thread

    def _follow(self) -> None:
        watch = self.watch
        try:
            for _ in watch.saves(self._stop):
                pass
        except Exception as error:  # an engine's: the page says so, and the text can still be saved
            said = f"judging has ended: {type(error).__name__}: {printable(str(error))}"
            self.failed(said)
            watch.history.append(
                Saved(watch.history[-1].number + 1 if watch.history else 1, watch.version, error=said)
            )

    def stop(self) -> None:
        """Judge no further save."""
        self._stop.set()

    def file(self) -> dict[str, Any]:
        """The file's text and what identifies it."""
        content, _ = read_at_rest(self.watch.path)
        return {"text": as_text(content, self.watch.path), "version": version_of(content)}

    def facts(self) -> dict[str, Any]:
        """What does not change once the file could be loaded: the schema of the file, the tags that prompts
        have, the pairs."""
        pairs = self.watch.probe.pairs
        prompts = [*self.prompts, *(pair.prompt for pair in pairs)]
        return {
            "schema": json_schema(),
            "tags": sorted({tag for prompt in prompts for tag in prompt.tags}),
            "pairs": [_printable(pair.as_dict()) for pair in pairs],
        }

    def state(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Where the watch is; verdicts and the last save's effect where the page has `seen` another number
        of saves."""
        watch = self.watch
        number = len(watch.history)
        found: dict[str, Any] = {"number": number, "version": watch.version, "judging": watch.judging}
        if given.get("seen") != str(number):
            found |= {"verdicts": verdicts_as_dict(watch), "saved": _saved(watch)}
        return found

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the loader, or else the linter, would find in this text, by line."""
        content, path = _text(given).encode(), self.watch.path
        try:
            found = lint(path, self.prompts, templates=self.watch.probe.setting.templates, content=content)
        except UserError as error:
            found = [*unreadable(path, error)]
        keys = ("line", "column", "level", "message", "why", "silence")
        return {"problems": [_printable({key: vars(one)[key] for key in keys}) for one in found]}

    def save(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Write a text where the file is still of the `version` that the page was given; raises Conflict
        where it is not."""
        text, version = _text(given), given.get("version")
        path = self.watch.path.resolve()
        with self._saving:  # of two pages that save at once one is told of the other
            content, _ = read_at_rest(path)
            if version_of(content) != version:
                raise Conflict(
                    f"{self.watch.path} has changed since it was opened here.",
                    "the text that it has now",
                    "load it, or save once more to write over it",
                )
            made = as_bytes(text, content)
            if made != content:
                write_in_place(path, made)
        return {"version": version_of(made)}


def _saved(watch: Watch) -> dict[str, Any] | None:
    """The last save, with its headline in words."""
    if not watch.history:
        return None
    last, first = watch.history[-1], f"the file can be loaded, and {len(watch.probe.pairs)} pairs are judged"
    return last.as_dict() | {"headline": headline(last.effect) if last.effect else first}


def verdicts_as_dict(watch: Watch) -> list[dict[str, Any]]:
    """Every pair's verdicts, by principle in the order of the file, and its preference; none where the file
    could not be loaded yet."""
    verdicts = watch.verdicts
    if verdicts is None:
        return []
    rows: list[dict[str, Any]] = []
    for number in range(len(watch.probe.pairs)):
        both, deciding = verdicts.preferences[number]
        cells = {i: verdicts.cells.get((number, i)) for i in verdicts.constitution.ids}
        shown = [cell.as_dict() | {"principle": i} for i, cell in cells.items() if cell]
        rows.append({"principles": shown, "all": both.as_dict(), "deciding": deciding})
    return rows


def _text(given: Mapping[str, Any]) -> str:
    text = given.get("text")
    if not isinstance(text, str):
        raise UserError("no text was sent.", "the file's whole text as `text`")
    return text


def as_text(content: bytes, path: Path) -> str:
    """A file's content as an editor shows it: lines end with \\n, no byte order mark."""
    try:
        text = content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}).", "a UTF-8 text file") from None
    return text.replace("\r\n", "\n")


def as_bytes(text: str, before: bytes) -> bytes:
    """A typed text with the byte order mark and the line ends that the file had."""
    plain = text.replace("\r\n", "\n")
    if b"\r\n" in before:
        plain = plain.replace("\n", "\r\n")
    return (BOM if before.startswith(BOM) else b"") + plain.encode()


def write_in_place(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one; its permissions stay."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        shutil.copymode(path, partial)
        move_into_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def static_files() -> dict[str, Path]:
    """The page's own scripts and style, and those of CodeMirror, from the package that brings them; raises
    UserError where it is not installed."""
    spec = find_spec("djangocodemirror")  # its files alone are used: Django is not imported
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "djangocodemirror, which brings the editor, is not installed.",
            "the extra editor",
            "pip install 'rlaif-loop[editor]'",
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "static" / "CodeMirror"
    own = {path.name: path for path in (STATIC / "editor.js", STATIC / "hints.js", STATIC / "editor.css")}
    return own | {Path(name).name: folder / name for name in CODEMIRROR}


def _printable(value: Any) -> Any:
    """Plain data whose texts hold no control characters."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return {key: _printable(item) for key, item in value.items()} if isinstance(value, dict) else value
