"""The judge: questions in, labels out; and the arithmetic from labels to preferences.

A verdict is read from the probabilities of the answer tokens, in both orders, under each principle on its own
(RLAIF, arXiv 2309.00267, section 2.1, and Constitutional AI, arXiv 2212.08073, section 4.1). Labels stay as they
were read; orders are averaged and principles added in logit space when a preference is computed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from rlaif.constitution import Constitution, Principle
from rlaif.engines import Engine, GenerateRequest, ScoreRequest, Scores
from rlaif.prompts import Chat, Templates, assistant, user
from rlaif.records import Annotator, Comparison, Label, Prompt, verdict_of

CHUNK = 256  # questions in flight: enough to sort by length, few enough to keep memory flat
MAX_LOGIT = 8.0  # one principle's say is bounded: a saturated verdict must not silence all others
ORDERS: tuple[Literal["ab", "ba"], ...] = ("ab", "ba")


@dataclass(frozen=True)
class Question:
    """A comparison with its texts and the principles to judge it by."""

    comparison: Comparison
    prompt: Prompt
    a: str
    b: str
    principles: tuple[Principle, ...]


@dataclass(frozen=True)
class Judge:
    """A feedback model in the role of the judge; `max_tokens` > 0 lets it reason first."""

    engine: Engine
    templates: Templates
    shots: tuple[dict[str, str], ...] = ()
    max_tokens: int = 0

    @property
    def annotator(self) -> Annotator:
        """The judge as an annotator."""
        return Annotator(kind="ai", id=self.engine.fingerprint)

    def identity(self, principle: Principle) -> dict[str, str]:
        """What a label depends on besides the pair: model, template, principle, decoding."""
        name = "comparison_cot" if self.max_tokens else "comparison"
        shots = f"+{len(self.shots) // 2} examples" if self.shots else ""
        return {
            "model": self.engine.fingerprint,
            "template": self.templates.hash(name),
            "principle": principle.hash,
            "decoding": ("reasoning, then " if self.max_tokens else "")
            + "log-probabilities of A and B"
            + shots,
        }

    def compare(self, questions: Sequence[Question], done: Collection[str] = ()) -> Iterator[list[Label]]:
        """Labels of every question under every principle in both orders, in batches; ids in `done` are skipped."""
        for start in range(0, len(questions), CHUNK):
            yield from self._compare_chunk(questions[start : start + CHUNK], done)

    def _compare_chunk(self, questions: Sequence[Question], done: Collection[str]) -> Iterator[list[Label]]:
        rows = [
            (
                question,
                order == "ba",
                [self._blank(question, principle, order) for principle in question.principles],
            )
            for question in questions
            for order in ORDERS
        ]
        missing = {label.id for _, _, labels in rows for label in labels if label.id not in done}
        # A chunk broken off half-way is asked again as a whole where its answers depend on the company they are read
        # in: only then are the missing labels to the last bit what they would have been.
        wanted = {label.principle_id for _, _, labels in rows for label in labels if label.id in missing}
        started = any(
            label.id in done and label.principle_id in wanted for _, _, labels in rows for label in labels
        )
        whole = self.engine.batched and started
        jobs: list[tuple[list[Label], Question, bool]] = []
        for question, swapped, labels in rows:
            asked = [m for m in labels if (m.principle_id in wanted if whole else m.id in missing)]
            if asked:
                jobs.append((asked, question, swapped))
        for labels in (self._reasoned if self.max_tokens else self._scored)(jobs, whole):
            if kept := [label for label in labels if label.id in missing]:
                yield kept

    def _scored(self, jobs: list[tuple[list[Label], Question, bool]], again: bool) -> Iterator[list[Label]]:
        requests = [self._request(labels, question, swapped, again) for labels, question, swapped in jobs]
        for index, scores in self.engine.score_choices(requests):
            yield [_filled(label, scores, at) for at, label in enumerate(jobs[index][0])]

    def _blank(self, question: Question, principle: Principle, order: Literal["ab", "ba"]) -> Label:
        return Label(
            comparison_id=question.comparison.id, annotator=self.annotator, principle_id=principle.id,
            order=order, verdict="invalid", judge=self.identity(principle),
        )  # fmt: skip

    def _shared(self, question: Question, swapped: bool) -> Chat:
        first, second = (question.b, question.a) if swapped else (question.a, question.b)
        cot = self.max_tokens > 0
        return self.templates.comparison(question.prompt.chat, first, second, list(self.shots), cot=cot)

    def _request(self, labels: list[Label], question: Question, swapped: bool, again: bool) -> ScoreRequest:
        principles = {p.id: p for p in question.principles}
        suffixes = tuple(
            self.templates.comparison_suffix(principles[cast(str, m.principle_id)]) for m in labels
        )
        return ScoreRequest(self._shared(question, swapped), suffixes, ("A", "B"), again)

    def _reasoned(self, jobs: list[tuple[list[Label], Question, bool]], again: bool) -> Iterator[list[Label]]:
        flat = [(label, question, swapped) for labels, question, swapped in jobs for label in labels]
        chats: list[Chat] = []
        for label, question, swapped in flat:
            principle = {p.id: p for p in question.principles}[cast(str, label.principle_id)]
            *turns, last = self._shared(question, swapped)
            suffix = self.templates.comparison_suffix(principle, cot=True)
            chats.append([*turns, user(last["content"] + suffix)])
        texts = [""] * len(flat)
        writing = [GenerateRequest(chat, self.max_tokens, temperature=0.0) for chat in chats]
        for index, generation in self.engine.generate(writing):
            texts[index] = generation.text
        verdict = self.templates.verdict()
        asked = [
            ScoreRequest([*chat, assistant(text), user("")], (verdict,), ("A", "B"), again)
            for chat, text in zip(chats, texts, strict=True)
        ]
        for index, scores in self.engine.score_choices(asked):
            yield [_filled(flat[index][0], scores, 0)]

    def compliance(
        self, items: Sequence[tuple[Prompt, str, Sequence[Principle]]]
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """(index, P(the reply keeps the principle) by principle id); principles that could not be read are left out."""
        asked = [(index, item) for index, item in enumerate(items) if item[2]]
        requests = [
            ScoreRequest(
                self.templates.compliance(prompt.chat, reply),
                tuple(self.templates.compliance_suffix(p) for p in principles),
                ("Yes", "No"),
            )
            for _, (prompt, reply, principles) in asked
        ]
        for at, scores in self.engine.score_choices(requests):
            index, (_, _, principles) = asked[at]
            read = {p.id: scores.probability(i)[0] for i, p in enumerate(principles) if scores.readable(i)}
            yield index, read


def _filled(label: Label, scores: Scores, at: int) -> Label:
    if not scores.readable(at):
        return label
    first = scores.probability(at)[0]
    p_a = first if label.order == "ab" else 1.0 - first
    return label.model_copy(update={"p_a": p_a, "verdict": verdict_of(p_a), "mass": scores.mass(at)})


def logit(p: float) -> float:
    """log p/(1−p), bounded by ±MAX_LOGIT."""
    if p <= 0.0 or p >= 1.0:
        return math.copysign(MAX_LOGIT, p - 0.5)
    return max(-MAX_LOGIT, min(MAX_LOGIT, math.log(p) - math.log1p(-p)))


def sigmoid(x: float) -> float:
    """1/(1+e^−x), stable on both sides."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def combine_orders(labels: Sequence[Label]) -> dict[tuple[str, str | None], float]:
    """p_a by (annotator, principle): the mean logit over the orders that could be read."""
    logits: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for label in labels:
        if label.p_a is not None:
            logits[(f"{label.annotator.kind}:{label.annotator.id}", label.principle_id)].append(
                logit(label.p_a)
            )
    return {key: sigmoid(sum(values) / len(values)) for key, values in logits.items()}


