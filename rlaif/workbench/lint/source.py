"""A constitution's file as text: where words stand in it, and which comments silence the linter."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.tokens import ScalarToken

from rlaif.yamlfile import Lines, Loc

IGNORE = re.compile(r"#\s*lint:\s*ignore\s*=\s*([^#\n]*)")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what YAML takes for one
_NAMED = re.compile(r"(?:[&!]\S+\s+)*")  # anchors and tags before a value


class At(NamedTuple):
    """A place that is no value's: 1-based."""

    line: int
    column: int


@dataclass(frozen=True)
class Ignore:
    """A comment `# lint: ignore=rule, other-rule`: the line it stands in and the names in it, each with its
    column."""

    line: int
    names: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Source:
    """The text of a file with the places of its values."""

    lines: Lines

    @property
    def text(self) -> str:
        """The whole file."""
        return self.lines.text

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(found.end() for found in _LINE_END.finditer(self.text))]

    @cached_property
    def _scalars(self) -> dict[int, int]:
        """Where each scalar begins and ends."""
        tokens = YAML(typ="safe", pure=True).scan(self.text)
        return {t.start_mark.index: t.end_mark.index for t in tokens if isinstance(t, ScalarToken)}

    def place(self, loc: Loc | At, words: str = "") -> At:
        """Where `words` stand in the value at `loc`; where the value does if they are not found as
        they stand."""
        if isinstance(loc, At):
            return loc
        line, column = self.lines.place(loc, value=bool(words))
        start = self._starts[min(line, len(self._starts)) - 1] + column - 1
        start = _NAMED.match(self.text, start).end()  # type: ignore[union-attr]
        end = self._scalars.get(start)
        if words and end is not None:
            pattern = r"\s+".join(map(re.escape, words.split()))
            if found := re.compile(pattern, re.IGNORECASE).search(self.text, start, end):
                return self._at(found.start())
        return At(line, column)

    def _at(self, index: int) -> At:
        line = bisect_right(self._starts, index)
        return At(line, index - self._starts[line - 1] + 1)

    def column(self, line: int, words: str) -> int:
        """The 1-based column of `words` in a line, 1 where they are not in it."""
        start = self._starts[min(line, len(self._starts)) - 1]
        return max(0, self.text.find(words, start) - start) + 1

    @cached_property
    def ignores(self) -> tuple[Ignore, ...]:
        """The comments that silence rules; what looks like one inside a text is none."""
        return tuple(self._ignores())

    def _ignores(self) -> Iterator[Ignore]:
        inside = [(self._body(start), end) for start, end in sorted(self._scalars.items())]
        for found in IGNORE.finditer(self.text):
            if any(start <= found.start() < end for start, end in inside):
                continue
            names = [
                (name[0], self._at(found.start(1) + name.start()).column)
                for name in re.finditer(r"[^\s,]+", found[1])
            ]
            yield Ignore(self._at(found.start()).line, tuple(names))

    def _body(self, start: int) -> int:
        """Where the text of a scalar begins: a block scalar's header line may hold a comment."""
        if self.text[start] not in "|>":
            return start
        return self._starts[min(bisect_right(self._starts, start), len(self._starts) - 1)]

    def silenced(self, line: int, first: int) -> set[str]:
        """The rules that a comment silences in a line, or in the first line of its principle."""
        near = [ignore for ignore in self.ignores if ignore.line in (line, first)]
        return {name for ignore in near for name, _ in ignore.names}
