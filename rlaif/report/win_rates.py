"""Two policies' responses to the same prompts, judged against each other: by the feedback model and by
gold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlaif.constitution import Constitution
from rlaif.equal_length import Controlled, length_controlled
from rlaif.feedback.gold import load_gold, with_all
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.feedback.preferences import aggregate, combine_orders, order_statistics
from rlaif.intervals import (
    NAN,
    UNIT,
    Interval,
    WinRate,
    clip_interval,
    mean_interval,
    seed_chance,
    seed_reuse_factor,
    shown,
    spread_out,
    win_rate,
    with_seed_variance,
)
from rlaif.records import TIE_MARGIN, Comparison, Label, Prompt
from rlaif.report.arms import ComparedRun
from rlaif.report.measures import Clusters, Table, clusters_of, gold, table
from rlaif.runs.folder import silent_progress
from rlaif.stats import mean, outcomes

T = TypeVar("T")
Seeds = tuple[int, int]  # how many runs either arm has


def all_principles(constitutions: Sequence[Constitution]) -> Constitution:
    """All principles of all runs, so that each is measured on each side.

    A principle is its id and text: an id that stands for another text in a later run gets that run's number
    appended.
    """
    found = {p.id: p for p in constitutions[0].principles}
    for number, constitution in enumerate(constitutions[1:], 2):
        for p in constitution.principles:
            same_id = [q for q in found.values() if q.id == p.id or q.id.startswith(f"{p.id}.run")]
            if not any(q.text == p.text for q in same_id):
                name = f"{p.id}.run{number}" if same_id else p.id
                found[name] = p.model_copy(update={"id": name})
    first = constitutions[0]
    return Constitution(name=first.name, version=first.version, principles=tuple(found.values()))


def gold_table(side: ComparedRun, prompts: Sequence[Prompt], constitution: Constitution) -> Table:
    """Gold of a side under the united constitution; from its own rows where that is its own constitution."""
    rows = [side.rows[prompt.id] for prompt in prompts]
    spec = side.reader.run.config.gold
    if constitution.principles == side.reader.run.constitution.principles or spec is None:
        return gold(rows)
    score = load_gold(spec, constitution)
    assert score is not None
    kept = ((p.id, with_all(score(p, side.response(p.id).text))) for p in prompts)
    return table((prompt_id, {key: float(ok) for key, ok in values.items()}) for prompt_id, values in kept)


@dataclass(frozen=True)
class Verdicts:
    """What a judge said of two arms' responses, a row a match of seeds: P(the first arm's is better), None
    where it could not be read."""

    prompts: Sequence[Prompt]
    questions: Sequence[Sequence[JudgeQuestion]]
    labels: Mapping[str, list[Label]]
    p: Sequence[Sequence[float | None]]
    longer: Sequence[Sequence[int]]  # tokens by which the first arm's response is longer
    judge: str  # fingerprint
    seeds: Seeds = (1, 1)

    @property
    def outcomes(self) -> list[dict[str, float]]:
        """Match → prompt → 1, ½ or 0, of those that could be read."""
        return [
            {
                prompt.id: float(outcomes([chance])[0])
                for prompt, chance in zip(self.prompts, row, strict=True)
                if chance is not None
            }
            for row in self.p
        ]


def ask(
    matches: Sequence[tuple[ComparedRun, ComparedRun]],
    prompts: Sequence[Prompt],
    judge: Judge,
    constitution: Constitution,
    progress: Any = silent_progress,
) -> Verdicts:
    """The judge's verdicts on both arms' responses, in both orders and under every principle.

    `matches` are the pairs of runs that are set against each other: one, or several seeds of the two arms.
    Equal texts are ties and cost no call; prompts to which no principle of any weight applies are left out.
    """
    prompts = [prompt for prompt in prompts if any(p.weight for p in constitution.applicable(prompt.tags))]
    questions = [[_question(a, b, prompt, constitution) for prompt in prompts] for a, b in matches]
    labels = _labels(judge, [q for row in questions for q in row if q.a != q.b], progress)
    p = [
        [_p(question, labels[question.comparison.id], constitution) for question in row] for row in questions
    ]
    longer = [[a.rows[prompt.id].tokens - b.rows[prompt.id].tokens for prompt in prompts] for a, b in matches]
    seeds = len({id(a) for a, _ in matches}), len({id(b) for _, b in matches})
    return Verdicts(prompts, questions, labels, p, longer, judge.engine.fingerprint, seeds)


def judged(verdicts: Verdicts, constitution: Constitution) -> dict[str, Any]:
    """A's win rate over B by the judge in both orders, overall and under each principle, with warnings.

    `length_controlled` is the win rate expected at equal length.
    """
    flat = [question for row in verdicts.questions for question in row]
    clusters = [prompt.cluster for prompt in verdicts.prompts]
    statistics = _order_statistics(verdicts.questions, verdicts.labels, verdicts.seeds)
    return {
        **judge_win_rate(verdicts),
        "judge": verdicts.judge,
        "length_controlled": _at_equal_length(verdicts.p, verdicts.longer, clusters, verdicts.seeds),
        "identical": sum(question.a == question.b for question in flat),
        **{key: statistics[key] for key in ("verdicts", "order_flip_rate", "order_flip_rate_ci", "mass")},
        "by_principle": _by_principle(
            verdicts.questions, dict(verdicts.labels), constitution, verdicts.seeds
        ),
    }


def judge_win_rate(verdicts: Verdicts, tests: int = 1) -> WinRate:
    """A's win rate over B by the judge, in both orders and under all principles."""
    clusters = [prompt.cluster for prompt in verdicts.prompts]
    return _win_rate(verdicts.p, [clusters] * len(verdicts.p), tests, verdicts.seeds)


