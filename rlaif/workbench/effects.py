"""What an edited constitution does to a run's verdicts and preferences: arithmetic on labels, no model call.

A verdict is the judge's probability under one principle, both orders combined; it has changed where it is
another one of a, tie and b. A preference is what the label stage makes of all labels of a pair. Intervals
take prompts that ask the same as one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge import JudgeQuestion
from rlaif.feedback.preferences import combine_orders
from rlaif.feedback.shifts import EXAMPLES, Furthest, Shifts
from rlaif.prompting.templates import dialogue
from rlaif.records import Label, Preference, verdict_of
from rlaif.runs.folder import Run, Stage
from rlaif.stages.label import preference, preference_or_reason
from rlaif.workbench.edits import Edit
from rlaif.workbench.relabelling import PairLabels, Relabelling

Verdicts = dict[str, float]  # principle id → the judge's probability that a is better


@dataclass(frozen=True)
class Changed:
    """One comparison before and after; a preference that there is not is the reason why."""

    pair: PairLabels
    verdicts: tuple[Verdicts, Verdicts]
    made: tuple[Preference | str, Preference | str]

    @property
    def preferences(self) -> tuple[Preference | None, Preference | None]:
        """The preferences before and after, None where there is none."""
        before, after = (None if isinstance(row, str) else row for row in self.made)
        return before, after

    @property
    def cluster(self) -> str:
        """What intervals take as one."""
        return self.pair.question.prompt.cluster

    def shift(self, principle: str | None = None) -> float:
        """How far the preference, or the verdict under a principle, moved towards a; 0 where one is
        missing."""
        if principle is None:
            sides = [row.p_a if row else None for row in self.preferences]
        else:
            sides = [said.get(principle) for said in self.verdicts]
        before, after = sides
        return 0.0 if before is None or after is None else after - before

    def order(self, principle: str) -> tuple[float, str]:
        """Where a principle stands among an example's: those no longer or newly judged first, then by
        shift."""
        both = all(principle in said for said in self.verdicts)
        return (-round(abs(self.shift(principle)), 6) if both else -1.0), principle


class Effects:
    """The effects of all edits on all label stages of a run, added up a comparison at a time."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = edits
        self.verdicts: dict[str, Shifts] = defaultdict(Shifts)
        self.alone: dict[str, Shifts] = defaultdict(Shifts)
        self.preferences = Shifts()
        self.lost: Counter[str] = Counter()  # why preferences are there no longer
        self.gained: Counter[str] = Counter()  # why those that are new were not there
        self.new: dict[str, Counter[str]] = defaultdict(Counter)  # verdicts where there were none
        self.gone: dict[str, Counter[str]] = defaultdict(Counter)  # why there are none where there were some
        self.waiting: Counter[str] = Counter()
        self.deciding: tuple[Counter[str], Counter[str]] = Counter(), Counter()
        self.dropped: tuple[Counter[str], Counter[str]] = Counter(), Counter()
        self.furthest: dict[str | None, Furthest[Changed]] = defaultdict(Furthest)
        self.unlike = 0  # preferences that this version computes otherwise than the run has them
        self.texts: list[Relabelling] = []

    def add(self, part: Relabelling) -> None:
        """Count the comparisons of one label stage."""
        self.texts.append(part)
        stored = {row.comparison_id: row.p_a for row in part.before.rows("preferences", Preference)}
        variants = self._variants(part)
        principles = {principle.id: principle for principle in part.after.constitution.principles}
        for pair in part.pairs():
            question = pair.question
            made = (
                preference_or_reason(part.before, pair.old_question, pair.before),
                preference_or_reason(part.after, question, pair.after),
            )
            change = Changed(pair, (_verdicts(pair.before), _verdicts(pair.after)), made)
            self._count(change, principles)
            here = change.preferences[0].p_a if change.preferences[0] else None
            there = stored.get(question.comparison.id)
            self.unlike += (here is None) != (there is None) or abs((here or 0) - (there or 0)) > 1e-9
            for name, stage in variants.items():
                with_it = [row for row in pair.before if row.principle_id != name]
                with_it += [row for row in pair.after if row.principle_id == name]
                after = preference(stage, question, sorted(with_it, key=lambda row: row.id))
                self.alone[name].add(here, after.p_a if after else None, change.cluster)

    def _variants(self, part: Relabelling) -> dict[str, Stage[Any]]:
        """By edit the label stage with that edit alone; where a principle is drawn for each pair, an edit
        moves the draw of others too, and none stands alone."""
        if part.before.options.principles == "drawn":
            return {}
        run, number = part.before.run, part.before.number
        return {
            edit.id: Run(run.path, run.config, alone(run.constitution, edit)).stages[number - 1]
            for edit in self.edits
        }

    def _count(self, change: Changed, principles: Mapping[str, Principle]) -> None:
        """Count one comparison; `principles` are the new constitution's by id."""
        before, after = change.verdicts
        for name in {*before, *after}:
            self.verdicts[name].add(before.get(name), after.get(name), change.cluster)
            self._keep(name, change)
            if name not in before:
                self.new[name][verdict_of(after[name])] += 1
            if name not in after:
                self.gone[name][_why_gone(principles.get(name), change.pair.question)] += 1
        self.waiting.update(change.pair.waiting)
        first, second = (row.p_a if row else None for row in change.preferences)
        self.preferences.add(first, second, change.cluster)
        for counts, row in zip(self.deciding, change.preferences, strict=True):
            counts.update([row.deciding_principle or "none"] if row else [])
        for counts, row in zip(self.dropped, change.made, strict=True):
            counts.update([row] if isinstance(row, str) else [])
        if isinstance(change.made[0], str) != isinstance(change.made[1], str):
            (self.gained if first is None else self.lost).update(x for x in change.made if isinstance(x, str))
        self._keep(None, change)

    def _keep(self, name: str | None, change: Changed) -> None:
        """Remember the change if it is the largest of its cluster so far."""
        self.furthest[name].add(
            change.cluster, change.shift(name), change.pair.question.comparison.id, change
        )

    def data(self) -> dict[str, Any]:
        """Everything counted, for `--json`."""
        edited = {edit.id for edit in self.edits}
        shown = [
            name for name, found in self.verdicts.items() if name in edited or found.changed.hits.total()
        ]
        return {
            "principles": {
                name: {
                    "verdicts": self.verdicts[name].figures(),
                    "new": dict(sorted(self.new[name].items())),
                    "gone": dict(self.gone[name].most_common()),
                    "waiting": self.waiting[name],
                    "alone": None
                    if self.waiting[name] or name not in self.alone
                    else self.alone[name].figures(),
                }
                for name in [*(edit.id for edit in self.edits), *(n for n in shown if n not in edited)]
            },
            "preferences": {
                **self.preferences.figures(),
                "lost_why": dict(self.lost.most_common()),
                "gained_why": dict(self.gained.most_common()),
                "before": sum(self.deciding[0].values()),
                "after": sum(self.deciding[1].values()),
                "dropped": [dict(counts) for counts in self.dropped],
                "deciding": [dict(counts) for counts in self.deciding],
                "waiting_pairs": self.waiting.total(),
            },
            "examples": {
                "preferences": self._examples(None, EXAMPLES),
                "principles": {edit.id: self._examples(edit.id, EXAMPLES // 3) for edit in self.edits},
            },
        }

    def _examples(self, name: str | None, count: int) -> list[dict[str, Any]]:
        """The changes that are furthest, one a cluster of prompts."""
        return [self._example(change) for change in self.furthest[name].first(count)]

    def _example(self, change: Changed) -> dict[str, Any]:
        question, (before, after) = change.pair.question, change.verdicts
        return {
            "comparison_id": question.comparison.id,
            "prompt": dialogue(question.prompt.chat),
            "a": question.a,
            "b": question.b,
            "p_a": [row.p_a if row else None for row in change.preferences],
            "verdicts": {
                name: [before.get(name), after.get(name)]
                for name in sorted({*before, *after}, key=change.order)
                if before.get(name) != after.get(name) or verdict_of(after.get(name)) != "tie"
            },
        }


def _verdicts(labels: Sequence[Label]) -> Verdicts:
    """The judge's probability by principle."""
    read: Mapping[tuple[str, str | None], float] = combine_orders(labels)
    return {name: p for (who, name), p in read.items() if name is not None and who.startswith("ai:")}


def _why_gone(principle: Principle | None, question: JudgeQuestion) -> str:
    """Why the judge has no verdict any longer under what is now `principle`."""
    if principle is None:
        return "principle removed"
    if not principle.applies(question.prompt.tags):
        return "prompt without a tag of applies_to"
    if principle.id not in {asked.id for asked in question.principles}:
        return "the label stage asks about others"
    return "no verdict could be read"


def alone(old: Constitution, edit: Edit) -> Constitution:
    """The old constitution with one edit; a removed principle stays with weight 0: it then says nothing."""
    kept = [
        p if p.id != edit.id else edit.after or p.model_copy(update={"weight": 0.0}) for p in old.principles
    ]
    kept += [edit.after] if edit.before is None and edit.after else []
    return old.model_copy(update={"principles": tuple(kept)})
