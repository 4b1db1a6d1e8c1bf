"""A file of another project: its text and values, and in which line each of them stands."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from rlaif.constitution import Principle
from rlaif.errors import OBEYED, UserError
from rlaif.prompting.tables import text_lines
from rlaif.records import content_hash

Kind = Literal["json", "toml", "csv", "text"]
Loc = tuple[str | int, ...]
_SUFFIXES: dict[str, Kind] = {
    ".json": "json",
    ".toml": "toml",
    ".csv": "csv",
    ".tsv": "csv",
    ".md": "text",
    ".markdown": "text",
}
_CRITERIA = re.compile(r"^\s*\[\[\s*criteria\s*\]\]", re.MULTILINE)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Words that say nothing of what a principle is about.
_SMALL_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and any are as assistant be by can choose content for from human i if in is it its last may "
        "must my of on or please remove reply response responses rewrite revise should so than that the "
        "their them this to user way ways was were whether which will with you your",
    )
)
_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}


class Document:
    """One file, read once; what is wrong with a value is told with file and line."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text.replace("\r\n", "\n").replace("\r", "\n")

    @classmethod
    def load(cls, path: Path) -> Document:
        """Read a UTF-8 file; raises UserError where it is none, or empty."""
        document = cls(path, "".join(line for _, line in text_lines(path)))
        if not document.text.strip():
            raise UserError(f"{path}:1: is empty.", "principles in one of the known formats")
        return document

    @cached_property
    def kind(self) -> Kind:
        """What the content looks like; its name decides where it looks like nothing but text, and Markdown
        may begin like anything."""
        named = _SUFFIXES.get(self.path.suffix.lower())
        if named == "text":
            return named
        if _CRITERIA.search(self.text) and named != "json":
            return "toml"
        if self.text.lstrip()[:1] in ("{", "["):
            return "json"
        first = self.text.lstrip().split("\n")[0].lower()
        if re.search(r"[,;\t]", first) and "comment" in first and "agrees" in first:
            return "csv"
        return named or "text"

    @cached_property
    def value(self) -> Any:
        """The value of a JSON or TOML file, None for others; raises UserError where it is damaged."""
        if self.kind == "json":
            return self._json()
        return self._toml() if self.kind == "toml" else None

    def _json(self) -> Any:
        try:
            found = json.loads(self.text)
            self._lines = _json_lines(self.text)
        except json.JSONDecodeError as error:
            raise self.error_at(error.lineno, f"not JSON ({error.msg}, column {error.colno})") from None
        except _Doubled as error:
            raise self.error_at(error.line, f'the key "{error.key}" stands twice') from None
        except RecursionError:
            raise self.error_at(1, "nested too deeply") from None
        except ValueError as error:  # a number of more digits than Python converts
            raise self.error_at(1, f"not JSON that can be read ({error})") from None
        return found

    def _toml(self) -> Any:
        try:
            return tomllib.loads(self.text)
        except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
            line = re.search(r"\(at line (\d+)", str(error))
            raise self.error_at(int(line[1]) if line else self.last_line, f"not TOML ({error})") from None

    @property
    def last_line(self) -> int:
        """The number of the last line with text."""
        return self.text.rstrip().count("\n") + 1

    def line(self, loc: Loc) -> int:
        """1-based line of the deepest part of `loc` that the file has."""
        if self.kind == "json":
            return next(self._lines[loc[:end]] for end in range(len(loc), -1, -1) if loc[:end] in self._lines)
        if self.kind == "toml" and len(loc) > 1:
            return _toml_line(self.text, str(loc[0]), int(loc[1]), str(loc[2]) if len(loc) > 2 else "")
        return 1

    def error(self, loc: Loc, found: str, need: str = "", next: str = "") -> UserError:
        """What is wrong with the value at `loc`."""
        return self.error_at(self.line(loc), found, need, next)

    def error_at(self, line: int, found: str, need: str = "", next: str = "") -> UserError:
        """The same for a line."""
        return UserError(f"{self.path}:{line}: {found}.", need, next)

    def texts(self, loc: Loc, value: Any) -> str:
        """`value`, which must be a text."""
        if not isinstance(value, str):
            raise self.error(loc, f"{_named(loc)} is {kind_of(value)}", "a text")
        return value

    def objects(self, loc: Loc, value: Any) -> dict[str, Any]:
        """`value`, which must have keys."""
        if not isinstance(value, dict):
            raise self.error(loc, f"{_named(loc)} is {kind_of(value)}", "an object with keys")
        return value

    def lists(self, loc: Loc, value: Any) -> list[Any]:
        """`value`, which must be a list."""
        if not isinstance(value, list):
            raise self.error(loc, f"{_named(loc)} is {kind_of(value)}", "a list")
        return value

    def required(self, loc: Loc, row: Mapping[str, Any], key: str) -> str:
        """The text under a key that must be there."""
        if key not in row:
            raise self.error(loc, f'{_named(loc)} has no "{key}"', f'"{key}" with a text')
        return self.texts((*loc, key), row[key])

    def principle(self, line: int, **fields: Any) -> Principle:
        """A principle of what stands at a line; raises UserError where one is not allowed."""
        try:
            return Principle(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].removeprefix("Value error, ")
            named = ".".join(map(str, first["loc"]))
            raise self.error_at(line, f"{named}: {message} (found: {first['input']!r})"[:300]) from None


