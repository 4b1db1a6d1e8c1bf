"""What a format of constitutions is, and what of a constitution it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlaif.constitution import Constitution, Principle, Source
from rlaif.errors import UserError
from rlaif.workbench.constitution_formats.document import Document, Ids

NO_PLACE = "the format has no place for it"
# Fields that only few formats have a place for, and why the others lose them.
FIELDS: tuple[str, ...] = (
    "id",
    "text",
    "why",
    "critique",
    "revise",
    "compare",
    "paraphrases",
    "weight",
    "tags",
    "applies_to",
    "examples",
    "votes",
    "kept",
)
NAMES: tuple[str, ...] = ("name", "version", "description", "kept")


@dataclass
class Read:
    """A file's principles, and what became of its entries: entries = principles + all of dropped."""

    principles: list[Principle] = field(default_factory=list)
    entries: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    not_kept: list[str] = field(default_factory=list)  # what of the file stands in no field, in words
    name: str = ""
    description: str = ""
    kept: dict[str, Any] = field(default_factory=dict)  # for the constitution's `source`

    def drop(self, reason: str) -> None:
        """Count an entry that makes no principle."""
        self.entries += 1
        self.dropped[reason] += 1

    def add(self, principle: Principle) -> None:
        """Take a principle."""
        self.entries += 1
        self.principles.append(principle)

    def constitution(self, document: Document, format: str) -> Constitution:
        """What was read as a constitution, named as the file where it says no name."""
        if not self.principles:
            reasons = ", ".join(f"{n} × {reason}" for reason, n in self.dropped.items())
            raise UserError(
                f"{document.path}:1: holds no principle{f' ({reasons})' if reasons else ''}.",
                f"principles in the format {format}",
            )
        return Constitution(
            name=self.name or document.path.name.split(".")[0] or "constitution",
            description=self.description,
            principles=tuple(self.principles),
            source=Source(format=format, link=document.path.name, kept=self.kept),
        )


@dataclass(frozen=True)
class Format:
    """A format: how it is told from others, read and written, and what it cannot keep.

    `cannot_keep` names fields of a principle with the reason why one may be lost on the way out and back in;
    `loses` does so for the constitution's own.
    """

    name: str
    is_what: str
    suffix: str
    recognise: Callable[[Document], bool]
    read: Callable[[Document], Read]
    write: Callable[[Constitution], str]
    cannot_keep: Mapping[str, str]
    loses: Mapping[str, str]
    note: str = ""  # what a reader of an import should know


def without(*kept: str, **reasons: str) -> dict[str, str]:
    """`cannot_keep` of a format that keeps the named fields and has a reason of its own for others."""
    return {name: reasons.get(name, NO_PLACE) for name in FIELDS if name not in kept}


def loses(*kept: str) -> dict[str, str]:
    """The same for a constitution's own fields."""
    return {name: NO_PLACE for name in NAMES if name not in kept}


def differing(before: Principle, after: Principle) -> list[str]:
    """The fields of a principle that did not come back as they were; but for the link, which is always
    new."""
    return [name for name in FIELDS if _field(before, name) != _field(after, name)]


def differing_names(before: Constitution, after: Constitution) -> list[str]:
    """The same for a constitution's own fields."""
    return [name for name in NAMES if _field(before, name) != _field(after, name)]


def _field(thing: Principle | Constitution, name: str) -> Any:
    if name in ("votes", "kept"):
        return getattr(thing.source or Source(), name)
    return getattr(thing, name)


def source(document: Document, format: str, place: str | int, **more: Any) -> Source:
    """Where a principle comes from: a line, or a place behind #."""
    link = f"{document.path.name}:{place}" if isinstance(place, int) else f"{document.path.name}#{place}"
    return Source(format=format, link=link, **more)


def kept_by(principle: Principle | Constitution, format: str) -> dict[str, Any]:
    """What a principle that was imported from this format has of it beside our fields."""
    return principle.source.kept if principle.source and principle.source.format == format else {}


def texts_in(value: Any) -> list[str]:
    """`value` where it is a list of texts, else none: what is kept can be edited by hand."""
    is_one = isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
    return list(value) if is_one else []


def named_as(principle: Principle, name: Any) -> str:
    """The name that a principle had in its format, where its id is still the one made of it; else the id."""
    return name if isinstance(name, str) and Ids().take(name) == principle.id else principle.id
