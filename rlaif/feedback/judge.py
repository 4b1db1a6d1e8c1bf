"""The judge: questions in, labels out.

A verdict is read from the probabilities of the answer tokens, in both orders, under each principle on its own
(RLAIF, arXiv 2309.00267, section 2.1, and Constitutional AI, arXiv 2212.08073, section 4.1). Ways to ask:
which of two responses is better (at once, or after reasoning), which of K is best and worst, and what one
response is worth on its own (RLAIF, section 2.2.2). `preferences` aggregates labels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import mul
from string import ascii_uppercase
from typing import cast

from rlaif.constitution import Principle
from rlaif.engines import UNNAMED, Engine, GenerateRequest, Generation, ScoreRequest, Scores, Subject
from rlaif.errors import UserError
from rlaif.options.modes import PAIRWISE, JudgeMode
from rlaif.prompting.templates import Chat, Templates, assistant, user
from rlaif.records import ORDERS, Annotator, Comparison, Label, Order, Prompt, content_hash, verdict_of
from rlaif.refusals import opens_with_refusal

CHUNK = 256  # questions in flight: enough to sort by length, few enough to keep memory flat
MIN_MASS = 0.01  # less probability on all answers together is a refusal or a lecture, and no verdict
BROKEN = (
    "some of the judge's scores are not numbers, which are no verdicts: its arithmetic overflows; "
    "try dtype: float32"
)
# Comparison, principle, order, and the judge's identity: what a label is known by, cheaper than its id.
Slot = tuple[str, str | None, str, tuple[str | None, ...]]
# "shown": the line-up, where it is no pair; a judge's fit is part of "model"
IDENTITY = ("model", "template", "principle", "decoding", "shown")
Item = tuple[Prompt, str, Sequence[Principle]]


@dataclass(frozen=True)
class JudgeQuestion:
    """A comparison with its texts and the principles to judge it by."""

    comparison: Comparison
    prompt: Prompt
    a: str
    b: str
    principles: tuple[Principle, ...]

    def shown(self, order: Order) -> tuple[str, str]:
        """The responses, the one that is shown first before the other."""
        return (self.a, self.b) if order == "ab" else (self.b, self.a)


# Blank labels, and the question in the order in which it is shown.
LabelJob = tuple[list[Label], JudgeQuestion, Order]


@dataclass(frozen=True)
class Judge:
    """A feedback model in the role of the judge; `max_tokens` > 0 lets it reason first.

    `mode` says what a question shows and asks.
    With `aside` verdicts on pairs are neither looked up in a cache nor kept there.
    """

    engine: Engine
    templates: Templates
    shots: tuple[dict[str, str], ...] = ()
    max_tokens: int = 0
    mode: JudgeMode = PAIRWISE
    aside: bool = False

    @cached_property
    def annotator(self) -> Annotator:
        """The judge as an annotator."""
        return Annotator(kind="ai", id=self.engine.fingerprint)

    @cached_property
    def wording(self) -> str:
        """How a pair is asked about, but for the principle: the template and the few-shot turns."""
        return content_hash(self.templates.hash("comparison"), self.shots)

    def identity(self, principle: Principle) -> dict[str, str]:
        """What a label depends on besides the pair: model, template, principle as the judge reads it,
        decoding."""
        cot = self.max_tokens > 0
        shots = f"+{len(self.shots) // 2} examples {content_hash(self.shots)}" if self.shots else ""
        return {
            "model": self.engine.fingerprint,
            "template": self.templates.hash("comparison_cot" if cot else "comparison"),
            "principle": content_hash(self._suffix(principle)),
            "decoding": ("reasoning, then " if cot else "")
            + "log-probabilities of A and B where it gives them"
            + shots,
        }

    def expected_slots(self, questions: Sequence[JudgeQuestion]) -> set[Slot]:
        """The slots of the labels that `compare` would give."""
        if not self.mode.listwise:
            return {slot for q in questions for order in ORDERS for slot in self._slots(q, order)}
        return {slot for lineups in self._lineups(questions) for lineup in lineups for slot in lineup.slots}

    def compare(
        self, questions: Sequence[JudgeQuestion], done: Collection[Slot] = (), given: Collection[Slot] = ()
    ) -> Iterator[list[Label]]:
        """Labels of every question under every principle in both orders, in batches.

        Slots in `done` (from an earlier start) are not yielded again; those in `given` (from elsewhere) are
        not asked. Where all responses to a prompt are shown together, all its comparisons must come in one
        call.
        """
        if self.mode.listwise:
            yield from self._compare_lineups(questions, done, given)
            return
        # Reasons are dear: as many texts at a time as there else are questions, so that no more are lost to a
        # kill.
        texts = 2 * max((len(q.principles) for q in questions), default=1) if self.max_tokens else 1
        size = max(1, CHUNK // max(1, texts))
        for start in range(0, len(questions), size):
            yield from self._compare_pairs(questions[start : start + size], done, given)

    def _compare_pairs(
        self, questions: Sequence[JudgeQuestion], done: Collection[Slot], given: Collection[Slot]
    ) -> Iterator[list[Label]]:
        rows: list[tuple[JudgeQuestion, Order]] = [(q, order) for q in questions for order in ORDERS]
        missing, asked, again = self._plan([self._slots(*row) for row in rows], done, given)
        jobs: list[LabelJob] = [(labels, *row) for labels, row in zip(asked, rows, strict=True) if labels]
        for labels in (self._with_reasoning if self.max_tokens else self._scored)(jobs, again or self.aside):
            if kept := [label for label in labels if slot_of(label) in missing]:
                yield kept

    def _plan(
        self, groups: Sequence[Sequence[Slot]], done: Collection[Slot], given: Collection[Slot]
    ) -> tuple[set[Slot], list[list[Label]], bool]:
        """(slots that are missing, blank labels to fill in each group, whether to ask past a cache).

        A chunk broken off half-way is asked again as a whole where its verdicts depend on the batch they are
        read in: only then are the missing labels to the last bit what they would have been.
        """
        flat = [slot for group in groups for slot in group if slot not in given]
        missing = {slot for slot in flat if slot not in done}
        wanted = {principle for _, principle, *_ in missing}
        started = any(slot in done and slot[1] in wanted for slot in flat)
        whole = self.engine.batched and started
        asked = {slot for slot in flat if slot[1] in wanted} if whole else missing
        return (
            missing,
            [[self._empty_label(slot) for slot in group if slot in asked] for group in groups],
            whole,
        )

    def _slots(self, question: JudgeQuestion, order: Order) -> list[Slot]:
        pair = question.comparison.id
        return [(pair, principle.id, order, self._key(principle)) for principle in question.principles]

    def _key(self, principle: Principle) -> tuple[str | None, ...]:
        if principle not in self._keys:
            self._keys[principle] = _values(self.identity(principle))
        return self._keys[principle]

    @cached_property
    def _keys(self) -> dict[Principle, tuple[str | None, ...]]:
        return {}

    def _empty_label(self, slot: Slot) -> Label:
        pair, principle, order, values = slot
        identity = {name: value for name, value in zip(IDENTITY, values, strict=True) if value is not None}
        return Label(
            comparison_id=pair,
            annotator=self.annotator,
            principle_id=principle,
            order=cast(Order, order),
            verdict="invalid",
            judge=identity,
        )

    def _suffix(self, principle: Principle) -> str:
        if principle not in self._suffixes:
            self._suffixes[principle] = self.templates.comparison_suffix(principle, self.max_tokens > 0)
        return self._suffixes[principle]

    @cached_property
    def _suffixes(self) -> dict[Principle, str]:
        return {}

    def _shared(self, question: JudgeQuestion, order: Order) -> Chat:
        shown, cot = question.shown(order), self.max_tokens > 0
        return self.templates.comparison(question.prompt.chat, *shown, list(self.shots), cot=cot)

    def _scored(self, jobs: list[LabelJob], again: bool) -> Iterator[list[Label]]:
        requests = [
            self.request(question, order, [_principle(question, label) for label in labels], again)
            for labels, question, order in jobs
        ]
        for index, scores in self._read(requests):
            yield [_filled(label, scores, at) for at, label in enumerate(jobs[index][0])]

    def request(
        self, question: JudgeQuestion, order: Order, principles: Sequence[Principle], again: bool = False
    ) -> ScoreRequest:
        """What the engine is asked about a pair, shown in this order."""
        about = Subject(question.prompt.chat, question.shown(order), self.wording)
        suffixes = tuple(map(self._suffix, principles))
        return ScoreRequest(self._shared(question, order), suffixes, ("A", "B"), again, subject=about)

    def _read(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """The engine's scores; a score that is not a number is always noted."""
        broken = False
        for index, scores in self.engine.score_choices(requests):
            broken = broken or any(map(scores.broken, range(len(scores.logprobs))))
            yield index, scores
        if broken and BROKEN not in self.engine.notes:
            self.engine.notes.append(BROKEN)

    def _with_reasoning(self, jobs: list[LabelJob], again: bool) -> Iterator[list[Label]]:
        flat: list[tuple[Label, JudgeQuestion, Order]] = [
            (label, q, order) for labels, q, order in jobs for label in labels
        ]
        chats: list[Chat] = []
        for label, question, order in flat:
            *turns, last = self._shared(question, order)
            chats.append([*turns, user(last["content"] + self._suffix(_principle(question, label)))])
        verdict = self.templates.verdict()
        asked: list[tuple[Label, ScoreRequest]] = []
        writing = [GenerateRequest(chat, self.max_tokens, temperature=0.0) for chat in chats]
        for index, made in sorted(self.engine.generate(writing), key=lambda pair: pair[0]):
            label, chat = flat[index][0].model_copy(update={"rationale": made.text or None}), chats[index]
            if reason := _why_no_reasoning(made):
                yield [label.model_copy(update={"reason": reason})]
            else:
                turns = [*chat, assistant(made.text), user("")]
                asked.append((label, ScoreRequest(turns, (verdict,), ("A", "B"), again)))
        for index, scores in self._read([request for _, request in asked]):
            yield [_filled(asked[index][0], scores, 0)]

    def _compare_lineups(
        self, questions: Sequence[JudgeQuestion], done: Collection[Slot], given: Collection[Slot]
    ) -> Iterator[list[Label]]:
        """The best response to a prompt against each other one, and the worst likewise.

        Responses are shown in two orders, one the reverse of the other; the best is the one with the higher
        mean log-probability. A comparison without it is an abstention.
        """
        for lineups in self._lineups(questions):
            missing, todo, again = self._plan([lineup.slots for lineup in lineups], done, given)
            jobs = [lineup.only(labels) for lineup, labels in zip(lineups, todo, strict=True) if labels]
            asked: list[tuple[int, Order]] = [(n, order) for n in range(len(jobs)) for order in ORDERS]
            requests = [jobs[number].request(self.templates, order, again) for number, order in asked]
            read: dict[tuple[int, Order], Scores] = {}
            for index, scores in self._read(requests):
                read[asked[index]] = scores
                number, _ = asked[index]
                if all((number, order) in read for order in ORDERS):
                    both = {order: read.pop((number, order)) for order in ORDERS}
                    yield [label for label in jobs[number].filled(both) if slot_of(label) in missing]

    def _lineups(self, questions: Sequence[JudgeQuestion]) -> list[list[Lineup]]:
        """The questions by prompt, once for each thing that is asked of them."""
        prompts: dict[str, list[JudgeQuestion]] = defaultdict(list)
        for question in questions:
            prompts[question.prompt.id].append(question)
        return [[Lineup.of(self, group, asked) for group in prompts.values()] for asked in self.mode.asked]

    def pointwise(self, items: Sequence[Item]) -> Iterator[tuple[int, dict[str, float]]]:
        """(index, what the response is worth by principle id): the expected value over the template's score
        tokens.

        What could not be read is left out. The scale is the template's: `score.j2` says what each answer is
        worth; a set without it scores by its compliance question.
        """
        ask = self.templates
        if "score" not in ask.sources:
            yield from self.compliance(items)
            return
        yield from self._expected(items, ask.score, ask.score_suffix, ask.score_values)

    def compliance(self, items: Sequence[Item]) -> Iterator[tuple[int, dict[str, float]]]:
        """(index, P(the response keeps the principle) by principle id); what could not be read is left
        out."""
        ask = self.templates
        yield from self._expected(items, ask.compliance, ask.compliance_suffix, {"Yes": 1.0, "No": 0.0})

    def _expected(
        self,
        items: Sequence[Item],
        shared: Callable[[Chat, str], Chat],
        suffix: Callable[[Principle], str],
        values: Mapping[str, float],
    ) -> Iterator[tuple[int, dict[str, float]]]:
        asked = [(index, item) for index, item in enumerate(items) if item[2]]
        requests = []
        for _, (prompt, response, principles) in asked:
            about = Subject(prompt.chat, (response,), worth=tuple(values.values()))
            chat, suffixes = shared(prompt.chat, response), tuple(map(suffix, principles))
            requests.append(ScoreRequest(chat, suffixes, tuple(values), subject=about))
        for at, scores in self._read(requests):
            index, (_, _, principles) = asked[at]
            read = [i for i in range(len(principles)) if _why_invalid(scores, i) is None]
            means = [sum(map(mul, scores.probability(i), values.values())) for i in read]
            yield index, {principles[i].id: mean for i, mean in zip(read, means, strict=True)}


