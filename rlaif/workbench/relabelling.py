"""A run's comparisons under another constitution: which of its labels stay, which are missing, what they
cost, and asking for them.

What a label is known by is the label stage's own business: the judge is built as that stage builds it, and
says which labels it would give (`Judge.expected_slots`). Those asked for here are appended to
`asked/labels.jsonl` of the run's folder, from where `labels_from` takes them: nothing is asked twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution
from rlaif.engines import open_engine
from rlaif.errors import UserError
from rlaif.feedback.earlier_labels import TakenOver
from rlaif.feedback.judge import Judge, JudgeQuestion, Slot, slot_of
from rlaif.human.labelled import labelling
from rlaif.human.waiting import people_of
from rlaif.options import LabelOptions
from rlaif.preflight.counting import CountingEngine, judge_of_labels
from rlaif.records import Comparison, Label
from rlaif.runs.commands import resume_command
from rlaif.runs.folder import Run, Stage, label_files
from rlaif.runs.locking import locked
from rlaif.runs.lookup import Lookup
from rlaif.runs.rows import RowFile, rare_garbage_collection
from rlaif.runs.spending import Account, Ledger
from rlaif.stages.label import Questions, asked_of_judge, judge_of


@dataclass
class Survey:
    """How many labels the new constitution needs, by principle: those that are there, and those that are not
    with the reason; and what asking for these takes."""

    kept: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)  # of those kept, without a verdict
    since: Counter[str] = field(default_factory=Counter)  # of those kept, asked for after the run
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    cost: CountingEngine = field(default_factory=CountingEngine)


@dataclass(frozen=True)
class PairLabels:
    """One comparison's labels before and after; `waiting` are principles whose labels are not there yet and
    for which the old ones stand in."""

    question: JudgeQuestion
    old_question: JudgeQuestion  # with the principles that applied before
    before: list[Label]
    after: list[Label]
    waiting: frozenset[str]


class Relabelling:
    """One label stage of a run under another constitution; `more` are further files of labels."""

    def __init__(self, stage: Stage[LabelOptions], new: Constitution, more: Sequence[Path] = ()) -> None:
        run = stage.run
        self.before = stage
        self.after: Stage[Any] = Run(run.path, run.config, new).stages[stage.number - 1]
        pairs = RowFile(stage.input("comparisons"), Comparison)
        self.questions, self.old_questions = Questions(self.after, pairs), Questions(stage, pairs)
        self.more = more
        self.model = judge_of_labels(more or [stage.dir / "labels.jsonl"])
        self.own = Lookup([stage.dir / "labels.jsonl"], Label, "comparison_id")
        self.people = self._simulated()

    def _simulated(self) -> Mapping[str, Sequence[Label]] | None:
        """What simulated people say under the new constitution; None where real ones, or nobody, labelled."""
        human = self.after.options.human
        return people_of(self.after, self.questions).labels if human and human.annotator else None

    def judge(self, engine: Any) -> Judge:
        """The judge of the stage under the new constitution, over any engine."""
        return judge_of(self.after, engine)

    def chunks(self, judge: Judge) -> Iterator[Chunk]:
        """The comparisons a chunk at a time, with what is known of them."""
        files = [*label_files(self.before.run.path), *self.more]
        asked = self.before.run.asked
        stored = Lookup([file for file in files if file != asked], Label, "comparison_id")
        since = Lookup([asked], Label, "comparison_id")
        with rare_garbage_collection():
            for questions in self.questions.chunks():
                yield Chunk.of(self, judge, questions, stored, since)

    def survey(self) -> Survey:
        """What is there and what is missing; no model is asked."""
        found = Survey(cost=CountingEngine(self.model))
        judge = self.judge(found.cost)
        counts: dict[str, TakenOver] = defaultdict(TakenOver)
        for chunk in self.chunks(judge):
            missing = chunk.expected - chunk.have.keys()
            found.kept.update(str(slot[1]) for slot in chunk.expected & chunk.have.keys())
            found.unread.update(str(s[1]) for s, row in chunk.have.items() if row.p_a is None)
            found.stale.update(str(slot[1]) for slot in missing)
            found.since.update(str(slot[1]) for slot in chunk.since)
            for name in {str(slot[1]) for slot in missing}:
                counts[name].add(0, {slot for slot in missing if slot[1] == name}, chunk.known)
            for _ in judge.compare(chunk.asked, (), chunk.have.keys()):
                pass
        found.reasons = {name: count.not_reused for name, count in counts.items()}
        return found

    def ask(self, stale: int, progress: Any) -> dict[str, int]:
        """Ask for the labels that are missing, each kept as it comes; → what that took."""
        run, config = self.before.run, self.before.config
        run.asked.parent.mkdir(exist_ok=True)
        with locked(run.path):
            ledger = Ledger(run.asked.with_name("spending.jsonl"), config)
            engine = open_engine(config.feedback, account=Account(ledger, self.before.dir.name))
            if engine.fingerprint != self.model:
                raise UserError(
                    f"{run.path}: its labels are by {self.model}, and its feedback model is now "
                    f"{engine.fingerprint}.",
                    "the same judge: with another one every label is stale",
                    "restore the model, or label anew: rlaif run --from RUN --at label",
                )
            judge, file = self.judge(engine), RowFile(run.asked, Label)
            with progress(f"{self.before.dir.name}: stale labels", stale) as tick:
                for chunk in self.chunks(judge):
                    for labels in judge.compare(chunk.asked, chunk.since.keys(), chunk.given.keys()):
                        file.write(labels)
                        tick(len(labels))
            ledger.flush()
        return engine.usage.as_dict()

    def pairs(self) -> Iterator[PairLabels]:
        """Every comparison with its labels before and after, as far as these are there."""
        for chunk in self.chunks(self.judge(CountingEngine(self.model))):
            yield from chunk.pairs(self)


@dataclass(frozen=True)
class Chunk:
    """Some comparisons: `asked` are those that the judge is asked about, `expected` the labels it would give,
    `given` and `since` those that are there from the run and asked for since; `known` all slots of a pair."""

    questions: Sequence[JudgeQuestion]
    asked: Sequence[JudgeQuestion]
    expected: Collection[Slot]
    given: Mapping[Slot, Label]
    since: Mapping[Slot, Label]
    known: Mapping[str, Sequence[Slot]]
    people: Mapping[str, Sequence[Label]]

    @classmethod
    def of(
        cls,
        whole: Relabelling,
        judge: Judge,
        questions: Sequence[JudgeQuestion],
        stored: Lookup[Label],
        since: Lookup[Label],
    ) -> Chunk:
        """What the files hold of these questions."""
        pairs = [question.comparison.id for question in questions]
        rows = {pair: stored.all(pair) for pair in pairs}
        later = {pair: since.all(pair) for pair in pairs}
        people = whole.people
        if people is None:
            people = {
                pair: [row for row in whole.own.all(pair) if row.annotator.kind != "ai"] for pair in pairs
            }
        asked = asked_of_judge(whole.after, questions, people)
        expected = judge.expected_slots(asked)
        given, added = (_by_slot(by_pair, expected) for by_pair in (rows, later))
        known = {
            pair: [slot_of(row) for row in (*rows[pair], *later[pair]) if row.annotator.kind == "ai"]
            for pair in pairs
        }
        fresh = {slot: row for slot, row in added.items() if slot not in given}
        return cls(questions, asked, expected, given, fresh, known, people)

    @property
    def have(self) -> dict[Slot, Label]:
        """All labels that are there."""
        return {**self.given, **self.since}

    def pairs(self, whole: Relabelling) -> Iterator[PairLabels]:
        """The comparisons with their labels; those that are missing are as they were."""
        needed: dict[str, list[Slot]] = defaultdict(list)
        for slot in sorted(self.expected, key=lambda slot: tuple(map(str, slot))):
            needed[slot[0]].append(slot)
        have = self.have
        for question in self.questions:
            pair = question.comparison.id
            before = sorted(whole.own.all(pair), key=lambda row: row.id)
            slots = needed.get(pair, [])
            waiting = frozenset(str(slot[1]) for slot in slots if slot not in have)
            after = [
                *self.people.get(pair, ()),
                *(have[s] for s in slots if s in have and s[1] not in waiting),
            ]
            after += [row for row in before if row.annotator.kind == "ai" and row.principle_id in waiting]
            old = whole.old_questions.principles_of(question.prompt, question.comparison)
            yield PairLabels(
                question,
                replace(question, principles=old),
                before,
                sorted(after, key=lambda row: row.id),
                waiting,
            )


def _by_slot(rows: Mapping[str, Sequence[Label]], expected: Collection[Slot]) -> dict[Slot, Label]:
    """The judge's labels that fit, and hold a number or the reason why there is none."""
    judged = (row for own in rows.values() for row in own if row.annotator.kind == "ai")
    return {
        slot: row for row in judged if row.reason != Label.NUMBERLESS and (slot := slot_of(row)) in expected
    }


def label_stages(run: Run) -> list[Stage[Any]]:
    """The finished label stages; UserError where there is none, or one is not done."""
    found = labelling(run)
    begun = [stage for stage in found if (stage.dir / "labels.jsonl").exists()]
    if not begun:
        raise UserError(
            f"{run.path}: has no labels.",
            "a run whose label stage is done",
            f"{resume_command(run.path)} --until label" if found else "a config with a label stage",
        )
    if waiting := [stage for stage in begun if not stage.is_done]:
        raise UserError(
            f"{run.path}: {waiting[0].dir.name} is not done.",
            "a finished label stage: half of the labels would look like an edit",
            f"{resume_command(run.path)} --until label",
        )
    return begun
