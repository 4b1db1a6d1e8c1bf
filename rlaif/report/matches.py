"""Two arms on the prompts that both answered: gold of both, and what the judge says of their responses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from rlaif.config import ModelConfig
from rlaif.constitution import Constitution
from rlaif.engines import open_engine
from rlaif.errors import UserError
from rlaif.feedback.gold import no_gold
from rlaif.feedback.judge import Judge
from rlaif.prompting.templates import Templates
from rlaif.report.arms import Arm, ComparedRun
from rlaif.report.measures import Table
from rlaif.report.teachers import deciding, evaluated_by, roles, weights
from rlaif.report.win_rates import Verdicts, ask, gold_table, match_seeds
from rlaif.runs.folder import silent_progress


class JudgeDesk:
    """The judge of all win rates of a comparison, opened when it is first asked.

    It is the model that is given; else the feedback model of the first run whose judge taught none of them,
    or of the first run.
    """

    def __init__(
        self, sides: Sequence[ComparedRun], judge: ModelConfig | None = None, progress: Any = silent_progress
    ) -> None:
        configs = [side.reader.run.config for side in sides]
        at = deciding(configs) if judge is None else 0
        self.side, self.progress = sides[at], progress
        self.config = judge or configs[at].feedback
        self.given = judge is not None
        self.untaught = self.given or not roles(configs[at])
        self._failed: UserError | None = None

    @cached_property
    def _opened(self) -> Judge:
        reader = self.side.reader
        templates = Templates.load(reader.run.config.templates, reader.run.base)
        return Judge(open_engine(self.config), templates)

    @property
    def judge(self) -> Judge:
        """The judge; raises UserError where it cannot be opened, the same each time."""
        if self._failed is None:
            try:
                return self._opened
            except UserError as error:
                self._failed = error
        raise self._failed

    @property
    def weights(self) -> str:
        """What identifies the judge wherever it lies."""
        if not self.given:
            return evaluated_by(self.side.reader)
        return weights(self.judge.engine.fingerprint)


class Match:
    """One arm against another on the held-out prompts that all their runs have answered."""

    def __init__(self, a: Arm, b: Arm, constitution: Constitution, desk: JudgeDesk) -> None:
        self.a, self.b, self.constitution, self.desk = a, b, constitution, desk
        shared = sorted(i for i in set(a.rows) & set(b.rows) if i in a.first.reader.prompts)
        self.prompts = [a.first.reader.prompts[i] for i in shared]
        self.clusters = {prompt.id: prompt.cluster for prompt in self.prompts}
        self.notes: list[str] = []
        self.gold = self._gold() if self.prompts else None

    def _gold(self) -> tuple[list[Table], list[Table]] | None:
        """A table a seed of either arm; None where the arms have no gold scorer in common."""
        specs = [arm.first.reader.run.config.gold for arm in (self.a, self.b)]
        if specs[0] != specs[1]:
            self.notes.append("The runs name different gold scorers, so gold is not compared.")
        if specs[0] is None or specs[0] != specs[1]:
            return None
        a, b = (
            [gold_table(side, self.prompts, self.constitution) for side in arm.sides]
            for arm in (self.a, self.b)
        )
        known = set().union(*a, *b)
        asked = [p for p in self.constitution.principles if any(p.applies(q.tags) for q in self.prompts)]
        self.notes += no_gold([p.id for p in asked if p.id not in known], specs[0])
        return a, b

    @cached_property
    def verdicts(self) -> Verdicts | None:
        """The judge's verdicts; None, with a note, where it could not be asked."""
        if not self.prompts:
            return None
        try:
            pairs = match_seeds(self.a.sides, self.b.sides)
            return ask(pairs, self.prompts, self.desk.judge, self.constitution, self.desk.progress)
        except UserError as error:
            self.notes.append(f"No win rate: the judge could not be asked ({error.found}).")
            return None
