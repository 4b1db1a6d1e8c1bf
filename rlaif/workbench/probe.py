"""A small fixed set of pairs, judged by whatever a constitution's file says now, and what an edit turned.

Every verdict ever asked is kept by what identifies it (pair, principle, order, and what the judge is shown),
so an edit costs only the questions that it changes, and taking it back costs none.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlaif.audit.card import JudgeSetting
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.feedback.judge import JudgeQuestion, Slot, slot_of
from rlaif.feedback.preferences import aggregate, combine_orders
from rlaif.records import TIE_MARGIN, Comparison, Label, Order, Prompt, Response, Verdict, verdict_of
from rlaif.runs.folder import silent_progress
from rlaif.workbench.edits import Edit, as_data, edits


@dataclass(frozen=True)
class ProbePair:
    """Two responses to a prompt."""

    prompt: Prompt
    a: str
    b: str

    def question(self, constitution: Constitution) -> JudgeQuestion:
        """The pair as the judge is asked about it under every principle that applies."""
        ids = [Response(prompt_id=self.prompt.id, text=text).id for text in (self.a, self.b)]
        comparison = Comparison(prompt_id=self.prompt.id, a=ids[0], b=ids[1])
        applicable = tuple(constitution.applicable(self.prompt.tags))
        return JudgeQuestion(comparison, self.prompt, self.a, self.b, applicable)

    def as_dict(self) -> dict[str, Any]:
        """For a page: the prompt's last turn, what came before it, both responses, tags."""
        *before, last = self.prompt.messages
        turns = [f"{m.role}: {m.content}" for m in before]
        return {
            "prompt": last.content,
            "before": turns,
            "a": self.a,
            "b": self.b,
            "tags": list(self.prompt.tags),
        }


@dataclass(frozen=True)
class Cell:
    """One pair under one principle, or under all of them: the probability that a is better.

    `shown` is it by the order in which the responses were shown; `p_a` both together, None where nothing
    could be read, and `reason` then says why.
    """

    p_a: float | None
    shown: dict[Order, float] = field(default_factory=dict)
    reason: str | None = None

    @property
    def verdict(self) -> Verdict:
        """a, b, tie or invalid."""
        return verdict_of(self.p_a)

    def as_dict(self) -> dict[str, Any]:
        """For a page."""
        return {"p_a": self.p_a, "verdict": self.verdict, "shown": self.shown, "reason": self.reason}


@dataclass(frozen=True)
class Verdicts:
    """All verdicts of a probe set by one constitution.

    `cells` by (number of the pair, principle id); `preferences` by number of the pair, with the id of the
    principle that decided. `asked` verdicts were new and took `seconds`.
    """

    constitution: Constitution
    cells: dict[tuple[int, str], Cell]
    preferences: dict[int, tuple[Cell, str | None]]
    asked: int
    seconds: float


def require_a_verdict(setting: JudgeSetting, asked: int, unread: Counter[str]) -> None:
    """Raise UserError where none of the verdicts that were asked for could be read."""
    if asked and unread.total() == asked:
        said = ", ".join(f"{n} × {reason}" for reason, n in unread.items())
        raise UserError(
            f"the judge {setting.engine.fingerprint} gave no verdict that can be read ({said}).",
            "a judge that answers A or B",
            "look at `rlaif judge audit`, or try another template set",
        )


