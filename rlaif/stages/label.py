"""label: the judge's verdict on every comparison, by principle and order, and people's labels beside it.

Labels are rows as they were read. Preferences are arithmetic on them (`rlaif.feedback.preferences`): one
probability an annotator, then mixed by weight; the judge's is clamped where it reasoned first (Constitutional
AI, arXiv 2212.08073, section 4.1: chain-of-thought probabilities saturate, so 40-60 %).

Comparisons are read, judged and written a chunk at a time, and rows are found on disk, so memory does not
grow with their number. A label is known by its pair, principle, template, judge and order: what an earlier
run (`labels_from`) has under the same id is taken over, and the rest of its labels on these pairs is kept in
earlier_labels.jsonl.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from rlaif.audit.gate import check_judge
from rlaif.constitution import Principle
from rlaif.engines import Engine, open_engine
from rlaif.feedback.earlier_labels import TakenOver
from rlaif.feedback.judge import BROKEN, CHUNK, Judge, JudgeQuestion, Slot, slot_of
from rlaif.feedback.label_figures import LabelFigures
from rlaif.feedback.preferences import aggregate, counting, p_a_by_annotator, require_one_rule
from rlaif.human.routing import goes_by_labels, route
from rlaif.human.waiting import People, pause, people_of
from rlaif.options import LabelOptions
from rlaif.options.modes import PAIRWISE
from rlaif.records import Comparison, Label, Preference, Prompt, Response, with_content_id
from rlaif.runs.folder import Stage, label_files
from rlaif.runs.lookup import Lookup, complete_lines
from rlaif.runs.rows import RowFile, pieces, rare_garbage_collection
from rlaif.training.sampling import refuse_none_taken

T = TypeVar("T")


def run(stage: Stage[LabelOptions]) -> None:
    """Write labels.jsonl and, computed from them, preferences.jsonl."""
    with rare_garbage_collection():
        _run(stage)


def _run(stage: Stage[LabelOptions]) -> None:
    pairs = RowFile(stage.input("comparisons"), Comparison)
    total = sum(1 for _ in complete_lines(pairs.path))
    if waiting := pause(stage):
        raise waiting
    questions = Questions(stage, pairs)
    judge = _judge_first(stage, questions, total) if goes_by_labels(stage) else None
    people = people_of(stage, questions) if stage.options.human else People(0, {})
    desk = LabelSource(stage, questions, people.labels, judge)
    path = stage.dir / "preferences.jsonl"
    path.unlink(missing_ok=True)
    require_one_rule(stage, "preferences")
    path.touch()  # from here on people's labels are in
    preferences = RowFile(path, Preference)
    metrics = LabelFigures(stage)
    kept = 0
    try:
        with stage.progress(total, "comparisons") as tick:
            for chunk in questions.chunks():
                labels = desk.labelled(chunk, tick)
                made = [preference(stage, question, labels[question.comparison.id]) for question in chunk]
                preferences.write(row for row in made if row)
                kept += sum(row is not None for row in made)
                for question, row in zip(chunk, made, strict=True):
                    metrics.add(question, labels[question.comparison.id], row)
                tick(len(chunk))
    finally:  # what went wrong is said of a stage that fails, too
        desk.close()
        stage.notes += [BROKEN] if metrics.not_numbers else []
        stage.notes += metrics.by_whom() if stage.options.human else []
    refuse_none_taken(stage, total, kept)
    stage.metrics = metrics.figures() | (desk.taken_over.figures() if stage.options.labels_from else {})
    if human := stage.options.human:
        said = {"route": human.route, "asked": people.asked, "labelled": len(people.labels)}
        stage.metrics["people"] = said
    stage.save("running", **{"in": total, "kept": kept})


def _judge_first(stage: Stage[LabelOptions], questions: Questions, total: int) -> Judge | None:
    """Have the judge label every comparison, and choose by that what people get; the judge, where it was
    opened. Raises Paused where people's labels are not there."""
    source = LabelSource(stage, questions, {})
    if not (stage.dir / "routed.jsonl").exists():
        with stage.progress(total, "comparisons, by the judge") as tick:
            for chunk in questions.chunks():
                source.labelled(chunk, tick)
                tick(len(chunk))
        route(stage)
    if waiting := pause(stage, judged=True):
        raise waiting
    return source.opened


