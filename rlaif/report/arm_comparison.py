"""One arm against another: every figure of the comparison with its interval, and its verdict in words.

A difference is declared only where its interval excludes zero. The interval covers the choice of prompts and,
where an arm has several seeds, the spread among them; the result says which.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlaif.agreement.decisions import detectable, standard_error
from rlaif.errors import UserError
from rlaif.metrics import METRICS, Metric
from rlaif.pages import charts
from rlaif.pages.page import percent
from rlaif.records import Prompt
from rlaif.report.arms import ComparedRun
from rlaif.report.comparison_verdict import verdict
from rlaif.report.differences import differences, same_experiment
from rlaif.report.examples import PromptExample, extremes, prompt_text, shown_response
from rlaif.report.fairness import BOTH, taught, unfair
from rlaif.report.first_lines import first_lines
from rlaif.report.labels_compared import LabelledTwice
from rlaif.report.matches import Match
from rlaif.report.measures import Table, arm_delta, arm_deltas, compliance, paired_means
from rlaif.report.teachers import same_judge
from rlaif.report.warnings import FLIPS
from rlaif.report.win_rates import gold_outcomes, gold_win_rate, judged

NO_WIN_RATE: dict[str, Any] = {
    "value": None,
    "ci": None,
    "ties": None,
    "ties_ci": None,
    "invalid": None,
    "invalid_ci": None,
    "n": 0,
    "judge": None,
    "taught": None,
    "by_principle": {},
}


class ArmComparison:
    """One arm against another: `data` is the comparison as `rlaif compare --json` prints it."""

    def __init__(self, match: Match) -> None:
        self.match, self.a, self.b, self.notes = match, match.a, match.b, []
        self.prompts, self.clusters, self.gold = match.prompts, match.clusters, match.gold
        self.labels = LabelledTwice(self.a, self.b).data()
        if not self.prompts and not self.labels["shared"]:
            raise UserError(
                f"{self.a.name} and {self.b.name} share no held-out prompt and no labelled comparison.",
                "two runs on the same prompts",
            )
        self.differs = differences(self.a.first.reader, self.b.first.reader)
        self.same = same_experiment(self.differs)
        self._note_scope()
        self.data = self._compare()

    def _note_scope(self) -> None:
        for arm in (self.a, self.b):
            if not arm.rows:
                self.notes.append(f"No policy of {arm.name} has been evaluated, so only labels are compared.")
        if self.differs["constitution"]:
            self.notes.append(
                "The constitutions differ: both runs are measured under all "
                f"{len(self.match.constitution.principles)} principles of both."
            )

    def _compare(self) -> dict[str, Any]:
        win = self._win_rate() if self.prompts else NO_WIN_RATE
        asked = self.match.desk.weights if self.match.verdicts else None
        data = {
            "prompts": len(self.prompts),
            "between": [self.a.letter, self.b.letter],
            "unfair": unfair(self.a, self.b, len(self.prompts), self.differs, asked),
            "win_rate": win,
            **(
                {
                    "gold": self._shown(*self.gold),
                    "gold_win_rate": gold_win_rate(*self.gold, self.clusters),
                    "gold_ahead": self._ahead(gold_outcomes(*self.gold)),
                }
                if self.gold
                else {}
            ),
            "compliance": self._compliance() if self.prompts else {},
            **{metric.key: self._figure(metric) for metric in METRICS},
            "labels": self.labels,
            "differs": self.differs,
            "same_config": self.same,
            "detectable": None,
        }
        data["detectable"] = self._detectable(data)
        if win.get("taught") == BOTH:
            self.notes.append(
                "The judge of the win rate taught both runs: it says which of them pleases it more."
            )
        notes = [*self.notes, *self.match.notes, self._covered()]
        said = verdict(self.a, self.b, data)
        answers = first_lines(self.a, self.b, {**data, "verdict": said})
        return {"verdict": said, "answers": answers, **data, "notes": notes}

    def _covered(self) -> str:
        """What the intervals cover, and what they do not."""
        counts, n = [len(arm.sides) for arm in (self.a, self.b)], len(self.prompts)
        groups = len(set(self.clusters.values()))
        prompts = f"the choice of held-out prompts ({n}{f' in {groups} groups' if groups < n else ''})"
        if counts == [1, 1]:
            return (
                f"Intervals cover {prompts}, not another training: one seed of each config says "
                "which of these two policies is ahead, several seeds of each which config is."
            )
        return (
            f"Intervals cover {prompts} and the spread among seeds ({counts[0]} of "
            f"{self.a.letter}, {counts[1]} of {self.b.letter})."
        )

    def _win_rate(self) -> dict[str, Any]:
        desk = self.match.desk
        if self.match.verdicts is None:
            return NO_WIN_RATE
        if not desk.given and not self._same_judge():
            why = ", which taught none of the runs" if desk.untaught else ""
            self.notes.append(f"The runs have different judges; the win rate is by {desk.side.name}'s{why}.")
        found = judged(self.match.verdicts, self.match.constitution)
        flips = found["order_flip_rate"]
        if flips is not None and flips > FLIPS:
            self.notes.append(
                f"The win rate can hardly be trusted: {percent(flips, found['order_flip_rate_ci'])} of "
                "the judge's decided verdicts flip with the order."
            )
        who = taught(self.a, self.b, desk.weights)
        return {**found, "judge_model": desk.config.model, "taught": who}

    def _detectable(self, data: dict[str, Any]) -> float | None:
        """The smallest difference in what decides that a sample of this size shows with power 0.8."""
        change = data.get("gold", {}).get("delta", {}).get("all") or data["win_rate"]
        edges = change["ci"]
        if edges is None or not all(map(math.isfinite, edges)):
            return None
        return detectable(standard_error(edges))

    def _ahead(self, matches: Sequence[dict[str, float]]) -> dict[str, int]:
        """On how many prompts either arm is ahead, and on how many neither, over all matches of seeds."""
        counts = Counter(x for row in matches for x in row.values())
        return {self.a.letter: counts[1.0], self.b.letter: counts[0.0], "neither": counts[0.5]}

    def _same_judge(self) -> bool:
        """Whether one model, asked in the same words, judged both arms, wherever it lay and however it was
        run."""
        same = same_judge(self.a.first.reader, self.b.first.reader)
        return same and not self.differs["templates"]

    def _shown(self, a: Sequence[Table], b: Sequence[Table]) -> dict[str, Any]:
        shift = arm_deltas(a, b, self.clusters)
        for change in shift.values():
            change["different"] = change["different"] and not self.same
        means = {name: paired_means([t[name] for t in a], [t[name] for t in b]) for name in shift}
        kept = [{name: pair[side] for name, pair in means.items()} for side in (0, 1)]
        return {self.a.letter: kept[0], self.b.letter: kept[1], "delta": shift}

    def _compliance(self) -> dict[str, Any]:
        if not self._same_judge():
            self.notes.append("The judge's compliance is not compared: each run was judged by another judge.")
            return {}
        a, b = (
            [compliance(side.rows[prompt.id] for prompt in self.prompts) for side in arm.sides]
            for arm in (self.a, self.b)
        )
        # Under different constitutions "all" would mean different sets of principles, and a principle that
        # is worded differently another question.
        changed = self.differs["constitution"]
        reworded = {name for name, fields in changed.items() if {"text", "compare"} & set(fields)}
        left_out = {"all", *reworded} if changed else set()
        if twice := sorted(name for name in reworded if name in a[0] and name in b[0]):
            self.notes.append(
                f"The judge's compliance under {', '.join(twice)} is not compared: "
                "it is worded differently in the two runs."
            )
        names = [name for name in a[0] if all(name in table for table in (*a, *b)) and name not in left_out]
        kept = [[{name: table[name] for name in names} for table in arm] for arm in (a, b)]
        return self._shown(*kept) if names else {}

    def _figure(self, metric: Metric) -> dict[str, Any]:
        values = [[self._values(metric, side) for side in arm.sides] for arm in (self.a, self.b)]
        means = paired_means(*values)
        known = any(values[0]) and any(values[1])
        return {
            self.a.letter: means[0],
            self.b.letter: means[1],
            "delta": arm_delta(values[0], values[1], self.clusters, bounds=metric.gap if known else None),
        }

    def _values(self, metric: Metric, side: ComparedRun) -> dict[str, float]:
        return metric.values(
            {p.id: side.rows[p.id] for p in self.prompts}, side.reader.responses, side.reader.prompts
        )

    def chart(self) -> Any:
        """Differences per principle with their intervals, gold above judge."""
        parts = [(self.data["gold"]["delta"], "last", "gold")] if self.gold else []
        parts += (
            [(self.data["compliance"]["delta"], "mid0", "judge")]
            if self.data["compliance"].get("delta")
            else []
        )
        if not parts:
            return None
        ids = dict.fromkeys(name for table, _, _ in parts for name in table)
        rows = [
            (
                name,
                [
                    charts.Dot(table[name]["value"], table[name]["ci"], slot, who)
                    for table, slot, who in parts
                    if name in table and all(map(math.isfinite, table[name]["ci"]))
                ],
            )
            for name in ids
        ]
        edge = max((abs(x) for _, dots in rows for dot in dots for x in dot.ci), default=0.1)
        return charts.dot_chart(
            f"{self.a.letter} minus {self.b.letter}", rows, (-max(edge, 0.05), max(edge, 0.05))
        )

    def cases(self, count: int = 4) -> dict[str, list[PromptExample]]:
        """The prompts on which B is furthest ahead of A, and the other way round."""
        return extremes([self._case(prompt) for prompt in self.prompts], count)

    def _case(self, prompt: Prompt) -> PromptExample:
        firsts = [arm.first for arm in (self.a, self.b)]
        responses = [shown_response(s.reader, s.rows[prompt.id], f"{s.letter} · {s.name}") for s in firsts]
        if self.gold:  # under the principles of both runs
            kept = [
                {
                    name: bool(values[prompt.id])
                    for name, values in arm[0].items()
                    if prompt.id in values and name != "all"
                }
                for arm in self.gold
            ]
            responses = [replace(shown, kept=truth) for shown, truth in zip(responses, kept, strict=True)]
        return PromptExample(prompt.id, prompt_text(self.a.first.reader, prompt.id), tuple(responses))
