"""Two policies' replies to the same prompts, judged against each other: by the feedback model and by gold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.comparing.evidence import Evidence
from rlaif.comparing.measures import Table, gold, table
from rlaif.constitution import Constitution
from rlaif.gold import load_gold, with_all
from rlaif.judge import Judge, Question
from rlaif.preferences import aggregate, combine_orders, order_statistics
from rlaif.records import Comparison, Evaluation, Label, Prompt, Response
from rlaif.runfolder import silent_progress
from rlaif.stats import WinRate, length_controlled, outcomes, win_rate


@dataclass(frozen=True)
class Side:
    """A run in a comparison: its letter, its last policy and that policy's evaluated replies by prompt."""

    letter: str
    name: str
    evidence: Evidence
    policy: str
    rows: dict[str, Evaluation]

    def response(self, prompt_id: str) -> Response:
        """The last policy's reply to a prompt."""
        return self.evidence.responses[self.rows[prompt_id].response_id]


def united(constitutions: Sequence[Constitution]) -> Constitution:
    """All principles of all runs, so that each is measured on each side.

    A principle is its id and text: an id that stands for another text in a later run gets that run's number appended.
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


def gold_table(side: Side, prompts: Sequence[Prompt], constitution: Constitution) -> Table:
    """Gold of a side under the united constitution; from its own rows where that is its own constitution."""
    rows = [side.rows[prompt.id] for prompt in prompts]
    spec = side.evidence.run.config.gold
    if constitution.principles == side.evidence.run.constitution.principles or spec is None:
        return gold(rows)
    score = load_gold(spec, constitution)
    assert score is not None
    kept = ((p.id, with_all(score(p, side.response(p.id).text))) for p in prompts)
    return table((prompt_id, {key: float(ok) for key, ok in values.items()}) for prompt_id, values in kept)


def judged(a: Side, b: Side, prompts: Sequence[Prompt], judge: Judge, constitution: Constitution,
           progress: Any = silent_progress) -> dict[str, Any]:  # fmt: skip
    """A's win rate over B by the judge in both orders, overall and under each principle, with what to doubt.

    Equal texts are ties and cost no call. `length_controlled` is the win rate expected at equal length.
    """
    questions = [_question(a, b, prompt, constitution) for prompt in prompts]
    different = [question for question in questions if question.a != question.b]
    labels = _labels(judge, different, progress)
    p = {
        question.prompt.id: _p(question, labels[question.comparison.id], constitution)
        for question in questions
    }
    read = [(x, a.rows[i].tokens - b.rows[i].tokens) for i, x in p.items() if x is not None]
    everything = [label for rows in labels.values() for label in rows]
    statistics = order_statistics(everything)
    return {
        **win_rate(list(p.values())),
        "judge": judge.engine.fingerprint,
        "length_controlled": length_controlled(outcomes([x for x, _ in read]), [d for _, d in read]),
        "identical": len(questions) - len(different),
        **{key: statistics[key] for key in ("verdicts", "order_flip_rate", "mass")},
        "by_principle": _by_principle(questions, labels, constitution),
    }  # fmt: skip


def _question(a: Side, b: Side, prompt: Prompt, constitution: Constitution) -> Question:
    mine, theirs = a.response(prompt.id), b.response(prompt.id)
    pair = Comparison(prompt_id=prompt.id, a=mine.id, b=theirs.id)
    return Question(pair, prompt, mine.text, theirs.text, tuple(constitution.applicable(prompt.tags)))


def _labels(judge: Judge, questions: Sequence[Question], progress: Any) -> dict[str, list[Label]]:
    labels: dict[str, list[Label]] = defaultdict(list)
    total = 2 * sum(len(question.principles) for question in questions)
    with progress("judging the replies side by side", total) as tick:
        for batch in judge.compare(questions):
            for label in batch:
                labels[label.comparison_id].append(label)
            tick(len(batch))
    return labels


def _p(question: Question, labels: Sequence[Label], constitution: Constitution) -> float | None:
    if question.a == question.b:
        return 0.5
    found = aggregate(labels, constitution)
    return None if found is None else found[0]


def _by_principle(
    questions: Sequence[Question], labels: dict[str, list[Label]], constitution: Constitution
) -> dict[str, Any]:
    p: dict[str, list[float | None]] = {name: [] for name in constitution.ids}
    for question in questions:
        read = {name: x for (_, name), x in combine_orders(labels[question.comparison.id]).items()}
        for principle in question.principles:
            p[principle.id].append(0.5 if question.a == question.b else read.get(principle.id))
    return {name: win_rate(values) for name, values in p.items() if values}


def gold_win_rate(a: Table, b: Table) -> WinRate:
    """A's win rate over B by the number of principles kept, equals being ties."""
    mine, theirs = _kept(a), _kept(b)
    return win_rate([0.5 + 0.5 * ((mine[i] > theirs[i]) - (mine[i] < theirs[i])) for i in mine])


def _kept(side: Table) -> dict[str, float]:
    ids = [name for name in side if name != "all"]
    return {prompt: sum(side[name].get(prompt, 0.0) for name in ids) for prompt in side["all"]}