@dataclass(frozen=True)
class Lineup:
    """All responses to one prompt, asked for the best (or worst) of them under each principle."""

    prompt: Prompt
    responses: dict[str, str]
    asked: str
    principles: tuple[Principle, ...]
    pairs: tuple[Comparison, ...]
    slots: tuple[Slot, ...]
    labels: tuple[Label, ...] = ()

    @classmethod
    def of(cls, judge: Judge, questions: Sequence[JudgeQuestion], asked: str) -> Lineup:
        """The questions on one prompt as one; raises UserError where letters do not suffice."""
        responses: dict[str, str] = {}
        for question in questions:
            responses |= {question.comparison.a: question.a, question.comparison.b: question.b}
        if len(responses) > len(ascii_uppercase):
            raise UserError(
                f"{len(responses)} responses to one prompt.",
                f"at most {len(ascii_uppercase)} with mode: best",
                "lower k of the sample stage, or use mode: pairwise",
            )
        principles = questions[0].principles
        pairs = tuple(question.comparison for question in questions)
        own = {
            "template": judge.templates.hash("best"),
            "shown": content_hash(list(responses)),
            "decoding": f"log-probabilities of the {asked} of {len(responses)}",
        }
        slots: list[Slot] = []
        for principle in principles:
            wording = {"principle": content_hash(judge.templates.best_suffix(principle, asked))}
            key = _values({**judge.identity(principle), **own, **wording})
            slots += [(pair.id, principle.id, order, key) for pair in pairs for order in ORDERS]
        return cls(questions[0].prompt, responses, asked, principles, pairs, tuple(slots))

    def only(self, labels: Sequence[Label]) -> Lineup:
        """The same with these labels to fill in, and their principles alone."""
        wanted = {label.principle_id for label in labels}
        kept = tuple(principle for principle in self.principles if principle.id in wanted)
        return replace(self, principles=kept, labels=tuple(labels))

    def request(self, templates: Templates, order: Order, again: bool) -> ScoreRequest:
        """The question with the responses as they stand, or reversed."""
        texts = list(self.responses.values())[:: 1 if order == "ab" else -1]
        letters = ascii_uppercase[: len(texts)]
        suffixes = tuple(templates.best_suffix(principle, self.asked) for principle in self.principles)
        shared = templates.best(self.prompt.chat, dict(zip(letters, texts, strict=True)))
        return ScoreRequest(shared, suffixes, tuple(letters), again, self.asked == "worst")

    def filled(self, read: Mapping[str, Scores]) -> list[Label]:
        """The labels with what was read in both orders."""
        ids = list(self.responses)
        rows: list[Label] = []
        for at, principle in enumerate(self.principles):
            logs = {
                order: dict(
                    zip(ids[:: 1 if order == "ab" else -1], _finite(scores.logprobs[at]), strict=True)
                )
                for order, scores in read.items()
                if _why_invalid(scores, at) is None
            }
            named = max(ids, key=lambda i: sum(found[i] for found in logs.values())) if logs else ""
            for label in self.labels:
                if label.principle_id == principle.id:
                    rows.append(self._filled(label, logs, named, read, at))
        return rows

    def _filled(
        self, label: Label, logs: dict[str, dict[str, float]], named: str, read: Mapping[str, Scores], at: int
    ) -> Label:
        pair = next(pair for pair in self.pairs if pair.id == label.comparison_id)
        ids = list(self.responses)
        # A pair that stands the other way round in the line-up is shown in its order "ab" when the line is
        # reversed.
        shown: Order = label.order if ids.index(pair.a) < ids.index(pair.b) else ORDERS[label.order == "ab"]
        scores = read[shown]
        if shown not in logs:
            return _invalid_label(label, scores, at)
        if named not in (pair.a, pair.b):
            return label.model_copy(update={"verdict": "abstain", "answer_mass": scores.answer_mass(at)})
        lead = logs[shown][pair.a] - logs[shown][pair.b]
        p_a = 1.0 / (1.0 + math.exp(min(500.0, -lead if self.asked == "best" else lead)))
        return label.model_copy(
            update={"p_a": p_a, "verdict": verdict_of(p_a), "answer_mass": scores.answer_mass(at)}
        )


