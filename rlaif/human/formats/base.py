"""What every format is made of: the row that all readers give, and the object that describes a format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from rlaif.prompting.conversations import Turn, Unusable
from rlaif.records import Annotator, AnnotatorKind, Order, Verdict, time_taken

# How a file spells a verdict on (first, second); anything else is no verdict. "0" is a tie where a format
# numbers responses from 1.
SPELT: dict[str, Verdict] = {
    **dict.fromkeys(("a", "1", "first", "model_a", "text_a", "response1", "output_1", "model_1"), "a"),
    **dict.fromkeys(("b", "2", "second", "model_b", "text_b", "response2", "output_2", "model_2"), "b"),
    **dict.fromkeys(("tie", "0", "both", "neither", "draw", "equal", "same"), "tie"),
    **dict.fromkeys(("tie (bothbad)", "tie (both bad)", "both_bad", "bothbad", "both bad"), "tie"),
    **dict.fromkeys(("", "skip", "abstain", "none", "null", "n/a"), "abstain"),
}
SWAPPED: dict[Verdict, Verdict] = {"a": "b", "b": "a"}
NO_KIND = Unusable("a kind of annotator that is none of " + ", ".join(get_args(AnnotatorKind)))
NO_TIME = "time that is none"
NO_P = "probability that is none, or not on the verdict's side"


@dataclass(frozen=True)
class Vote:
    """What one annotator says of two responses of a row, `pair` being their places in it.

    `verdict` and `p_first` are told about (first, second) of `pair`, `order` likewise: "ab" where the first
    was shown first, which is also assumed where the data does not say.
    """

    annotator: Annotator | None  # None: the data does not say who
    verdict: Verdict
    pair: tuple[int, int] = (0, 1)
    p_first: float | None = None
    order: Order = "ab"
    principle: tuple[str, str] | None = None  # id, text
    rationale: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Ranks:
    """One annotator's ranking of a row's responses: 1 is best, equal ranks are ties, None is not ranked."""

    annotator: Annotator | None
    ranks: tuple[int | None, ...]
    seconds: float | None = None


@dataclass(frozen=True)
class ImportedRow:
    """Responses to one conversation, and what annotators say of them.

    `models` names what wrote each response, empty where the data does not say; `grades` are scores of single
    responses by the name of the scorer; `lost` says what of the row our records have no place for.
    """

    messages: tuple[Turn, ...]
    responses: tuple[str, ...]
    votes: tuple[Vote, ...] = ()
    rankings: tuple[Ranks, ...] = ()
    models: tuple[str, ...] = ()
    grades: tuple[Mapping[str, float], ...] = ()
    tags: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A comparison to be exported; `p_first` is the probability that the first response is better."""

    messages: tuple[Turn, ...]
    first: str
    second: str
    p_first: float | None
    models: tuple[str, str] = ("", "")
    votes: tuple[Vote, ...] = ()
    tags: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sorted(self) -> tuple[str, str] | None:
        """(better, worse), None where neither is."""
        if self.p_first is None or self.p_first == 0.5:
            return None
        return (self.first, self.second) if self.p_first > 0.5 else (self.second, self.first)


NO_WINNER = Unusable("no winner")
NOT_HELD = Unusable("the format cannot hold it")
ONE_TURN = Unusable("a prompt that is not one user's turn, and the format holds no other")
Exported = dict[str, Any] | list[dict[str, Any]] | Unusable
Read = Callable[[dict[str, Any]], ImportedRow | Unusable]


@dataclass(frozen=True)
class Format:
    """An interchange format: how it is recognised, read and written, and what it cannot keep.

    `fits` says whether a row, or the document where rows stand in one, has the format's keys; `read` takes an
    object without blanks around its keys; `unfold` gives the rows of a document, `whole` makes one; `join`
    names the key by which rows of further files belong to those of the first; `write` gives the rows of a
    comparison, `write_row` that of a ranking or of a graded response; `sided` says that its first and second
    response are sides of its own, not the better and the worse; `labels` that a row has place for the labels
    of its pair, of which those it lacks are counted; `loses` what does not survive an export; `columns` which
    names of a table's columns were asked for.
    """

    name: str
    title: str
    fits: Callable[[Any], bool]
    read: Read
    unfold: Callable[[Any, Path], Iterator[Any]] | None = None
    join: str | None = None
    write: Callable[[Pair], Exported] | None = None
    write_row: Callable[[ImportedRow], Exported] | None = None
    whole: Callable[[Sequence[Any]], Any] | None = None
    sided: bool = False
    labels: bool = False
    loses: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def parse(self, raw: Any) -> ImportedRow | Unusable:
        """What a row of the input says, or why it cannot be used; text that is no Unicode is a reason,
        too."""
        row = raw if isinstance(raw, Unusable) else stripped_keys(raw)
        if isinstance(row, Unusable):
            return row
        try:
            return self.read(row)
        except ValidationError:
            return Unusable("not valid Unicode text")