class Questions:
    """The comparisons of a stage with their texts and principles, read from disk as they are asked for."""

    def __init__(self, stage: Stage[LabelOptions], pairs: RowFile[Comparison]) -> None:
        self.stage, self.pairs = stage, pairs
        self.texts = Lookup(stage.files("responses"), Response)
        self.prompts = Lookup(stage.files("prompts"), Prompt)
        names = stage.options.principles
        self.subset = None if isinstance(names, str) else set(stage.constitution.subset(names))

    def __iter__(self) -> Iterator[JudgeQuestion]:
        return map(self._question, self.pairs)

    def chunks(self) -> Iterator[Sequence[JudgeQuestion]]:
        """Questions a chunk at a time; where all responses to a prompt are shown together, whole prompts."""
        if not self.stage.options.judge_mode.listwise:
            yield from pieces(self, CHUNK)
            return
        groups = Lookup([self.pairs.path], Comparison, "prompt_id")
        firsts = (found for pair in self.pairs if (found := groups.all(pair.prompt_id))[0].id == pair.id)
        for part in pieces(firsts, CHUNK // 8):
            yield [self._question(pair) for group in part for pair in group]

    def _question(self, pair: Comparison) -> JudgeQuestion:
        prompt = self.prompts[pair.prompt_id]
        texts = self.texts[pair.a].text, self.texts[pair.b].text
        return JudgeQuestion(pair, prompt, *texts, self.principles_of(prompt, pair))

    def principles_of(self, prompt: Prompt, pair: Comparison) -> tuple[Principle, ...]:
        """What a comparison is judged by."""
        constitution, options = self.stage.constitution, self.stage.options
        if options.principles == "drawn":
            # Responses that are shown together are judged by one principle.
            key = pair.prompt_id if options.judge_mode.listwise else pair.id
            drawn = constitution.draw(prompt.tags, self.stage.seed, "label", key)
            return (drawn,) if drawn else ()
        applicable = constitution.applicable(prompt.tags)
        return tuple(p for p in applicable if self.subset is None or p in self.subset)


class LabelSource:
    """Where a chunk gets its labels: the stage's own rows, an earlier run's, people's, and the judge's."""

    def __init__(
        self,
        stage: Stage[LabelOptions],
        questions: Questions,
        people: Mapping[str, Sequence[Label]],
        judge: Judge | None = None,
    ) -> None:
        self.stage, self.options, self.questions = stage, stage.options, questions
        self.people, self.opened = people, judge
        self.file = RowFile(stage.dir / "labels.jsonl", Label)
        self.beside = RowFile(stage.dir / "earlier_labels.jsonl", Label)
        self.own = Lookup([self.file.path], Label, "comparison_id")
        self.kept = Lookup([self.beside.path], Label, "comparison_id")
        self.earlier = Lookup(_earlier(self.options.labels_from), Label, "comparison_id")
        self.taken_over = TakenOver()
        self.examined = False
        self.partial = 0  # prompts that are shown whole, though some pairs of their responses are missing

    @property
    def judge(self) -> Judge:
        """The feedback model, opened at the first chunk that it could be asked about."""
        if self.opened is None:
            engine = open_engine(self.stage.config.feedback, self.stage.run.cache, self.stage.account)
            self.opened = judge_of(self.stage, engine)
        return self.opened

    def _examine(self) -> None:
        """Let the judge through the gate, once, before its first label of this stage."""
        if not self.examined:
            # Its card is of its verdicts on pairs, whatever it is asked afterwards. Where verdicts depend on
            # the batch they are read in, those that a cache answers would make another batch
            # after a kill.
            aside = self.judge.engine.batched
            check_judge(self.stage, replace(self.judge, mode=PAIRWISE, aside=aside), self.questions)
        self.examined = True

    def labelled(self, chunk: Sequence[JudgeQuestion], tick: Any) -> dict[str, list[Label]]:
        """The labels that this config asks for, by comparison id; those missing are asked for and written."""
        pairs = [question.comparison.id for question in chunk]
        own = {row.id: row for pair in pairs for row in self.own.all(pair)}
        people = {row.id: row for pair in pairs for row in self.people.get(pair, [])}
        self._write(people.values(), own)
        current = list(people.values())
        if asked := asked_of_judge(self.stage, chunk, self.people):
            self.partial += _partial(asked) if self.options.judge_mode.listwise else 0
            expected = self.judge.expected_slots(asked)
            mine = _current(own.values(), expected)
            given = self._reuse(asked, expected, own)
            current += (mine | given).values()
            if expected - given.keys():
                self._examine()
            for labels in self.judge.compare(asked, mine.keys() - given.keys(), given):
                self._write(labels, own)
                current += labels
                tick(0, f"{len(current)} verdicts on the next {len(chunk)}")
            self._note_example(asked[0])
        found: dict[str, list[Label]] = {pair: [] for pair in pairs}
        # Sorted, so that a continued run adds up in the same order as one that was never interrupted.
        for row in sorted(current, key=lambda row: row.id):
            found[row.comparison_id].append(row)
        return found

    def _reuse(
        self, asked: Sequence[JudgeQuestion], expected: set[Slot], own: dict[str, Label]
    ) -> dict[Slot, Label]:
        """Labels that the earlier run has; its other ones on these pairs are kept beside."""
        given: dict[Slot, Label] = {}
        lines: dict[str, bytes] = {}
        others: dict[str, bytes] = {}
        known: dict[str, list[Slot]] = {}
        for question in asked:
            found = self.earlier.lines(question.comparison.id)
            rows = [(with_content_id(row), line) for row, line in found if row.annotator.kind == "ai"]
            # A score that was not a number is asked again: the server may have been fixed since.
            numbers = [pair for pair in rows if pair[0].reason != Label.NUMBERLESS]
            fresh = {slot: pair for pair in numbers if (slot := slot_of(pair[0])) in expected}
            given |= {slot: row for slot, (row, _) in fresh.items()}
            known[question.comparison.id] = [slot_of(row) for row, _ in rows]
            taken = {row.id: (row, line) for row, line in fresh.values()}
            lines |= {i: _as_read(*pair) for i, pair in taken.items() if i not in own}
            if len(fresh) < len(rows):
                have = taken.keys() | {row.id for row in self.kept.all(question.comparison.id)}
                # Both have one id, so the number comes last, and is the one that is kept.
                best_last = sorted(rows, key=lambda pair: pair[0].reason != Label.NUMBERLESS)
                others |= {row.id: _as_read(row, line) for row, line in best_last if row.id not in have}
        self.file.copy(lines.values())
        own |= {row.id: row for row in given.values() if row.id not in own}
        self.beside.copy(others.values())
        if self.options.labels_from:
            self.taken_over.add(len(given), expected - given.keys(), known)
        return given

    def _write(self, rows: Iterable[Label], own: dict[str, Label]) -> None:
        fresh = {row.id: row for row in rows if row.id not in own}
        self.file.write(fresh.values())
        own.update(fresh)

    def _note_example(self, question: JudgeQuestion) -> None:
        if self.stage.example is None:
            templates = self.stage.templates
            shown = templates.comparison(question.prompt.chat, question.a, question.b)[0]["content"]
            self.stage.note_example(shown + templates.comparison_suffix(question.principles[0]), "")

    def close(self) -> None:
        """Note how many labels came from elsewhere, and how many prompts lack pairs."""
        stage = self.stage
        if self.partial:
            stage.notes.append(
                f"mode: {self.options.mode}: {self.partial} prompts lack some pairs of their responses, so "
                "the one named may be in none of them; pair without per_prompt and limit, or use "
                "mode: pairwise"
            )
        if self.options.labels_from:
            critiqued = any(other.name == "critique" for other in stage.run.stages[: stage.number])
            stage.notes += self.taken_over.notes(self.options.labels_from, critiqued)


def judge_of(stage: Stage[LabelOptions], engine: Engine) -> Judge:
    """The judge as the stage's options and its constitution have it."""
    options, templates = stage.options, stage.templates
    shots = templates.comparison_shots(stage.constitution, options.few_shot)
    cot = options.max_tokens if options.cot else 0
    return Judge(engine, templates, tuple(shots), cot, options.judge_mode)


def asked_of_judge(
    stage: Stage[LabelOptions], questions: Sequence[JudgeQuestion], people: Mapping[str, Sequence[Label]]
) -> list[JudgeQuestion]:
    """The questions that the judge is asked; with `ai: rest` those of whose pairs people's labels say
    nothing, as an abstention and a principle that does not count say nothing, unless what people get goes by
    what the judge says of all."""
    weights, ai = {p.id: p.weight for p in stage.constitution.principles}, stage.options.ai
    ai = True if ai and goes_by_labels(stage) else ai
    return [
        q
        for q in questions
        if q.principles
        and ai
        and (ai is True or not p_a_by_annotator(people.get(q.comparison.id, ()), weights))
    ]


def _partial(questions: Sequence[JudgeQuestion]) -> int:
    """How many prompts lack a pair of responses that differ."""
    groups: dict[str, list[JudgeQuestion]] = defaultdict(list)
    for question in questions:
        groups[question.prompt.id].append(question)
    lacking = 0
    for group in groups.values():
        texts = {i: text for q in group for i, text in ((q.comparison.a, q.a), (q.comparison.b, q.b))}
        pairs = {frozenset((q.comparison.a, q.comparison.b)) for q in group}
        lacking += any(texts[i] != texts[j] and {i, j} not in pairs for i, j in combinations(texts, 2))
    return lacking


def _current(rows: Iterable[Label], expected: set[Slot]) -> dict[Slot, Label]:
    """Of these rows those that the judge would give, with this wording, template and decoding."""
    return {slot: row for row in rows if (slot := slot_of(row)) in expected}


def _as_read(row: Label, line: bytes) -> bytes:
    """A row's line as it stands, where its id stands in it."""
    return line if line.startswith(b'{"v":1,"id":"%s",' % row.id.encode()) else row.to_json().encode()


def _earlier(path: str | None) -> list[Path]:
    return label_files(Path(path)) if path else []


def preference(
    stage: Stage[LabelOptions], question: JudgeQuestion, labels: Sequence[Label]
) -> Preference | None:
    """What labels of a comparison make of it; None where nothing, which is counted in `stage.dropped`."""
    made = preference_or_reason(stage, question, labels)
    if isinstance(made, str):
        stage.dropped[made] += 1
        return None
    return made


def preference_or_reason(
    stage: Stage[LabelOptions], question: JudgeQuestion, labels: Sequence[Label]
) -> Preference | str:
    """What labels of a comparison make of it; where that is no preference, the reason."""
    weights, human_weight = (
        {p.id: p.weight for p in stage.constitution.principles},
        stage.options.human_weight,
    )
    labels = counting(labels, weights, human_weight)
    result = aggregate(labels, stage.constitution, human_weight, stage.options.bounds)
    if result is None:
        return _why_missing(question, labels)
    p_a, deciding = result
    if question.comparison.origin == "revision" and p_a <= 0.5:
        return "revision not confirmed by the judge"
    return Preference(
        comparison_id=question.comparison.id,
        p_a=p_a,
        deciding_principle=deciding,
        votes=dict(Counter(label.verdict for label in labels)),
        sources=tuple(sorted({label.annotator.kind for label in labels})),
    )


def _why_missing(question: JudgeQuestion, labels: Sequence[Label]) -> str:
    if not labels:
        return "not labelled" if question.principles else "no principle applies"
    if any(label.p_a is not None for label in labels):
        return "no verdict under a principle, or by an annotator, that counts"
    abstained = any(label.verdict == "abstain" for label in labels)
    return "every verdict is an abstention" if abstained else "no verdict could be read"
