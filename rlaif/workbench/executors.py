"""The whole of `rlaif constitution executors`: pairs, stored and asked labels, people's labels, then the
comparison."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlaif.audit.cases import from_examples
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.human.labelled import grouped, judge_of
from rlaif.records import Label
from rlaif.runs.folder import silent_progress
from rlaif.workbench.executor_agreement import PEOPLE, Verdicts, compared, flips_of, read_labels
from rlaif.workbench.pairs import LabelledPairs, drawn, judge_labels, of_this_wording, open_judge, read_pairs

SHORT = 34  # characters of an executor's name


@dataclass(frozen=True)
class Sources:
    """What executors are compared on and who they are: runs or folders with pairs, people's labels, judges to
    ask, by which templates, about how many pairs; what is asked is kept in `keep`."""

    judges: tuple[str, ...] = ()
    runs: tuple[Path, ...] = ()
    labels: Path | None = None
    overrides: tuple[str, ...] = ()
    templates: str | None = None
    pairs: int = 200
    seed: int = 0
    keep: Path | None = None


def executors(file: Path, how: Sources, progress: Any = silent_progress) -> dict[str, Any]:
    """The figures of `compared`, with the texts of their examples.

    Raises UserError where fewer than two executors have labels on the same pairs.
    """
    constitution = Constitution.load(file)
    paths = [*how.runs, *([how.labels] if how.labels else [])]
    sources = [read_pairs(path) for path in paths]
    questions = _questions(sources, constitution, how)
    clusters = {name: question.prompt.cluster for name, question in questions.items()}
    left_out = sum((source.left_out for source in sources), Counter[str]())
    stored = stored_labels(sources, constitution, questions, left_out)
    by = _by_executor(stored, sources)
    known: dict[frozenset[Any], str] = {}
    require_different(how.judges)
    for what in how.judges:
        judge = _opened(what, how, constitution, sources)
        asks = frozenset(judge.expected_slots(list(questions.values())))
        if asks and known.setdefault(asks, what) != what:
            left_out[f"label of {what}, which is the same judge as {known[asks]}"] += len(asks)
            continue
        labels = judge_labels(judge, list(questions.values()), stored, how.keep, progress)
        anew = {judge_of(row) for rows in labels.values() for row in rows}
        by = {who: rows for who, rows in by.items() if not _judges(rows) & anew}
        by[free_name(Path(what).name[:SHORT], by)] = labels
    verdicts: Verdicts = {who: read_labels(rows, constitution) for who, rows in by.items()}
    flips = {who: flips_of(rows, constitution.ids, clusters) for who, rows in by.items()}
    figures = compared(verdicts, constitution, clusters, flips)
    if not figures["principles"] and figures["whole"] is None:
        raise _nothing_in_common(file, by)
    for row in [*figures["principles"], *([figures["whole"]] if figures["whole"] else [])]:
        for example in row["examples"]:
            question = questions[example["comparison_id"]]
            said = question.prompt.messages[-1].content
            example.update({"prompt": said, "a": question.a, "b": question.b})
    return {**figures, "left_out": dict(+left_out)}


def _nothing_in_common(file: Path, by: Mapping[str, Mapping[str, Sequence[Label]]]) -> UserError:
    """What each executor's labels hold, where no two have verdicts on the same pairs."""
    held = []
    for who, rows in by.items():
        labels = [label for of_pair in rows.values() for label in of_pair]
        read = sum(label.p_a is not None for label in labels)
        held.append(f"{who}: {read} of {len(labels)} labels can be read")
    return UserError(
        f"{file}: {len(by)} executors have no verdicts on the same pairs ({'; '.join(held) or 'no labels'}).",
        "two executors or more: judges, runs that were labelled by these principles, people's labels",
        "add --judge with another model, or --run RUN; a judge of which nothing can be read needs other "
        "templates (--templates) or is no judge",
    )


