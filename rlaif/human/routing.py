"""Which comparisons people label: those whose prompts have the tags that a config names, in the order of a
queue, as many as it says.

The queues are those of `rlaif annotate`. One that goes by labels needs the judge's first: the label stage has
them made, `route` chooses once, and routed.jsonl keeps what was chosen and why.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

from rlaif.errors import UserError, nearest
from rlaif.human.annotating.grading import graded
from rlaif.human.annotating.material import of_stage
from rlaif.human.annotating.opinions import Opinions
from rlaif.human.annotating.queues import Queue, ordered, queue_named
from rlaif.options.label import HumanOptions
from rlaif.records import Comparison, Prompt, Record
from rlaif.runs.commands import resume_command
from rlaif.runs.folder import Stage
from rlaif.runs.lookup import Lookup
from rlaif.runs.rows import RowFile
from rlaif.runs.seeds import derive_seed
from rlaif.runs.storage import write_text

OPTION = "label.human.route"


class Routed(Record):
    """A comparison that people get because of what is known of it."""

    comparison_id: str
    """`id` of the comparison."""
    route: str
    """The queue that it was taken from."""
    score: float | None = None
    """How early the queue has it, the highest first; missing where nothing was known."""

    def identity(self) -> tuple[Any, ...]:
        return self.comparison_id, self.route


def queue_of(human: HumanOptions) -> Queue:
    """The queue in whose order people get comparisons."""
    return queue_named(human.route, OPTION)


def in_words(human: HumanOptions) -> str:
    """Which comparisons people get."""
    of = f", of prompts tagged {' or '.join(human.tags)}" if human.tags else ""
    return f"{queue_of(human).title} (route: {human.route}){of}"


def goes_by_labels(stage: Stage) -> bool:
    """Whether what people get depends on what the judge says of it."""
    human = getattr(stage.options, "human", None)
    return human is not None and queue_of(human).score is not None


def people_are_in(stage: Stage) -> bool:
    """Whether the stage has begun to take in people's labels: until then their file may be another one."""
    judged_first = goes_by_labels(stage) and not (stage.dir / "preferences.jsonl").exists()
    return stage.has_begun and not judged_first


def for_people(stage: Stage, pairs: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons that people are to label, of these. Raises UserError where none has the tags, or where
    the choice goes by the judge's labels and these are not all there yet."""
    human = stage.options.human
    found = _with_tags(stage, pairs)
    if goes_by_labels(stage):
        return _routed(stage, found)
    if human.route == "in-order":
        return found[: human.count(len(found))]

    def drawn(pair: Comparison) -> int:
        return derive_seed(stage.seed, "human", pair.id)

    if human.num_pairs is None:
        return [pair for pair in found if drawn(pair) / 2**31 < human.share]
    chosen = {pair.id for pair in heapq.nsmallest(human.num_pairs, found, key=drawn)}
    return [pair for pair in found if pair.id in chosen]


def _with_tags(stage: Stage, pairs: Iterable[Comparison]) -> list[Comparison]:
    """Those whose prompts have one of the tags that people label."""
    tags = set(stage.options.human.tags)
    if not tags:
        return list(pairs)
    prompts, found, known = Lookup(stage.files("prompts"), Prompt), [], set[str]()
    for pair in pairs:
        own = prompts[pair.prompt_id].tags
        known.update(own)
        if not tags.isdisjoint(own):
            found.append(pair)
    if not found:
        raise no_such_tag(
            stage.name, next(iter(stage.options.human.tags)), known, "of the comparisons' prompts"
        )
    return found


def no_such_tag(name: str, tag: str, known: Iterable[str], where: str) -> UserError:
    """What to say of a tag that none has."""
    tags = sorted(known)
    hint = nearest(tag, tags) if tags else "none has a tag"
    return UserError(
        f'{name}.human.tags: "{tag}" — none {where} has that tag; {hint}',
        f"a tag of the prompts ({', '.join(tags)})" if tags else "prompts with tags",
        "correct the tag, or leave tags out: people then label responses to any prompt",
    )


def _routed(stage: Stage, pairs: Sequence[Comparison]) -> list[Comparison]:
    rows = RowFile(stage.dir / "routed.jsonl", Routed)
    if not rows.path.exists():
        raise UserError(
            f"{stage.dir.name}: the judge has not labelled every comparison yet, and which of them people "
            f"get goes by its labels ({OPTION}: {stage.options.human.route}).",
            "a run that waits for people's labels",
            resume_command(stage.run.path),
        )
    known = {pair.id: pair for pair in pairs}
    return [known[row.comparison_id] for row in rows if row.comparison_id in known]


def route(stage: Stage) -> None:
    """Choose by the labels of all comparisons those that people get, and write routed.jsonl, where it is not
    there yet. Raises UserError where nothing stored says what the queue goes by."""
    path = stage.dir / "routed.jsonl"
    if path.exists():
        return
    queue = queue_of(stage.options.human)
    pairs = _with_tags(stage, RowFile(stage.input("comparisons"), Comparison))
    material = of_stage(stage, pairs)
    if queue.name == "reward":
        material = graded(material, stage.dir, stage.run.progress, OPTION)
    evidence = Opinions(material).evidence
    seed = derive_seed(stage.seed, "route")
    chosen = ordered(queue, pairs, lambda pair: [evidence(pair)], seed, OPTION)
    rows = [
        Routed(comparison_id=pair.id, route=queue.name, score=queue.score(evidence(pair)))
        for pair in chosen[: stage.options.human.count(len(pairs))]
        if queue.score
    ]
    write_text(path, "".join(row.to_json() + "\n" for row in rows))
