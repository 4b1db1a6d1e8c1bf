"""Other projects' files as they are: their rows as items, their votes as opinions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from rlaif.errors import UserError
from rlaif.human.folder import P_A, keep_last, order_of
from rlaif.human.formats import FORMATS, format_of
from rlaif.human.formats.base import ImportedRow, Vote
from rlaif.human.importers import Source, ranked_places, votes_of
from rlaif.human.said import Annotated, Item, add_source, opinion_of, turned_round
from rlaif.prompting.conversations import Unusable
from rlaif.records import Annotator, Label, Order, content_hash


def grouped_by_format(paths: Sequence[Path]) -> list[Source]:
    """The files as one source a format; a file in no format belongs to the one before it, which joins it."""
    groups: list[tuple[str, list[Path]]] = []
    for path in paths:
        try:
            name = format_of(path)
        except UserError:
            if not groups or not FORMATS[groups[-1][0]].join:
                raise
            name = groups[-1][0]
        if groups and groups[-1][0] == name:
            groups[-1][1].append(path)
        else:
            groups.append((name, [path]))
    return [Source(FORMATS[name], files[0], files[1:]) for name, files in groups]


def add_foreign(source: Source, name: str, found: Annotated) -> None:
    left_out, pairs = Counter[str](), ForeignPairs(source, found)
    for number, row in enumerate(source.rows(left_out)):
        if isinstance(row, Unusable):
            found.dropped[str(row)] += 1
            continue
        found.dropped.update(row.lost)
        pairs.add(f"{name} row {number + 1}", row)
    found.dropped += +left_out
    pairs.tell()
    add_source(found, source.path, source.format.title, pairs.votes)
    found.sources[-1]["beside"] = [path.name for path in (*source.files[1:], *source.joined)]


class ForeignPairs:
    """The pairs of one source's rows, and what is said of each.

    A row is an item. It belongs to an earlier one on the same two responses, whichever way round, where that
    has no verdict yet of the row's annotators under the same principle in the same order.
    """

    def __init__(self, source: Source, found: Annotated) -> None:
        self.source, self.found, self.votes = source, found, 0
        self.said: dict[str, dict[tuple[str, str | None, Order | None], Label]] = {}  # by item
        self.same: defaultdict[str, list[str]] = defaultdict(list)  # items by the content of the pair

    def add(self, name: str, row: ImportedRow) -> None:
        """Take in a row: an item for each two responses that votes are on."""
        votes = [*row.votes]
        for given in row.rankings:
            votes += votes_of(given, ranked_places(given, self.found.dropped))
        self.votes += len(votes)
        on: defaultdict[tuple[int, int], list[Vote]] = defaultdict(list)
        for vote in votes:
            on[vote.pair].append(vote)
        for (first, second), own in on.items():
            place = name if len(row.responses) == 2 else f"{name}, {first + 1} and {second + 1}"
            self._add_pair(self._item(place, row, first, second), own)

    def _item(self, name: str, row: ImportedRow, first: int, second: int) -> Item:
        prompt = "\n\n".join(f"{role}: {text}" for role, text in row.messages) if row.messages else ""
        models = row.models or ("",) * len(row.responses)
        return Item(
            name,
            content_hash(row.messages),
            row.tags,
            prompt,
            row.responses[first],
            row.responses[second],
            (models[first], models[second]),
        )

    def _add_pair(self, new: Item, votes: Sequence[Vote]) -> None:
        """Take in what one row says of one pair; of two verdicts of one annotator in it the last counts."""
        sides = (new.a, new.models[0]), (new.b, new.models[1])
        same = self.same[content_hash(new.cluster, sorted(sides))]
        given = [self._label(new.id, vote) for vote in votes]
        for item in map(self.found.items.__getitem__, same):
            turned = sides != ((item.a, item.models[0]), (item.b, item.models[1]))
            labels = [turned_round(label) if turned else label for label in given]
            if self.said[item.id].keys().isdisjoint(map(_asked, labels)):
                break
        else:
            item, labels = new, given
            same.append(new.id)
            self.found.items[new.id], self.said[new.id] = new, {}
        for label in labels:
            keep_last(self.said[item.id], _asked(label), label, self.found.dropped)

    def _label(self, item: str, vote: Vote) -> Label:
        return Label(
            comparison_id=item,
            annotator=vote.annotator or Annotator(kind="human", id=self.source.format.name),
            principle_id=vote.principle[0] if vote.principle else None,
            order=vote.order,
            p_a=P_A.get(vote.verdict) if vote.p_first is None else vote.p_first,
            verdict=vote.verdict,
            rationale=vote.rationale,
            seconds=vote.seconds,
        )

    def tell(self) -> None:
        """Each annotator's opinion of each item, to what is found."""
        for item, given in self.said.items():
            of: defaultdict[str, list[Label]] = defaultdict(list)
            for (who, *_), label in given.items():
                of[who].append(label)
            for who, labels in of.items():
                said = opinion_of(labels, {}, self.source.format.sided)
                self.found.said.setdefault(who, {})[item] = said


def _asked(label: Label) -> tuple[str, str | None, Order | None]:
    """Whose verdict it is, and what was asked."""
    return f"{label.annotator.kind}:{label.annotator.id}", label.principle_id, order_of(label)
