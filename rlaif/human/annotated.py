"""Pairs and what annotators say of them, from all that holds labels: files of labels or rankings, imported
folders, runs, and other projects' files as they are.

An item is one pair. Of our own records it is a comparison, whichever way round and wherever it stands; of
other projects' files see `rlaif.human.foreign`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from rlaif.errors import UserError
from rlaif.human.folder import (
    ImportFolder,
    import_record,
    keep_last,
    labels_by_content,
    order_of,
    read_partial,
)
from rlaif.human.foreign import add_foreign, grouped_by_format
from rlaif.human.formats import FORMATS
from rlaif.human.labelled import STRAY_OF_RUN, form_of, judge_of, own_rows, run_labels
from rlaif.human.rankings import by_content, labels_from_rankings
from rlaif.human.said import Annotated, Item, add_source, opinion_of, turned_round
from rlaif.prompting.templates import dialogue
from rlaif.records import Comparison, Label, Order, Prompt, Ranking, Response, content_hash
from rlaif.runs.rows import first_by_id, read_rows


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
    sources = grouped_by_format(foreign)
    named = Counter(source.path.name for source in sources)
    for source in sources:
        alone = named[source.path.name] == 1
        add_foreign(source, source.path.name if alone else str(source.path), found)
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
        self.sided: set[str] = set()  # sources whose a and b are in the order shown
        self.anchored: list[Label] = []
        self.same: dict[str, Comparison] = {}  # of models' responses, by an id of an import of their texts

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
        add_source(found, path, "run", len(given))
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
        self.sided |= {str(path)} if imported.get("sided") else set()
        add_source(found, path, "folder", len(labels))

    def add_file(self, path: Path, kind: type[Label] | type[Ranking], found: Annotated) -> None:
        """A file of labels or of rankings; texts and pairs may stand beside it, or in another source."""
        folder = read_partial(path.parent)
        self._add(folder)
        ranks = kind is Ranking
        labels = self._ranked(path, folder, found) if ranks else labels_by_content(path, folder)
        self.labels.append((str(path), {}, labels))
        self.sided |= {str(path)} if import_record(path.parent).get("sided") else set()
        add_source(found, path, "rankings" if ranks else "labels", len(labels))

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
        self.same = self._same()
        for source, weights, labels in self.labels:
            names = self._names(source, labels)
            placed = {names[_annotator_of(x)] for x in labels if source in self.sided or places_known(x)}
            judges = {who for who in names.values() if who.startswith("ai:")}
            last: dict[tuple[str, str | None, Order | None, str], Label] = {}
            for label in labels:
                label, item = self._turned(label)
                key = names[_annotator_of(label)], label.principle_id, order_of(label), item
                keep_last(last, key, label, found.dropped)
            of: defaultdict[tuple[str, str], list[Label]] = defaultdict(list)
            for (who, _, _, item), label in last.items():
                of[who, item].append(label)
            for (who, item), own in of.items():
                said = opinion_of(own, weights, who in placed)
                keep_last(found.said.setdefault(who, {}), item, said, found.dropped)
                if item not in found.items:
                    found.items[item] = self._item(item, own[0].comparison_id)
                if judges == {who} and source in found.costs:  # what several cost is not told apart
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
        if same := self.same.get(pair.id):
            turned = self.responses[pair.a].text != self.responses[same.a].text
            label = (turned_round(label) if turned else label).model_copy(update={"comparison_id": same.id})
            pair = same
        item = item_of(pair)
        if pair.a < pair.b:
            return label, item
        return turned_round(label), item

    def _same(self) -> dict[str, Comparison]:
        """The first comparison of models' responses that an import of the same texts is, by the import's id:
        many formats, also of exported pairs, do not name the models."""
        written: dict[str, Comparison] = {}
        imported: dict[str, str] = {}  # comparison → its texts
        for pair in self.comparisons.values():
            sides = [self.responses.get(id) for id in (pair.a, pair.b)]
            if None in sides:
                continue
            texts = content_hash(pair.prompt_id, sorted(side.text for side in sides if side))
            if all(side and side.model in FORMATS for side in sides):
                imported[pair.id] = texts
            else:
                written.setdefault(texts, pair)
        return {id: written[texts] for id, texts in imported.items() if texts in written}

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


def places_known(label: Label) -> bool:
    """Whether an annotator who gave this label is one whose labels say what was shown first: "ab" also stands
    where nobody noted it, as in labels made of rankings, and simulated people are shown nothing."""
    return label.annotator.kind != "simulated" and (label.order == "ba" or "template" in label.judge)


def _plain_names(labels: Sequence[Label]) -> set[str]:
    return {f"{label.annotator.kind}:{label.annotator.id}" for label in labels}
