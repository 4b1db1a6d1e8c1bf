"""What a rule of the linter is, what it looks at, and what it finds.

A rule is a function under `@rule(name, level, why)` in one of this folder's modules: from a `Subject` to
`Found`s. Nothing else has to know of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlaif.constitution import Constitution, Principle
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.workbench.lint.source import At, Source
from rlaif.yamlfile import Loc

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
READ = ("text", "compare", "critique", "revise", "why")  # the fields of a principle that models read
RULING = ("text", "compare")  # those that the judge reads as the rule

UNUSED = "unused-ignore"  # the rule on comments that silence nothing, which is checked after all others


class Found(NamedTuple):
    """One thing found: its place in the file, what it is, and the words there that show it."""

    loc: Loc | At
    message: str
    words: str = ""


@dataclass(frozen=True)
class Context:
    """How many tokens a judge reads, and how many a question has before and behind the principle's part."""

    judge: str
    limit: int
    shared: int
    longest: str  # what the longest question was made of, in words
    count: Callable[[Principle], int]  # tokens of the principle's part


@dataclass(frozen=True)
class Subject:
    """What is looked at: a loaded constitution, where it stands, and what it will be used with where that is
    known."""

    constitution: Constitution
    source: Source
    prompts: tuple[Prompt, ...] = ()
    templates: Templates | None = None
    context: Context | None = None
    ungraded: tuple[str, ...] = ()  # ids that the gold scorer says nothing about
    gold: str | None = None
    silenced: frozenset[tuple[int, str]] = frozenset()  # (line, rule) of what comments silenced
    checked: frozenset[str] = frozenset()  # rules that had all they need

    @property
    def principles(self) -> Iterator[tuple[Loc, Principle]]:
        """Each principle and its place."""
        for index, principle in enumerate(self.constitution.principles):
            yield ("principles", index), principle

    def owner(self, loc: Loc | At) -> int | None:
        """The index of the principle that a place belongs to."""
        if not isinstance(loc, At):
            return int(loc[1]) if len(loc) > 1 and loc[0] == "principles" else None
        firsts = [self.source.place(place).line for place, _ in self.principles]
        return bisect_right(firsts, loc.line) - 1 if loc.line >= firsts[0] else None

    def texts(self, *fields: str) -> Iterator[tuple[Loc, Principle, str]]:
        """(place, principle, text) of these fields of every principle, where they are given."""
        for loc, principle in self.principles:
            for name in fields:
                value: Any = getattr(principle, name)
                if isinstance(value, str) and value.strip():
                    yield (*loc, name), principle, value
                elif isinstance(value, tuple):
                    for index, text in enumerate(value):
                        yield (*loc, name, index), principle, text


Check = Callable[[Subject], Iterator[Found]]


@dataclass(frozen=True)
class Rule:
    """A rule: its name, how grave a finding is, why it matters, the check, and the fields of a `Subject` that
    it cannot do without."""

    name: str
    level: Level
    why: str
    check: Check
    needs: tuple[str, ...] = ()

    @property
    def finds(self) -> str:
        """What it finds, in a sentence: the check's docstring."""
        return " ".join((self.check.__doc__ or "").split())

    def has_all(self, subject: Subject) -> bool:
        """Whether all that the rule needs is known."""
        return all(getattr(subject, need) for need in self.needs)


RULES: dict[str, Rule] = {}


def rule(name: str, level: Level, why: str, needs: tuple[str, ...] = ()) -> Callable[[Check], Check]:
    """The function below is the check of a rule of this name.

    Without the fields of `Subject` in `needs` it finds nothing, and of comments that silence it nothing is
    said.
    """

    def add(check: Check) -> Check:
        if name in RULES:
            raise ValueError(f"two rules are called {name}")
        RULES[name] = Rule(name, level, why, check, needs)
        return check

    return add


@dataclass(frozen=True)
class Finding:
    """What a rule found in a file, at a 1-based line and column; `silence` says how to be told no more."""

    path: Path
    line: int
    column: int
    rule: str
    level: Level
    message: str
    why: str
    silence: str = ""
    principle: str | None = None

    @property
    def place(self) -> str:
        """ "file:line:column"."""
        return f"{self.path}:{self.line}:{self.column}"

    def __str__(self) -> str:
        return f"{self.place}: {self.level}: {self.message} [{self.rule}]"

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "path": str(self.path)}
