"""Tables of votes on statements, as Polis exports them: a statement becomes a candidate principle.

The suggested weight is the geometric mean over the groups of (agrees + 1) / (votes + 2): Polis' measure of
agreement across groups with the root over the number of groups, so that it stays between 0 and 1 and one
group that disagrees pulls it down, however large the others are.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence

from rlaif.constitution import Constitution, Principle, Votes
from rlaif.errors import UserError
from rlaif.options.data import DataSourceOptions
from rlaif.prompting.tables import read_table
from rlaif.workbench.constitution_formats.document import Document, Ids
from rlaif.workbench.constitution_formats.format import Format, Read, loses, source, without

TOTAL = "total"
COUNTS = ("agrees", "disagrees", "passes")
TEXT = ("comment", "comment-body", "statement")
_COLUMN = re.compile(
    r"(?:group-(?P<group>.+)|total)-(?:votes|agrees|disagrees|passes)|agrees|disagrees|passes"
)
_STATEMENT = re.compile(r"statement-(\d+)")


def suggested_weight(votes: Sequence[Votes]) -> float:
    """The weight that the votes suggest, with two digits; 1 where nobody voted."""
    groups = [v for v in votes if v.group != TOTAL] or list(votes)
    if not sum(v.agrees + v.disagrees + v.passes for v in groups):
        return 1.0
    shares = [(v.agrees + 1) / (v.agrees + v.disagrees + v.passes + 2) for v in groups]
    return round(math.exp(sum(map(math.log, shares)) / len(shares)), 2)


def _is_votes(document: Document) -> bool:
    return document.kind == "csv"


def _read(document: Document) -> Read:
    read, ids = Read(), Ids()
    seen: dict[str, int] = {}
    columns: dict[str, None] = {}
    for place, row in read_table(DataSourceOptions(path=str(document.path), format="csv")):
        text = next((name for name in TEXT if name in row), None)
        if text is None or not any(_COLUMN.fullmatch(name) for name in row):
            raise document.error_at(
                1, f"no column of statements with votes among {', '.join(row)[:80]}", _NEEDED
            )
        columns |= dict.fromkeys(
            name for name in row if name not in (text, "comment-id") and not _read_as(name)
        )
        name = row.get("comment-id", "").strip() or str(place.number - 1)
        if name in seen:
            raise document.error_at(
                place.number, f'the comment-id "{name}" stands in line {seen[name]}, too', "an id a statement"
            )
        seen[name] = place.number
        if row.get("moderated", "").strip() == "-1":
            read.drop("rejected by a moderator")
        elif not row[text].strip():
            read.drop("an empty statement")
        else:
            id = ids.take(f"statement-{name}" if name.isdecimal() and name.isascii() else name)
            read.add(_principle(document, place.number, row[text], id, _votes(document, place.number, row)))
    read.not_kept = [f"column {name}" for name in columns]
    return read


_NEEDED = (
    "a column comment or comment-body, and agrees and disagrees, total-agrees … or group-a-agrees …, as in "
    "Polis' comment-groups.csv (participant-votes.csv does not have the statements)"
)


def _read_as(name: str) -> bool:
    return bool(_COLUMN.fullmatch(name)) and not name.endswith("-votes")


def _principle(document: Document, line: int, text: str, id: str, votes: tuple[Votes, ...]) -> Principle:
    return document.principle(
        line,
        id=id,
        text=text,
        weight=suggested_weight(votes),
        source=source(document, "votes", line, votes=votes),
    )


def _votes(document: Document, line: int, row: Mapping[str, str]) -> tuple[Votes, ...]:
    """The votes of a row by group, those of all first."""
    found: dict[str, dict[str, int]] = {}
    for name, cell in row.items():
        if match := _COLUMN.fullmatch(name):
            count = name.rsplit("-", 1)[-1]
            counts = found.setdefault(match["group"] or TOTAL, {})
            if count in COUNTS:
                counts[count] = _number(document, line, name, cell)
    return tuple(
        Votes(group=group, **counts)
        for group, counts in sorted(found.items(), key=lambda item: (item[0] != TOTAL, item[0]))
        if any(counts.values())
    )


def _number(document: Document, line: int, column: str, cell: str) -> int:
    cell = cell.strip()
    if cell and not (cell.isascii() and cell.isdecimal() and len(cell) < 16):
        raise document.error_at(line, f'{column} is "{cell[:40]}"', "a number of votes, 0 or more")
    return int(cell or 0)


def _write(constitution: Constitution) -> str:
    groups = sorted({v.group for p in constitution.principles for v in _of(p)} - {TOTAL})
    for group in groups:
        if not group.strip() or group != group.strip():
            raise UserError(f'the group of voters "{group}" has no name that a column can have.')
    counts = ("votes", *COUNTS)
    heads = [f"{prefix}-{count}" for prefix in (TOTAL, *(f"group-{g}" for g in groups)) for count in counts]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["comment-id", "comment", *heads])
    for principle in constitution.principles:
        votes = {v.group: v for v in _of(principle)}
        cells = [n for group in (TOTAL, *groups) for n in _cells(votes.get(group, Votes(group=group)))]
        number = _STATEMENT.fullmatch(principle.id)
        table.writerow([number[1] if number else principle.id, principle.text, *cells])
    return text.getvalue()


def _of(principle: Principle) -> tuple[Votes, ...]:
    return principle.source.votes if principle.source else ()


def _cells(votes: Votes) -> tuple[int, ...]:
    return (
        votes.agrees + votes.disagrees + votes.passes,
        votes.agrees,
        votes.disagrees,
        votes.passes,
    )


VOTES = Format(
    name="votes",
    is_what="statements with votes by group, as in Polis' comment-groups.csv and comments.csv (CSV)",
    suffix=".csv",
    recognise=_is_votes,
    read=_read,
    write=_write,
    cannot_keep=without(
        "text",
        id="an id of digits alone becomes statement-…",
        weight="on the way in, the weight is the one that the votes suggest",
        votes="groups without a vote are left out; all together come first, then groups by their names",
    ),
    loses=loses(),
    note="statements are candidates: reword, merge and leave out before anybody is trained by them",
)