def has(*keys: str, without: Sequence[str] = ()) -> Callable[[Any], bool]:
    """A test for rows with these keys and none of the others; a blank around a key does not count."""

    def fits(row: Any) -> bool:
        names = {str(key).strip() for key in row} if isinstance(row, dict) else set()
        return names.issuperset(keys) and not names & set(without)

    return fits


def stripped_keys(row: Any) -> dict[str, Any] | Unusable:
    """A row with blanks around its keys taken off."""
    if not isinstance(row, dict):
        return Unusable("not an object")
    clean = {str(key).strip(): value for key, value in row.items()}
    return clean if len(clean) == len(row) else Unusable("a key that stands twice, but for blanks")


def text_of(value: Any) -> str | None:
    """A response as text; a boolean where text is expected is the word that it was made of."""
    return str(value) if isinstance(value, str | bool) else None


def as_messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Turns as the messages of a chat."""
    return [{"role": role, "content": content} for role, content in turns]


def one_user_turn(turns: Sequence[Turn]) -> str | None:
    """The text of a prompt that is one user's turn, None for any other."""
    return turns[0][1] if len(turns) == 1 and turns[0][0] == "user" else None


def models_of(given: Sequence[Any]) -> tuple[str, ...]:
    """What wrote each response, "" where that is no text; nothing where no response says so."""
    return tuple(name if isinstance(name, str) else "" for name in given) if any(given) else ()


def verdict_from(value: Any) -> Verdict:
    """The verdict that a cell spells; `invalid` where it is none ("garbage", or a lecture instead)."""
    if isinstance(value, bool) or value is None:
        return "invalid"
    whole = whole_from(value)
    return SPELT.get(str(value if whole is None else whole).strip().lower(), "invalid")


def truth_from(value: Any) -> bool | None:
    """A truth value: true, 1, "TRUE", "True"; None where it is none."""
    if isinstance(value, bool):
        return value
    whole = whole_from(value)
    return {"true": True, "false": False, "1": True, "0": False}.get(
        str(value if whole is None else whole).strip().lower()
    )


def number_from(value: Any) -> float | None:
    """A finite number, which may be spelt as text; None where it is none."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def whole_from(value: Any) -> int | None:
    """A whole number, which data frames write as 2.0 and tables as text; None where it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # of any length
    number = number_from(value)
    return int(number) if number is not None and number.is_integer() else None


def seconds_from(value: Any) -> float | None:
    """How long one label took; None where that is no time."""
    return time_taken(number_from(value))


def unread(*cells: tuple[Any, Any, str]) -> tuple[str, ...]:
    """What is lost of cells that hold something of which nothing was read; each is (cell, what was read of
    it, what is lost)."""
    return tuple(lost for cell, read, lost in cells if read is None and cell not in (None, ""))


def name_from(value: Any) -> str | None:
    """The name in a cell, which may be a number; None where there is none, as in an empty cell of a table,
    which may be NaN."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):
        whole = whole_from(value)  # a number that stood in a column with empty cells
        return None if not math.isfinite(value) else str(value if whole is None else whole)
    return str(value).strip() or None


def of_kinds(kinds: Iterable[str]) -> Annotator | None:
    """Annotators of these kinds together, named by them ("ai+human"): people only where all of them are.

    None where there is none, or one is no kind.
    """
    names = sorted(set(kinds))
    if not names or not set(names) <= set(get_args(AnnotatorKind)):
        return None
    return annotator(next(kind for kind in ("ai", "simulated", "human") if kind in names), "+".join(names))


def kinds_behind(annotators: Iterable[Annotator]) -> list[str]:
    """The kinds that annotators are of, or stand for where they are several together."""
    found = set[str]()
    for who in annotators:
        parts = who.id.split("+")
        found |= set(parts) if who == of_kinds(parts) else {who.kind}
    return sorted(found)


def whose(votes: Sequence[Vote]) -> Annotator | None:
    """Who gave all of these votes: the one annotator, or several together; None where nobody is known."""
    who = {(who.kind, who.id): who for vote in votes if (who := vote.annotator)}
    return next(iter(who.values())) if len(who) == 1 else of_kinds(kinds_behind(who.values()))


def annotator(kind: str, name: Any) -> Annotator:
    """An annotator; the name may be a number."""
    return Annotator.model_validate({"kind": kind, "id": str(name)})


def kind_from(value: Any) -> str | None:
    """The kind of annotator in a cell, people where it is empty; None where it is none."""
    kind = (name_from(value) or "human").lower()
    return kind if kind in get_args(AnnotatorKind) else None


def named(kind: str, cell: Any, format: str = "") -> Annotator | None:
    """The annotator whose name a cell holds. Where it holds none: None of people, of whom an import may be
    told who they were, and for any other kind one that goes by the name of the format. Where it names several
    kinds ("ai+human"), these together."""
    name = name_from(cell) or ("" if kind == "human" else format)
    several = of_kinds(name.split("+")) if "+" in name else None
    return several or (annotator(kind, name) if name else None)
