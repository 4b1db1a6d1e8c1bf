"""Pairs and what annotators say of them, from all that holds labels: files of labels or rankings, imported
folders, runs, and other projects' files as they are.

An item is one pair. Of our own records it is a comparison, whichever way round and wherever it stands; of
other projects' files it is a row, so that repeated rows and equal responses count as they stand there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from rlaif.errors import UserError
from rlaif.feedback.preferences import opinion, p_a_by_annotator
from rlaif.human.folder import (
    P_A,
    ImportFolder,
    import_record,
    keep_last,
    labels_by_content,
    read_partial,
    with_implied_p,
)
from rlaif.human.formats import FORMATS, format_of
from rlaif.human.formats.base import SWAPPED, ImportedRow
from rlaif.human.importers import Source, ranked_places, votes_of
from rlaif.human.labelled import STRAY_OF_RUN, form_of, judge_of, own_rows, run_labels
from rlaif.human.rankings import by_content, labels_from_rankings
from rlaif.prompting.conversations import Unusable
from rlaif.prompting.templates import dialogue
from rlaif.records import (
    Comparison,
    Label,
    Prompt,
    Ranking,
    Response,
    Verdict,
    content_hash,
    verdict_of,
)
from rlaif.runs.rows import first_by_id, read_rows


@dataclass(frozen=True)
class Item:
    """One pair: `cluster` is what intervals take as independent; texts are empty where they are not known.

    `row` is the id of the comparison that a run's or folder's rows name; empty for other projects' rows.
    """

    id: str
    cluster: str
    tags: tuple[str, ...] = ()
    prompt: str = ""
    a: str = ""
    b: str = ""
    models: tuple[str, str] = ("", "")
    shown_known: bool = True  # whether labels say which response was shown first
    row: str = ""


@dataclass(frozen=True)
class Said:
    """One annotator's opinion of one item, all its orders and principles put together."""

    verdict: Verdict
    p_a: float | None = None
    by_principle: Mapping[str, float] = field(default_factory=dict)
    first: tuple[bool, ...] = ()  # of each decided verdict: whether the response shown first won
    flips: bool | None = None  # where both orders were shown and one was decided
    seconds: float | None = None
    rationale: str = ""