class Probe:
    """The pairs and the judge that is asked about them; `name` is shown while the judge is waited for."""

    def __init__(
        self,
        setting: JudgeSetting,
        pairs: Sequence[ProbePair],
        name: str = "the judge",
        progress: Any = silent_progress,
    ) -> None:
        self.setting, self.pairs = setting, list(pairs)
        self.name, self.progress = name, progress
        self._labels: dict[Slot, Label] = {}

    def verdicts(self, constitution: Constitution) -> Verdicts:
        """The verdicts by a constitution; only what no earlier one has asked is asked.

        Raises UserError where none of them can be read.
        """
        started = time.monotonic()
        judge = self.setting.judge(constitution)
        questions = [pair.question(constitution) for pair in self.pairs]
        wanted = judge.expected_slots(questions)
        asked = len(wanted - self._labels.keys())
        if asked:
            with self.progress(f"verdicts, waiting for {self.name}", asked) as tick:
                for labels in judge.compare(questions, done=self._labels.keys()):
                    self._labels |= {slot_of(label): label for label in labels}
                    tick(len(labels))
        found = defaultdict(list)
        for slot in wanted & self._labels.keys():
            found[slot[0]].append(self._labels[slot])
        labels = [label for group in found.values() for label in group]
        unread = Counter(label.reason or "refused" for label in labels if label.p_a is None)
        require_a_verdict(self.setting, len(labels), unread)
        cells: dict[tuple[int, str], Cell] = {}
        preferences: dict[int, tuple[Cell, str | None]] = {}
        for number, question in enumerate(questions):
            labels = found[question.comparison.id]
            cells |= {(number, i): cell for i, cell in _cells(labels).items()}
            p_a, deciding = aggregate(labels, constitution) or (None, None)
            preferences[number] = Cell(p_a), deciding
        return Verdicts(constitution, cells, preferences, asked, time.monotonic() - started)


def _cells(labels: Sequence[Label]) -> dict[str, Cell]:
    both = {principle: p for (_, principle), p in combine_orders(labels).items()}
    by_principle: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        by_principle[label.principle_id or ""].append(label)
    return {
        principle: Cell(
            both.get(principle),
            {label.order: label.p_a for label in rows if label.p_a is not None},
            next((label.reason or "refused" for label in rows if label.p_a is None), None),
        )
        for principle, rows in by_principle.items()
    }


@dataclass(frozen=True)
class Turned:
    """A verdict that an edit turned: of a pair under a principle, or of its preference (None)."""

    pair: int
    principle: str | None
    before: Cell
    after: Cell
    deciding: str | None = None  # of a preference, the principle that decides it now

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and a page."""
        return {
            "pair": self.pair,
            "principle": self.principle,
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "deciding": self.deciding,
        }


@dataclass(frozen=True)
class Effect:
    """What an edit did to the probe set's verdicts.

    `turned` and `preferences` are those whose verdict is another one now; `moved` how many probabilities
    moved by more than a tie's margin without that. `compared` verdicts are there before and after.
    """

    edits: tuple[Edit, ...]
    turned: tuple[Turned, ...]
    preferences: tuple[Turned, ...]
    moved: int
    compared: int
    pairs: int
    asked: int
    seconds: float

    @classmethod
    def of(cls, before: Verdicts, after: Verdicts) -> Effect:
        """The effect of an edit between two constitutions."""
        both = [key for key in after.cells if key in before.cells]
        changed = [Turned(*key, before.cells[key], after.cells[key]) for key in both]
        turned = [one for one in changed if one.before.verdict != one.after.verdict]
        preferences = [
            Turned(n, None, before.preferences[n][0], cell, deciding)
            for n, (cell, deciding) in after.preferences.items()
            if cell.verdict != before.preferences[n][0].verdict
        ]
        moved = sum(_distance(one) > TIE_MARGIN for one in changed) - sum(
            _distance(one) > TIE_MARGIN for one in turned
        )
        return cls(
            tuple(edits(before.constitution, after.constitution)),
            tuple(sorted(turned, key=_distance, reverse=True)),
            tuple(sorted(preferences, key=_distance, reverse=True)),
            moved,
            len(both),
            len(after.preferences),
            after.asked,
            after.seconds,
        )

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and a page."""
        return {
            "edits": [as_data(edit) for edit in self.edits],
            "turned": [one.as_dict() for one in self.turned],
            "preferences": [one.as_dict() for one in self.preferences],
            "moved": self.moved,
            "compared": self.compared,
            "pairs": self.pairs,
            "asked": self.asked,
            "seconds": round(self.seconds, 3),
        }


def _distance(one: Turned) -> float:
    """How far the probability moved; 1 where one side could not be read."""
    before, after = one.before.p_a, one.after.p_a
    return 1.0 if before is None or after is None else abs(after - before)