def slot_of(label: Label) -> Slot:
    """What a judge's label is known by."""
    return label.comparison_id, label.principle_id, label.order, _values(label.judge)


def _values(identity: Mapping[str, str]) -> tuple[str | None, ...]:
    return tuple(map(identity.get, IDENTITY))


def _principle(question: JudgeQuestion, label: Label) -> Principle:
    return next(p for p in question.principles if p.id == cast(str, label.principle_id))


def _why_invalid(scores: Scores, at: int) -> str | None:
    """Why no verdict can be read after a suffix, None where one can."""
    if scores.too_long:
        return "too long"
    if scores.broken(at):
        return Label.NUMBERLESS
    if not scores.readable(at):
        return "refused"
    mass = scores.answer_mass(at)
    return None if mass is None or mass >= MIN_MASS else "refused"


def _why_no_reasoning(made: Generation) -> str | None:
    """Why no verdict follows from a text that should be reasoning, None where one may."""
    if made.finish_reason == "too_long":
        return "too long"
    refused = made.why_empty or made.finish_reason == "content_filter" or opens_with_refusal(made.text)
    return "refused" if refused else None


def _finite(logprobs: Sequence[float]) -> list[float]:
    """A choice ruled out (−∞) as one that is not named: two such choices are equals, not NaN apart."""
    return [max(x, UNNAMED) for x in logprobs]


def _invalid_label(label: Label, scores: Scores, at: int) -> Label:
    mass = scores.answer_mass(at) if scores.readable(at) else None
    return label.model_copy(update={"reason": _why_invalid(scores, at), "answer_mass": mass})


def _filled(label: Label, scores: Scores, at: int) -> Label:
    if _why_invalid(scores, at):
        return _invalid_label(label, scores, at)
    first = scores.probability(at)[0]
    p_a = first if label.order == "ab" else 1.0 - first
    return label.model_copy(
        update={"p_a": p_a, "verdict": verdict_of(p_a), "answer_mass": scores.answer_mass(at)}
    )
