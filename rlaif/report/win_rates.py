"""Two policies' responses to the same prompts, judged against each other: by the feedback model and by
gold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from rlaif.constitution import Constitution
from rlaif.feedback.gold import load_gold, with_all
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.feedback.preferences import aggregate, combine_orders, order_statistics
from rlaif.intervals import (
    UNIT,
    Interval,
    WinRate,
    clip_interval,
    length_controlled,
    seed_chance,
    win_rate,
    with_seed_variance,
)
from rlaif.records import TIE_MARGIN, Comparison, Label, Prompt
from rlaif.report.arms import ComparedRun
from rlaif.report.measures import Clusters, Table, clusters_of, gold, table
from rlaif.runs.folder import silent_progress
from rlaif.stats import mean, outcomes

T = TypeVar("T")


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


def judged(
    matches: Sequence[tuple[ComparedRun, ComparedRun]],
    prompts: Sequence[Prompt],
    judge: Judge,
    constitution: Constitution,
    progress: Any = silent_progress,
) -> dict[str, Any]:
    """A's win rate over B by the judge in both orders, overall and under each principle, with warnings.

    `matches` are the pairs of runs that are set against each other: one, or several seeds of the two arms.
    Equal texts are ties and cost no call. `length_controlled` is the win rate expected at equal length.
    """
    questions = [[_question(a, b, prompt, constitution) for prompt in prompts] for a, b in matches]
    flat = [question for row in questions for question in row]
    different = [question for question in flat if question.a != question.b]
    labels = _labels(judge, different, progress)
    p = [
        [_p(question, labels[question.comparison.id], constitution) for question in row] for row in questions
    ]
    longer = [[a.rows[prompt.id].tokens - b.rows[prompt.id].tokens for prompt in prompts] for a, b in matches]
    read = [
        (x, d, prompt.cluster)
        for chances, gaps in zip(p, longer, strict=True)
        for x, d, prompt in zip(chances, gaps, prompts, strict=True)
        if x is not None
    ]
    statistics = _order_statistics(questions, labels)
    return {
        **_win_rate(p, [[prompt.cluster for prompt in prompts]] * len(p)),
        "judge": judge.engine.fingerprint,
        "length_controlled": length_controlled(
            outcomes([x for x, *_ in read]), [d for _, d, _ in read], [c for *_, c in read]
        ),
        "identical": len(flat) - len(different),
        **{key: statistics[key] for key in ("verdicts", "order_flip_rate", "order_flip_rate_ci", "mass")},
        "by_principle": _by_principle(questions, labels, constitution),
    }


def _order_statistics(
    questions: Sequence[Sequence[JudgeQuestion]], labels: Mapping[str, list[Label]]
) -> dict[str, Any]:
    """`order_statistics` of all matches; the interval of flips covers their spread, too, where there are
    several."""
    clusters = {question.comparison.id: question.prompt.cluster for row in questions for question in row}
    found = order_statistics([label for own in labels.values() for label in own], clusters)
    if found["order_flip_rate"] is None:
        return found
    rows = ([x for q in row if q.a != q.b for x in labels[q.comparison.id]] for row in questions)
    rates = [rate for row in rows if (rate := order_statistics(row)["order_flip_rate"]) is not None]
    edges = with_seed_variance(found["order_flip_rate"], found["order_flip_rate_ci"], rates)
    return {**found, "order_flip_rate_ci": clip_interval(edges, UNIT)}


def _win_rate(seeds: Sequence[Sequence[float | None]], clusters: Sequence[Sequence[str]]) -> WinRate:
    """The win rate over all matches, each a row of probabilities with the clusters of their prompts; its
    interval covers these, and seeds where several.
    """
    found = win_rate([p for row in seeds for p in row], [key for row in clusters for key in row])
    means = [win_rate(row)["value"] for row in seeds]
    groups = len({key for row in clusters for key in row})
    low, high = with_seed_variance(
        found["value"], found["ci"], means, chance=_chance(seeds, clusters), groups=groups
    )
    unread = [[float(p is None) for p in row] for row in seeds]
    tied = [[None if p is None else float(abs(p - 0.5) <= TIE_MARGIN) for p in row] for row in seeds]

    def over_seeds(share: float, edges: Interval, rows: Sequence[Sequence[float | None]]) -> Interval:
        each = [mean([x for x in row if x is not None]) for row in rows]
        return clip_interval(
            with_seed_variance(share, edges, each, chance=_chance(rows, clusters), groups=groups), UNIT
        )

    return {
        **found,
        "ci": (low, high),
        "ties_ci": over_seeds(found["ties"], found["ties_ci"], tied),
        "invalid_ci": over_seeds(found["invalid"], found["invalid_ci"], unread),
        "different": found["different"] and not low <= 0.5 <= high,
    }


def _chance(seeds: Sequence[Sequence[float | None]], clusters: Sequence[Sequence[str]]) -> float:
    """`seed_chance` of the prompts that could be read in every match; 0 where matches hold different
    prompts."""
    if any(list(row) != list(clusters[0]) for row in clusters):
        return 0.0
    read = [at for at in range(len(clusters[0])) if all(row[at] is not None for row in seeds)]
    table = [outcomes([row[at] or 0.0 for at in read]) for row in seeds]
    return seed_chance(table, clusters=[clusters[0][at] for at in read])


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
    questions: Sequence[Sequence[JudgeQuestion]], labels: dict[str, list[Label]], constitution: Constitution
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in constitution.ids:
        asked = [[question for question in row if name in _asked(question)] for row in questions]
        rows = [[_p_win(name, question, labels[question.comparison.id]) for question in row] for row in asked]
        if any(rows):
            found[name] = _win_rate(rows, [[question.prompt.cluster for question in row] for row in asked])
    return found


def _asked(question: JudgeQuestion) -> set[str]:
    return {principle.id for principle in question.principles}


def _p_win(name: str, question: JudgeQuestion, labels: Sequence[Label]) -> float | None:
    """P(A's response is better) under one principle; None where it could not be read."""
    if question.a == question.b:
        return 0.5
    return {principle: p for (_, principle), p in combine_orders(labels).items()}.get(name)


def gold_win_rate(a: Sequence[Table], b: Sequence[Table], clusters: Clusters) -> WinRate:
    """A's win rate over B by the number of principles kept, equals being ties; one table a seed, matched in
    order."""
    rows, of = [], []
    for mine, theirs in match_seeds(a, b):
        both = [prompt for prompt in mine.get("all", {}) if prompt in theirs.get("all", {})]
        leads = [_lead(mine, theirs, prompt) for prompt in both]
        rows.append([0.5 + 0.5 * ((lead > 0) - (lead < 0)) for lead in leads])
        of.append(clusters_of(both, clusters))
    return _win_rate(rows, of)


def match_seeds(a: Sequence[T], b: Sequence[T]) -> list[tuple[T, T]]:
    """The seeds of two arms set against each other in order; the shorter arm's are taken again from the
    start."""
    return [(a[i % len(a)], b[i % len(b)]) for i in range(max(len(a), len(b)))]


def _lead(mine: Table, theirs: Table, prompt: str) -> float:
    """How many more principles one side keeps, among those that have gold on both."""
    shared = [n for n in mine if n != "all" and prompt in mine[n] and prompt in theirs.get(n, {})]
    return sum(mine[name][prompt] - theirs[name][prompt] for name in shared)