def _at_equal_length(
    p: Sequence[Sequence[float | None]],
    longer: Sequence[Sequence[int]],
    clusters: Sequence[str],
    seeds: Seeds = (1, 1),
) -> Controlled:
    """`length_controlled` of all matches; where there are several its interval covers their spread, too, and
    is missing where one of them alone allows no figure."""
    rows = [
        [(x, d, key) for x, d, key in zip(*row, clusters, strict=True) if x is not None]
        for row in zip(p, longer, strict=True)
    ]

    def controlled(read: Sequence[tuple[float, int, str]]) -> Controlled:
        return length_controlled(
            outcomes([x for x, *_ in read]), [d for _, d, _ in read], [key for *_, key in read]
        )

    found = controlled([each for row in rows for each in row])
    if found["reason"] is not None or len(rows) == 1:
        return found
    means = [controlled(row)["value"] for row in rows]
    if not all(map(math.isfinite, means)):  # their spread cannot be told
        return {**found, "ci": (NAN, NAN)}
    spread = spread_out(means, seed_reuse_factor(seeds))
    edges = with_seed_variance(found["value"], found["ci"], spread, groups=len(set(clusters)))
    return {**found, "ci": clip_interval(edges, UNIT)}


def _order_statistics(
    questions: Sequence[Sequence[JudgeQuestion]], labels: Mapping[str, list[Label]], seeds: Seeds = (1, 1)
) -> dict[str, Any]:
    """`order_statistics` of all matches; the interval of flips covers their spread, too, where there are
    several."""
    clusters = {question.comparison.id: question.prompt.cluster for row in questions for question in row}
    found = order_statistics([label for own in labels.values() for label in own], clusters)
    if found["order_flip_rate"] is None:
        return found
    rows = ([x for q in row if q.a != q.b for x in labels[q.comparison.id]] for row in questions)
    rates = [rate for row in rows if (rate := order_statistics(row)["order_flip_rate"]) is not None]
    spread = spread_out(rates, seed_reuse_factor(seeds)) if len(rates) == len(questions) else rates
    edges = with_seed_variance(found["order_flip_rate"], found["order_flip_rate_ci"], spread)
    return {**found, "order_flip_rate_ci": clip_interval(edges, UNIT)}


def _win_rate(
    matches: Sequence[Sequence[float | None]],
    clusters: Sequence[Sequence[str]],
    tests: int = 1,
    seeds: Seeds = (1, 1),
) -> WinRate:
    """The win rate over all matches, each a row of probabilities with the clusters of their prompts; its
    interval covers these, and `seeds` where several. `different` is at a level corrected for `tests`.
    """
    flat, keys = [p for row in matches for p in row], [key for row in clusters for key in row]
    again = seed_reuse_factor(seeds)
    means = spread_out([win_rate(row)["value"] for row in matches], again)
    groups, chance = len({key for row in clusters for key in row}), _chance(matches, clusters, seeds)
    found = win_rate(flat, keys)

    def joined(edges: Interval, level: float = 0.95) -> Interval:
        return with_seed_variance(found["value"], edges, means, chance=chance, groups=groups, level=level)

    level = 1 - 0.05 / tests
    read = [at for at, p in enumerate(flat) if p is not None]
    wins, of = outcomes([flat[at] or 0.0 for at in read]), [keys[at] for at in read]
    strict = mean_interval(wins, UNIT, of, level) if read else (NAN, NAN)
    apart = shown(wins - 0.5, (strict[0] - 0.5, strict[1] - 0.5), of, 0.05 / tests)
    lower, upper = joined(strict, level)
    unread = [[float(p is None) for p in row] for row in matches]
    tied = [[None if p is None else float(abs(p - 0.5) <= TIE_MARGIN) for p in row] for row in matches]

    def over_seeds(share: float, edges: Interval, rows: Sequence[Sequence[float | None]]) -> Interval:
        each = spread_out([mean([x for x in row if x is not None]) for row in rows], again)
        alike = _chance(rows, clusters, seeds)
        return clip_interval(with_seed_variance(share, edges, each, chance=alike, groups=groups), UNIT)

    return {
        **found,
        "ci": clip_interval(joined(found["ci"]), UNIT),
        "ties_ci": over_seeds(found["ties"], found["ties_ci"], tied),
        "invalid_ci": over_seeds(found["invalid"], found["invalid_ci"], unread),
        "different": apart and (lower > 0.5 or upper < 0.5),
    }