class Ids:
    """Ids of the principles of one file: those that it has, or made of the texts; each is given once."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def take(self, name: str) -> str:
        """A name of the file where it is an id, else one made of its words."""
        return self._once(name if _ID.fullmatch(name) else slug(name))

    def made(self, text: str, above: str = "") -> str:
        """An id made of a text's words, with those of what stands above it where it is taken."""
        name = slug(text)
        return self._once(slug(f"{above} {text}", 8) if above and name in self.given else name)

    def _once(self, base: str) -> str:
        name, number = base, 1
        while name in self.given:
            number += 1
            name = f"{base}-{number}"
        self.given.add(name)
        return name


def slug(text: str, words: int = 5) -> str:
    """An id made of a text's first words that say something: the same for the same text."""
    found = re.findall(r"[a-z0-9]+", re.sub(r"['’]", "", text.lower()))
    chosen = [word for word in found if word not in _SMALL_WORDS] or found
    return "-".join(chosen[:words])[:60] or f"p-{content_hash(' '.join(text.split()))[:8]}"


def kind_of(value: Any) -> str:
    """What a value of JSON or TOML is, in words."""
    return _NAMES.get(type(value), "a number" if isinstance(value, int | float) else "a date or time")


def as_json(value: Any) -> str:
    """JSON text without a character that a terminal would obey."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _named(loc: Loc) -> str:
    return ".".join(str(part) for part in loc) or "the file"


class _Doubled(Exception):
    def __init__(self, key: str, line: int) -> None:
        self.key, self.line = key, line


def _json_lines(text: str) -> dict[Loc, int]:
    """The line in which each value of a valid JSON text begins; raises _Doubled for a key that stands
    twice."""
    decoder, offsets = json.JSONDecoder(), dict[Loc, int]()

    def skip(at: int) -> int:
        while text[at : at + 1] in tuple(" \t\n,:"):
            at += 1
        return at

    def walk(at: int, loc: Loc) -> int:
        at = skip(at)
        offsets[loc] = at
        if text[at] not in "{[":
            return decoder.raw_decode(text, at)[1]
        index, keyed, at = 0, text[at] == "{", skip(at + 1)
        while text[at] not in "}]":
            key: str | int = index
            begins = at
            if keyed:
                key, at = decoder.raw_decode(text, at)
            if (*loc, key) in offsets:
                raise _Doubled(str(key), text.count("\n", 0, begins) + 1)
            at, index = skip(walk(at, (*loc, key))), index + 1
        return at + 1

    walk(0, ())
    line, last, lines = 1, 0, dict[Loc, int]()
    for loc, offset in offsets.items():  # in the order of the text
        line, last = line + text.count("\n", last, offset), offset
        lines[loc] = line
    return lines


def _toml_line(text: str, table: str, index: int, key: str) -> int:
    """The line of a key of the `index`-th `[[table]]`, or of the table's own where it has no such line."""
    line, count = 1, -1
    for number, content in enumerate(text.split("\n"), 1):
        if re.match(rf"\s*\[\[\s*{re.escape(table)}\s*\]\]", content):
            count += 1
            line = number if count == index else line
        elif count == index and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", content):
            return number
    return line