@dataclass
class Annotated:
    """All items and opinions: `said` by annotator ("kind:name") and item id.

    `anchored` are those of people who had seen an AI's opinion, from the anchored.jsonl of a folder.
    """

    items: dict[str, Item] = field(default_factory=dict)
    said: dict[str, dict[str, Said]] = field(default_factory=dict)
    anchored: dict[str, dict[str, Said]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    sources: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> list[str]:
        """The annotators of these kinds, in the order in which they were met."""
        return [who for who in self.said if who.partition(":")[0] in kinds]


def read_annotated(paths: Sequence[Path]) -> Annotated:
    """Everything that these files and folders say; UserError where one cannot be read or nothing is said."""
    found, rows, foreign = Annotated(), Rows(), []
    for path in paths:
        form = form_of(path)
        if form == "run":
            rows.add_run(path, found)
        elif form == "rows":
            rows.add_folder(path, found)
        elif kind := own_rows(path):
            rows.add_file(path, kind, found)
        else:
            foreign.append(path)
    sources = _foreign(foreign)
    named = Counter(source.path.name for source in sources)
    for source in sources:
        alone = named[source.path.name] == 1
        _add_foreign(source, source.path.name if alone else str(source.path), found)
    rows.add_to(found)
    if not any(found.said.values()):
        raise UserError(
            f"{', '.join(map(str, paths))}: no label that can be read.",
            "labels of two annotators or more on the same pairs",
            "rlaif data import, rlaif run or rlaif annotate make them",
        )
    return found


# ---- our own records


class Rows:
    """Records of several sources by id, and their labels by source."""

    def __init__(self) -> None:
        self.prompts: dict[str, Prompt] = {}
        self.responses: dict[str, Response] = {}
        self.comparisons: dict[str, Comparison] = {}
        self.labels: list[tuple[str, Mapping[str, float], list[Label]]] = []  # source, weights, labels
        self.anchored: list[Label] = []

    def add_run(self, path: Path, found: Annotated) -> None:
        """A run's label stages, with what the judge cost."""
        held = run_labels(path)
        folders = [held.run.path, *(stage.dir for stage in held.run.stages)]
        self.prompts |= first_by_id([f / "prompts.jsonl" for f in folders], Prompt)
        self.responses |= first_by_id([f / "responses.jsonl" for f in folders], Response)
        self.comparisons |= held.comparisons
        given = list(held.each_label())
        labels = [label for label in given if label.comparison_id in held.comparisons]
        found.dropped += Counter({STRAY_OF_RUN: len(given) - len(labels)})
        weights = {p.id: p.weight for p in held.run.constitution.principles}
        self.labels.append((str(path), weights, labels))
        _source(found, path, "run", len(given))
        usage = Counter[str]()
        for stage in held.stages:
            usage.update(
                {k: v for k, v in stage.summary.get("usage", {}).items() if isinstance(v, int | float)}
            )
            usage["seconds"] += round(stage.summary.get("seconds", 0.0))
        found.costs[str(path)] = dict(usage)

    def add_folder(self, path: Path, found: Annotated) -> None:
        """A folder that `rlaif data import` wrote."""
        folder = read_partial(path)
        self._add(folder)
        labels: list[Label] = []
        if (path / "labels.jsonl").exists() and (path / "comparisons.jsonl").exists():
            labels = [label for own in folder.labels().values() for label in own]
        elif (path / "labels.jsonl").exists():  # who agrees can be told without the pairs' texts
            labels = labels_by_content(path / "labels.jsonl", folder)
        if (path / "rankings.jsonl").exists():
            ranked = self._ranked(path / "rankings.jsonl", folder, found)
            there = {self._about(label) for label in labels}
            labels += [label for label in ranked if self._about(label) not in there]
        if (path / "anchored.jsonl").exists():
            self.anchored += labels_by_content(path / "anchored.jsonl", folder)
        self.labels.append((str(path), {}, labels))
        found.dropped += folder.left_out
        imported = import_record(path)
        for kind in ("dropped", "left_out"):
            found.dropped.update(imported.get(kind, {}))
        _source(found, path, "folder", len(labels))

    def add_file(self, path: Path, kind: type[Label] | type[Ranking], found: Annotated) -> None:
        """A file of labels or of rankings; texts and pairs may stand beside it, or in another source."""
        folder = read_partial(path.parent)
        self._add(folder)
        ranks = kind is Ranking
        labels = self._ranked(path, folder, found) if ranks else labels_by_content(path, folder)
        self.labels.append((str(path), {}, labels))
        _source(found, path, "rankings" if ranks else "labels", len(labels))

    def _about(self, label: Label) -> tuple[str, str, str]:
        """Whose label it is, and of which item."""
        return label.annotator.kind, label.annotator.id, self._turned(label)[1]

    def _add(self, folder: ImportFolder) -> None:
        self.prompts |= folder.prompts
        self.responses |= folder.responses
        self.comparisons |= folder.comparisons

    def _ranked(self, path: Path, folder: ImportFolder, found: Annotated) -> list[Label]:
        """A label for every two responses of each ranking of a file."""
        rankings, pairs = [by_content(row, folder) for row in read_rows(path, Ranking)], {}
        for row in rankings:
            for one, other in combinations(sorted(row.response_ids), 2):
                pair = Comparison(prompt_id=row.prompt_id, a=one, b=other, origin="import")
                pairs[pair.id] = pair
        self.comparisons |= pairs
        labels, reasons = labels_from_rankings(rankings, pairs.values())
        found.dropped += reasons
        return labels

    def add_to(self, found: Annotated) -> None:
        """Every annotator's opinion of every comparison that has a label; of two the last counts, in the
        order of the sources."""
        for source, weights, labels in self.labels:
            names = self._names(source, labels)
            last: dict[tuple[str, str | None, str, str], Label] = {}
            for label in labels:
                label, item = self._turned(label)
                key = names[_annotator_of(label)], label.principle_id, label.order, item
                keep_last(last, key, label, found.dropped)
            of: defaultdict[tuple[str, str], list[Label]] = defaultdict(list)
            for (who, _, _, item), label in last.items():
                of[who, item].append(label)
            for (who, item), own in of.items():
                keep_last(found.said.setdefault(who, {}), item, opinion_of(own, weights), found.dropped)
                if item not in found.items:
                    found.items[item] = self._item(item, own[0].comparison_id)
                if who.startswith("ai:") and source in found.costs:
                    found.costs[who] = found.costs[source]
        again: defaultdict[tuple[str, str], list[Label]] = defaultdict(list)
        for label, item in map(self._turned, self.anchored):
            again[f"{label.annotator.kind}:{label.annotator.id}", item].append(label)
        for (who, item), own in again.items():
            found.anchored.setdefault(who, {})[item] = opinion_of(own, {})

    def _names(self, source: str, labels: Sequence[Label]) -> dict[tuple[str, ...], str]:
        """A name for each annotator; judges of one model that were asked in another way get the source's."""
        judges = dict.fromkeys(map(_annotator_of, labels))
        taken = {name for other, _, rows in self.labels if other != source for name in _plain_names(rows)}
        found: dict[tuple[str, ...], str] = {}
        for judge in judges:
            name = f"{judge[0]}:{judge[1]}"
            if judge[0] == "ai" and (name in taken or name in found.values()):
                name += f" ({Path(source).name})"
            while name in found.values():
                name += "+"
            found[judge] = name
        return found

    def _turned(self, label: Label) -> tuple[Label, str]:
        """The label as told about the pair in the order of its ids, and the item that the pair is."""
        pair = self.comparisons.get(label.comparison_id)
        if pair is None:
            return label, label.comparison_id
        item = item_of(pair)
        if pair.a < pair.b:
            return label, item
        turned = {
            "verdict": SWAPPED.get(label.verdict, label.verdict),
            "p_a": None if label.p_a is None else 1 - label.p_a,
            "order": "ba" if label.order == "ab" else "ab",
        }
        return label.model_copy(update=turned), item

    def _item(self, item: str, comparison_id: str) -> Item:
        pair = self.comparisons.get(comparison_id)
        if pair is None:
            return Item(item, item, row=comparison_id)
        prompt = self.prompts.get(pair.prompt_id)
        texts = [self.responses.get(id) for id in sorted((pair.a, pair.b))]
        models = tuple(text.model if text else "" for text in texts)
        return Item(
            item,
            prompt.cluster if prompt else pair.prompt_id,
            prompt.tags if prompt else (),
            dialogue(prompt.chat) if prompt else "",
            texts[0].text if texts[0] else "",
            texts[1].text if texts[1] else "",
            (models[0], models[1]),
            pair.origin != "import",
            comparison_id,
        )


def item_of(pair: Comparison) -> str:
    """The id of the item that a comparison is, whichever way round it stands; the item's a is the smaller
    id."""
    return content_hash("item", pair.prompt_id, *sorted((pair.a, pair.b)))


def _annotator_of(label: Label) -> tuple[str, ...]:
    """What makes an annotator another one: of judges also how they were asked, but for the principle."""
    who = label.annotator
    return (who.kind, *judge_of(label)) if who.kind == "ai" else (who.kind, who.id)


def _plain_names(labels: Sequence[Label]) -> set[str]:
    return {f"{label.annotator.kind}:{label.annotator.id}" for label in labels}


def _source(found: Annotated, path: Path, kind: str, labels: int) -> None:
    found.sources.append({"path": str(path), "kind": kind, "labels": labels})


def flips(labels: Sequence[Label], weights: Mapping[str, float]) -> bool | None:
    """Whether one annotator's opinion of one item changes with the order; None where that is not known.

    Both opinions are of the principles that were read in both orders, so that they differ by the order alone.
    At least one of them must be decided.
    """
    orders = [[x for x in labels if x.p_a is not None and x.order == order] for order in ("ab", "ba")]
    both = {x.principle_id for x in orders[0]} & {x.principle_id for x in orders[1]}
    opinions = []
    for own in orders:
        said = p_a_by_annotator([x for x in own if x.principle_id in both], weights)
        opinions += [opinion(of, weights) for of in said.values()]
    if len(opinions) < 2 or all(verdict_of(p) == "tie" for p in opinions):
        return None
    return (opinions[0] > 0.5) != (opinions[1] > 0.5)


def opinion_of(labels: Sequence[Label], weights: Mapping[str, float]) -> Said:
    """One annotator's labels of one item as one opinion, as `rlaif.feedback.preferences` puts them together.

    `weights` are those of a constitution; without any, all principles weigh the same.
    """
    labels = [with_implied_p(x) for x in labels]
    own = weights or {x.principle_id: 1.0 for x in labels if x.principle_id is not None}
    said = next(iter(p_a_by_annotator(labels, own).values()), None)
    p_a = None if said is None else opinion(said, own)
    verdict = verdict_of(p_a)
    if p_a is None:
        verdict = "abstain" if all(x.verdict == "abstain" for x in labels) else "invalid"
    shown = [(x.order, x.p_a) for x in labels if x.p_a is not None and verdict_of(x.p_a) != "tie"]
    times = [x.seconds for x in labels if x.seconds is not None]
    return Said(
        verdict,
        p_a,
        {i: p for i, p in (said or {}).items() if i is not None},
        tuple((p > 0.5) == (order == "ab") for order, p in shown),
        flips(labels, own),
        sum(times) if times else None,
        next((x.rationale for x in labels if x.rationale), ""),
    )


# ---- other projects' files


def _foreign(paths: Sequence[Path]) -> list[Source]:
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


def _add_foreign(source: Source, name: str, found: Annotated) -> None:
    left_out, labels = Counter[str](), 0
    for number, row in enumerate(source.rows(left_out)):
        if isinstance(row, Unusable):
            found.dropped[str(row)] += 1
            continue
        found.dropped.update(row.lost)
        labels += _add_row(f"{name} row {number + 1}", row, source, found)
    found.dropped += +left_out
    _source(found, source.path, source.format.title, labels)
    found.sources[-1]["beside"] = [path.name for path in (*source.files[1:], *source.joined)]


def _add_row(name: str, row: ImportedRow, source: Source, found: Annotated) -> int:
    """The votes of one row, an item for each two responses they are on; how many there were."""
    votes = [*row.votes]
    for given in row.rankings:
        votes += votes_of(given, ranked_places(given, found.dropped))
    prompt = "\n\n".join(f"{role}: {text}" for role, text in row.messages) if row.messages else ""
    models = row.models or ("",) * len(row.responses)
    for vote in votes:
        first, second = vote.pair
        item = name if len(row.responses) == 2 else f"{name}, {first + 1} and {second + 1}"
        texts = row.responses[first], row.responses[second]
        if item not in found.items:
            cluster, shown = content_hash(row.messages), source.format.sided
            found.items[item] = Item(
                item, cluster, row.tags, prompt, *texts, (models[first], models[second]), shown
            )
        who = vote.annotator
        key = f"{who.kind}:{who.id}" if who else f"human:{source.format.name}"
        p_a = P_A.get(vote.verdict) if vote.p_first is None else vote.p_first
        read = p_a is not None and verdict_of(p_a) != "tie"
        first_won = ((p_a > 0.5) == (vote.order == "ab"),) if p_a is not None and read else ()
        said = Said(vote.verdict, p_a, {}, first_won, None, vote.seconds, vote.rationale or "")
        keep_last(found.said.setdefault(key, {}), item, said, found.dropped)
    return len(votes)
