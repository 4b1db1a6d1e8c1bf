"""Runs side by side on the same held-out prompts: what differs, by how much, and whether that can be chance.

Runs that repeat one experiment with other seeds are one arm (see `arms`); every arm is set against the first.
A difference is declared only where its interval excludes zero. The interval covers the choice of prompts and,
where an arm has several seeds, the spread among them; the result says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlaif.config import ModelConfig
from rlaif.constitution import Constitution
from rlaif.engines import open_engine
from rlaif.errors import UserError
from rlaif.feedback.gold import no_gold
from rlaif.feedback.judge import Judge
from rlaif.forecasts import kappa_interval
from rlaif.intervals import mean_interval
from rlaif.metrics import METRICS, Metric
from rlaif.pages import charts
from rlaif.pages.page import ci, fixed, percent, signed, write_page
from rlaif.prompting.templates import Templates
from rlaif.records import Comparison, Preference, Prompt, verdict_of
from rlaif.report.arms import LETTERS, Arm, ComparedRun, arms_of
from rlaif.report.comparison_text import capital
from rlaif.report.differences import differences, same_experiment
from rlaif.report.examples import PromptExample, extremes, prompt_text, shown_response
from rlaif.report.measures import Table, arm_delta, arm_deltas, compliance, mean_over_seeds
from rlaif.report.run_reader import plain
from rlaif.report.warnings import FLIPS, run_warnings
from rlaif.report.win_rates import all_principles, gold_table, gold_win_rate, judged, match_seeds
from rlaif.runs.folder import silent_progress
from rlaif.stats import agreement, mean

NO_WIN_RATE: dict[str, Any] = {
    "value": None,
    "ci": None,
    "ties": None,
    "ties_ci": None,
    "invalid": None,
    "invalid_ci": None,
    "n": 0,
    "judge": None,
    "by_principle": {},
}


def compare(
    paths: Sequence[Path],
    out: Path | None = None,
    judge: ModelConfig | None = None,
    progress: Any = silent_progress,
) -> dict[str, Any]:
    """The second and every further arm against the first, JSON-able; `out` also gets it as a page.

    Runs that repeat one experiment with other seeds are one arm, unless all runs do. `judge` decides the win
    rate; by default the first run's feedback model. Raises UserError where a path is no run, a run has
    neither an evaluated policy nor labels, or two arms share neither held-out prompts nor labelled
    comparisons.
    """
    if not 2 <= len(paths) <= len(LETTERS):
        raise UserError(
            f"compare: {len(paths)} runs given.", f"2 to {len(LETTERS)} run folders", "rlaif compare RUN RUN"
        )
    arms = arms_of(paths)
    sides = [side for arm in arms for side in arm.sides]
    constitution = all_principles([side.reader.run.constitution for side in sides])
    pairs = [ArmComparison(arms[0], arm, constitution, judge, progress) for arm in arms[1:]]
    data = plain(
        {
            "runs": {side.letter: _facts(side) for side in sides},
            "arms": {
                arm.letter: {"name": arm.name, "runs": [side.letter for side in arm.sides]} for arm in arms
            },
            **pairs[0].data,
            "others": [pair.data for pair in pairs[1:]],
        }
    )
    if out is not None:
        views = [{**plain(pair.data), "chart": pair.chart(), "cases": pair.cases()} for pair in pairs]
        write_page(
            out,
            "compare.html.j2",
            runs=data["runs"],
            arms=data["arms"],
            pairs=views,
            warnings=_run_warnings(sides),
            metrics=METRICS,
        )
    return data


def _facts(side: ComparedRun) -> dict[str, Any]:
    labels, reward = side.reader.metrics("label"), side.reader.metrics("reward")
    rows = list(side.rows.values())
    return {
        "path": str(side.reader.path),
        "name": side.name,
        "policy": side.policy,
        "prompts": len(rows),
        "feedback": side.feedback,
        "comparisons": labels.get("comparisons"),
        "sources": labels.get("sources"),
        "label_agreement_with_gold": labels.get("agreement_with_gold"),
        "label_agreement_with_gold_ci": labels.get("agreement_with_gold_ci"),
        "order_flip_rate": labels.get("order_flip_rate"),
        "order_flip_rate_ci": labels.get("order_flip_rate_ci"),
        "reward_model_accuracy": reward.get("heldout_accuracy"),
        "reward_model_accuracy_ci": reward.get("heldout_accuracy_ci"),
        **{m.key: mean(list(m.values(side.rows, side.reader.responses).values())) for m in METRICS},
        "kl_left_out": sum(row.kl is None for row in rows),
        "seconds": sum(stage.summary.get("seconds", 0.0) for stage in side.reader.stages),
        "seed": side.reader.run.config.seed,
        "constitution": side.reader.run.constitution.hash,
    }


def _run_warnings(sides: Sequence[ComparedRun]) -> list[str]:
    return [f"{side.name}: {warned.found}" for side in sides for warned in run_warnings(side.reader)]


class ArmComparison:
    """One arm against another: `data` is the comparison as `rlaif compare --json` prints it."""

    def __init__(
        self, a: Arm, b: Arm, constitution: Constitution, judge: ModelConfig | None, progress: Any
    ) -> None:
        self.a, self.b, self.constitution, self.notes = a, b, constitution, []
        shared = sorted(i for i in set(a.rows) & set(b.rows) if i in a.first.reader.prompts)
        self.prompts = [a.first.reader.prompts[i] for i in shared]
        self.clusters = {prompt.id: prompt.cluster for prompt in self.prompts}
        self.labels = self._labels()
        if not shared and not self.labels["shared"]:
            raise UserError(
                f"{a.name} and {b.name} share no held-out prompt and no labelled comparison.",
                "two runs on the same prompts",
            )
        self.differs = differences(a.first.reader, b.first.reader)
        self.same = same_experiment(self.differs)
        self._note_scope()
        self.gold = self._gold() if self.prompts else None
        self.data = self._compare(judge, progress)

    def _note_scope(self) -> None:
        for arm in (self.a, self.b):
            if not arm.rows:
                self.notes.append(f"No policy of {arm.name} has been evaluated, so only labels are compared.")
            elif len(arm.rows) > len(self.prompts):
                self.notes.append(
                    f"{len(self.prompts)} of {arm.name}'s {len(arm.rows)} held-out prompts are shared "
                    "and compared; the others are left out."
                )
        if self.differs["constitution"]:
            self.notes.append(
                "The constitutions differ: both runs are measured under all "
                f"{len(self.constitution.principles)} principles of both."
            )

    def _gold(self) -> tuple[list[Table], list[Table]] | None:
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

    def _compare(self, judge: ModelConfig | None, progress: Any) -> dict[str, Any]:
        win = self._win_rate(judge, progress) if self.prompts else NO_WIN_RATE
        data = {
            "prompts": len(self.prompts),
            "between": [self.a.letter, self.b.letter],
            "win_rate": win,
            **(
                {"gold": self._shown(*self.gold), "gold_win_rate": gold_win_rate(*self.gold, self.clusters)}
                if self.gold
                else {}
            ),
            "compliance": self._compliance() if self.prompts else {},
            **{metric.key: self._figure(metric) for metric in METRICS},
            "labels": self.labels,
            "differs": self.differs,
            "same_config": self.same,
        }
        verdict = self._verdict(data)
        return {"verdict": verdict, **data, "notes": [*self.notes, self._covered()]}

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

    def _win_rate(self, judge: ModelConfig | None, progress: Any) -> dict[str, Any]:
        mine = self.a.first.reader.run.config
        if judge is None and not self._same_judge():
            self.notes.append(f"The runs have different judges; the win rate is by {self.a.first.name}'s.")
        try:
            engine = open_engine(judge or mine.feedback)
            templates = Templates.load(mine.templates, self.a.first.reader.run.base)
            matches = match_seeds(self.a.sides, self.b.sides)
            found = judged(matches, self.prompts, Judge(engine, templates), self.constitution, progress)
        except UserError as error:
            self.notes.append(f"No win rate: the judge could not be asked ({error.found}).")
            return NO_WIN_RATE
        flips = found["order_flip_rate"]
        if flips is not None and flips > FLIPS:
            self.notes.append(
                f"The win rate can hardly be trusted: {percent(flips, found['order_flip_rate_ci'])} of "
                "the judge's decided verdicts flip with the order."
            )
        return {**found, "judge_model": (judge or mine.feedback).model}

    def _same_judge(self) -> bool:
        """Whether one model, asked in the same words, judged both arms, wherever it lay and however it was
        run."""
        sides = self.a.first.reader, self.b.first.reader
        named = [reader.metrics("evaluate").get("judge") for reader in sides]
        mine, theirs = named if all(named) else (reader.run.config.feedback for reader in sides)
        return mine == theirs and not self.differs["templates"]

    def _shown(self, a: Sequence[Table], b: Sequence[Table]) -> dict[str, Any]:
        shift = arm_deltas(a, b, self.clusters)
        for change in shift.values():
            change["different"] = change["different"] and not self.same
        means = [
            {
                name: mean(list(mean_over_seeds([table[name] for table in arm]).values()))
                for name in arm[0]
                if all(name in table for table in arm)
            }
            for arm in (a, b)
        ]
        return {self.a.letter: means[0], self.b.letter: means[1], "delta": shift}

    def _compliance(self) -> dict[str, Any]:
        if not self._same_judge():
            self.notes.append("The judge's compliance is not compared: each run was judged by another judge.")
            return {}
        a, b = (
            [compliance(side.rows[prompt.id] for prompt in self.prompts) for side in arm.sides]
            for arm in (self.a, self.b)
        )
        # Under different constitutions "all" would mean different sets of principles.
        left_out = {"all"} if self.differs["constitution"] else set()
        names = [name for name in a[0] if all(name in table for table in (*a, *b)) and name not in left_out]
        kept = [[{name: table[name] for name in names} for table in arm] for arm in (a, b)]
        return self._shown(*kept) if names else {}

    def _figure(self, metric: Metric) -> dict[str, Any]:
        values = [[self._values(metric, side) for side in arm.sides] for arm in (self.a, self.b)]
        means = [mean(list(mean_over_seeds(arm).values())) for arm in values]
        return {
            self.a.letter: means[0],
            self.b.letter: means[1],
            "delta": arm_delta(
                values[0], values[1], self.clusters, bounds=metric.gap if self.prompts else None
            ),
        }

    def _values(self, metric: Metric, side: ComparedRun) -> dict[str, float]:
        return metric.values({p.id: side.rows[p.id] for p in self.prompts}, side.reader.responses)

    def _labels(self) -> dict[str, Any]:
        """How far the two arms' labels agree on the comparisons that both labelled, ties being a verdict of
        their own.

        Of several seeds the first one's labels count.
        """
        a, b = (
            {
                row.comparison_id: verdict_of(row.p_a)
                for row in arm.first.reader.rows(arm.first.reader.last("label"), "preferences", Preference)
            }
            for arm in (self.a, self.b)
        )
        shared = [i for i in a if i in b]
        verdicts = [a[i] for i in shared], [b[i] for i in shared]
        same = [x == y for x, y in zip(*verdicts, strict=True)]
        return {
            "shared": len(shared),
            self.a.letter: len(a),
            self.b.letter: len(b),
            "agreement": agreement(*verdicts),
            "agreement_ci": mean_interval(same, clusters=self._asked(shared)),
            **kappa_interval(*verdicts, self._asked(shared)),
        }

    def _asked(self, comparisons: Sequence[str]) -> list[str]:
        """The cluster of each comparison's prompt."""
        reader = self.a.first.reader
        pairs = reader.lookup(reader.last("pair"), "comparisons", Comparison, "id")
        prompts = [pairs[i].prompt_id if i in pairs else i for i in comparisons]
        return [reader.prompts[i].cluster if i in reader.prompts else i for i in prompts]

    def _question(self) -> str:
        kinds = [arm.first.feedback for arm in (self.a, self.b)]
        if self.same:
            seeds = "two seeds" if "seed" in self.differs["config"] else "one seed"
            return f"{self.a.name} and {self.b.name} are one experiment under {seeds}."
        if kinds[0] != kinds[1]:
            return f"{capital(kinds[0])} or {kinds[1]} feedback?"
        return f"{self.a.name} or {self.b.name}?"

    def _called(self, arm: Arm) -> str:
        kinds = {each.first.feedback for each in (self.a, self.b)}
        return f"{capital(arm.first.feedback)} ({arm.name})" if len(kinds) > 1 else arm.name

    def _verdict(self, data: dict[str, Any]) -> dict[str, Any]:
        measure, change, figures = self._figures(data)
        if measure is None:
            return {
                "winner": None,
                "measure": None,
                "text": f"{self._question()} {figures}",
                "principles": "",
            }
        winner = (self.a if change["value"] > 0 else self.b) if change["different"] else None
        said = f"{self._called(winner)}: {figures}." if winner else f"No difference shown: {figures}."
        more = "A gap of this size is within seed noise." if self.same else self._principles(data, measure)
        text = f"{self._question()} {said}"
        return {"winner": winner and winner.letter, "measure": measure, "text": text, "principles": more}

    def _figures(self, data: dict[str, Any]) -> tuple[str | None, dict[str, Any], str]:
        """(what decides, its change, the figures in words): gold where there is one, otherwise the judge."""
        shift, win = data.get("gold", {}).get("delta", {}).get("all"), data["win_rate"]
        if shift:
            mine, theirs = (fixed(data["gold"][arm.letter]["all"]) for arm in (self.a, self.b))
            return (
                "gold",
                shift,
                (
                    f"{self.a.name} keeps every principle in {mine} of {len(self.prompts)} held-out "
                    "responses and "
                    f"{self.b.name} in {theirs}, {signed(shift['value'])} {ci(shift['ci'])}"
                ),
            )
        if win["n"]:
            change = {"value": win["value"] - 0.5, "different": win["different"] and not self.same}
            return (
                "judge",
                change,
                (
                    f"the judge prefers {self.a.name} in {fixed(win['value'])} {ci(win['ci'])} of "
                    f"{win['n']} held-out responses, ties ({fixed(win['ties'])} {ci(win['ties_ci'])}) "
                    "counting half; "
                    f"of its decided verdicts {fixed(win['order_flip_rate'])} "
                    f"{ci(win['order_flip_rate_ci'])} flip with the order"
                ),
            )
        if not self.prompts:
            shared = self.labels
            return (
                None,
                {},
                (
                    f"Their labels agree in {fixed(shared['agreement'])} {ci(shared['agreement_ci'])} of "
                    f"the {shared['shared']} comparisons "
                    f"that both labelled (Cohen's kappa {fixed(shared['kappa'])} {ci(shared['kappa_ci'])})."
                ),
            )
        return None, {}, "There is neither gold nor a judge to say."

    def _principles(self, data: dict[str, Any], measure: str) -> str:
        table = (data.get("gold") if measure == "gold" else data["compliance"]) or {}
        apart = [
            f"{name} ({signed(change['value'])})"
            for name, change in table.get("delta", {}).items()
            if change["different"] and name != "all"
        ]
        return (
            f"Principles that differ: {', '.join(apart)}."
            if apart
            else "No single principle differs clearly."
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
                    if name in table
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