def _chance(
    seeds: Sequence[Sequence[float | None]], clusters: Sequence[Sequence[str]], of: Seeds = (1, 1)
) -> float:
    """`seed_chance` of the prompts that could be read in every match; 0 where matches hold different
    prompts."""
    if any(list(row) != list(clusters[0]) for row in clusters):
        return 0.0
    read = [at for at in range(len(clusters[0])) if all(row[at] is not None for row in seeds)]
    table = [outcomes([row[at] or 0.0 for at in read]) for row in seeds]
    return min(1.0, seed_reuse_factor(of) * seed_chance(table, clusters=[clusters[0][at] for at in read]))


def _question(a: ComparedRun, b: ComparedRun, prompt: Prompt, constitution: Constitution) -> JudgeQuestion:
    mine, theirs = a.response(prompt.id), b.response(prompt.id)
    pair = Comparison(prompt_id=prompt.id, a=mine.id, b=theirs.id)
    return JudgeQuestion(pair, prompt, mine.text, theirs.text, tuple(constitution.applicable(prompt.tags)))


def _labels(judge: Judge, questions: Sequence[JudgeQuestion], progress: Any) -> dict[str, list[Label]]:
    labels: dict[str, list[Label]] = defaultdict(list)
    total = 2 * sum(len(question.principles) for question in questions)
    with progress("judging the responses side by side", total) as tick:
        for batch in judge.compare(questions):
            for label in batch:
                labels[label.comparison_id].append(label)
            tick(len(batch))
    return labels


def _p(question: JudgeQuestion, labels: Sequence[Label], constitution: Constitution) -> float | None:
    if question.a == question.b:
        return 0.5
    found = aggregate(labels, constitution)
    return None if found is None else found[0]


def _by_principle(
    questions: Sequence[Sequence[JudgeQuestion]],
    labels: dict[str, list[Label]],
    constitution: Constitution,
    seeds: Seeds = (1, 1),
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in constitution.ids:
        asked = [[question for question in row if name in _asked(question)] for row in questions]
        rows = [[_p_win(name, question, labels[question.comparison.id]) for question in row] for row in asked]
        if any(rows):
            keys = [[question.prompt.cluster for question in row] for row in asked]
            found[name] = _win_rate(rows, keys, seeds=seeds)
    return found


def _asked(question: JudgeQuestion) -> set[str]:
    return {principle.id for principle in question.principles}


def _p_win(name: str, question: JudgeQuestion, labels: Sequence[Label]) -> float | None:
    """P(A's response is better) under one principle; None where it could not be read."""
    if question.a == question.b:
        return 0.5
    return {principle: p for (_, principle), p in combine_orders(labels).items()}.get(name)


def gold_win_rate(a: Sequence[Table], b: Sequence[Table], clusters: Clusters, tests: int = 1) -> WinRate:
    """A's win rate over B by the number of principles kept, equals being ties; one table a seed, matched in
    order. `different` is at a level corrected for `tests` that are looked at together (Bonferroni)."""
    found = gold_outcomes(a, b)
    return _win_rate(
        [list(row.values()) for row in found],
        [clusters_of(row, clusters) for row in found],
        tests,
        (len(a), len(b)),
    )


def gold_outcomes(a: Sequence[Table], b: Sequence[Table]) -> list[dict[str, float]]:
    """Match → prompt → 1, ½ or 0: whether A's response keeps more, as many or fewer principles than B's."""
    rows = []
    for mine, theirs in match_seeds(a, b):
        both = [prompt for prompt in mine.get("all", {}) if prompt in theirs.get("all", {})]
        leads = {prompt: _lead(mine, theirs, prompt) for prompt in both}
        rows.append({prompt: 0.5 + 0.5 * ((lead > 0) - (lead < 0)) for prompt, lead in leads.items()})
    return rows


def match_seeds(a: Sequence[T], b: Sequence[T]) -> list[tuple[T, T]]:
    """The seeds of two arms set against each other in order; the shorter arm's are taken again from the
    start."""
    return [(a[i % len(a)], b[i % len(b)]) for i in range(max(len(a), len(b)))]


def _lead(mine: Table, theirs: Table, prompt: str) -> float:
    """How many more principles one side keeps, among those that have gold on both."""
    shared = [n for n in mine if n != "all" and prompt in mine[n] and prompt in theirs.get(n, {})]
    return sum(mine[name][prompt] - theirs[name][prompt] for name in shared)