def _questions(
    sources: Sequence[LabelledPairs], constitution: Constitution, how: Sources
) -> dict[str, JudgeQuestion]:
    """The pairs to be judged by their ids: those that people or stored labels speak of first; without any
    source the constitution's own examples, each under all principles."""
    found: dict[str, JudgeQuestion] = {}
    for source in sources:
        known = [pair for pair in source.comparisons if source.labels.get(pair)] or list(source.comparisons)
        for pair in drawn(known, how.pairs, how.seed):
            found.setdefault(pair, source.question(pair, constitution.principles))
    if sources:
        return found
    for case in from_examples(constitution, how.seed):
        question = replace(case.question, principles=constitution.principles)
        found.setdefault(question.comparison.id, question)
    if not found:
        raise UserError(
            "No pairs: the constitution has no examples.", "pairs that executors can judge", "add --run RUN"
        )
    return found


def stored_labels(
    sources: Sequence[LabelledPairs],
    constitution: Constitution,
    questions: Collection[str],
    left_out: Counter[str],
) -> list[Label]:
    """The stored labels of whole comparisons, and those under principles as they are worded here."""
    known = {p.id: p for p in constitution.principles}
    found: dict[str, Label] = {}
    for source in sources:
        templates = source.templates  # which are read from their files anew
        for pair in source.comparisons:
            for row in source.labels.get(pair, ()) if pair in questions else ():
                principle = known.get(row.principle_id or "")
                if row.principle_id is None or (principle and of_this_wording(row, principle, templates)):
                    found[row.id] = row
                else:
                    left_out["label under another wording or principle"] += 1
    return list(found.values())


def _by_executor(
    labels: Sequence[Label], sources: Sequence[LabelledPairs]
) -> dict[str, dict[str, list[Label]]]:
    """Labels by executor and comparison; people are one executor, each judge one of its own."""
    people = [row for row in labels if row.annotator.kind != "ai"]
    found = {PEOPLE: people} if people else {}
    return {who: grouped(rows) for who, rows in {**found, **stored_judges(labels, sources)}.items()}


def stored_judges(
    labels: Sequence[Label], sources: Sequence[LabelledPairs], short: int | None = None
) -> dict[str, list[Label]]:
    """Judges' labels by a name for each; one model that was asked in several ways is several judges, named
    with their templates where a source has these."""
    by: defaultdict[tuple[str, ...], list[Label]] = defaultdict(list)
    for row in labels:
        if row.annotator.kind == "ai":
            by[judge_of(row)].append(row)
    ways = Counter(id for id, *_ in by)
    kept = [source.templates for source in sources]
    names = {own.hash(kind): own.name for own in kept if own for kind in ("comparison", "comparison_cot")}
    found: dict[str, list[Label]] = {}
    for (id, template, *_), rows in by.items():
        several = ways[id] > 1 and template in names
        found[free_name(f"{id[:short]} · {names[template]}" if several else id[:short], found)] = rows
    return found


def _judges(rows: Mapping[str, Sequence[Label]]) -> set[tuple[str, ...]]:
    """The judges among an executor's labels."""
    return {judge_of(row) for own in rows.values() for row in own if row.annotator.kind == "ai"}


def _opened(what: str, how: Sources, constitution: Constitution, sources: Sequence[LabelledPairs]) -> Judge:
    """A judge, asked as the run is where there is one."""
    run = next((source for source in sources if source.templates), None)
    return open_judge(what, how.overrides, constitution, how.templates, run)


def require_different(judges: Sequence[str]) -> None:
    """UserError for a judge that is named twice: it would agree with itself, and with nobody more than
    that."""
    double = [what for what, n in Counter(judges).items() if n > 1]
    if double:
        raise UserError(f"{double[0]}: named twice.", "each judge once", "leave one out, or name another one")


def free_name(name: str, taken: dict[str, Any]) -> str:
    """The name, numbered where another executor has it."""
    number = 2
    while name in taken:
        name, number = f"{name.partition(' #')[0]} #{number}", number + 1
    return name