def aggregate(
    labels: Sequence[Label], constitution: Constitution, human_weight: float = 1.0
) -> tuple[float, str | None] | None:
    """(p_a, the id of the principle that decided) of one comparison's labels; None where nothing could be read.

    Under each annotator the principles' logits are added with their weights, as independent pieces of evidence;
    annotators are then averaged, people counting `human_weight` against an AI judge's 1. A tie under a principle has
    logit 0 and says nothing.
    """
    weights = {p.id: p.weight for p in constitution.principles}
    totals: dict[str, float] = defaultdict(float)
    by_principle: dict[str, float] = defaultdict(float)
    for (annotator, principle_id), p in combine_orders(labels).items():
        say = logit(p) * (1.0 if principle_id is None else weights.get(principle_id, 0.0))
        totals[annotator] += say
        if principle_id is not None:
            by_principle[principle_id] += say
    shares = {name: 1.0 if name.startswith("ai:") else human_weight for name in totals}
    if not totals or sum(shares.values()) == 0:
        return None
    total = sum(totals[name] * share for name, share in shares.items()) / sum(shares.values())
    deciding = max(by_principle, key=lambda i: by_principle[i] * math.copysign(1, total), default=None)
    return sigmoid(total), deciding


def order_statistics(labels: Sequence[Label]) -> dict[str, Any]:
    """How far the judge can be trusted: flips with the order, first-position rate, captured mass, unreadable verdicts."""
    judged = [label for label in labels if label.annotator.kind == "ai"]
    read = [label for label in judged if label.p_a is not None]
    pairs: dict[tuple[str, str | None], dict[str, float]] = defaultdict(dict)
    for label in read:
        pairs[(label.comparison_id, label.principle_id)][label.order] = cast(float, label.p_a)
    # Where both orders are near 0.5 the judge calls a tie; which side of 0.5 they fall on says nothing.
    both = [p for p in pairs.values() if len(p) == 2 and any(verdict_of(x) != "tie" for x in p.values())]
    flips = sum((p["ab"] > 0.5) != (p["ba"] > 0.5) for p in both)
    sided = [label for label in read if verdict_of(label.p_a) != "tie"]
    first = sum((verdict_of(label.p_a) == "a") == (label.order == "ab") for label in sided)
    return {
        "calls": len(judged),
        "decided": len(both),
        "order_flip_rate": flips / len(both) if both else None,
        "first_position_rate": first / len(sided) if sided else None,
        "mass": sum(label.mass or 0.0 for label in read) / len(read) if read else None,
        "invalid_rate": 1 - len(read) / len(judged) if judged else None,
    }
