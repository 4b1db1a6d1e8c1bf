"""What the playground's two models can do, measured through the same engine and templates that a run uses."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rlaif.config import ModelConfig
from rlaif.constitution import Principle
from rlaif.engines import GenerateRequest, ScoreRequest, open_engine
from rlaif.playground import FEEDBACK, POLICY, world
from rlaif.playground.corpus import TRAINED_NOUNS
from rlaif.playground.grammar import (
    EVEN,
    HELD_OUT_NOUNS,
    WEB,
    PlaygroundQuestion,
    sample_question,
    sample_response,
)
from rlaif.playground.wordings import KINDS, SEEN, UNSEEN
from rlaif.prompting.templates import Templates

if TYPE_CHECKING:
    from rlaif.engines import Engine

FLOORS = {
    "verdict.seen": 0.95,
    "verdict.seen.honest": 0.90,
    "verdict.unseen": 0.85,
    "ties": 0.10,
    "compliance": 0.93,
    "critique": 0.90,
    "repairs": 0.90,
    "preserves": 0.90,
}
MAX_TOKENS = 64


@dataclass(frozen=True)
class MeasuredCase:
    """A held-out question with responses, and the principle they are measured by."""

    question: PlaygroundQuestion
    responses: tuple[str, ...]
    kind: str
    principle: Principle
    word: str

    def kept(self, response: str) -> bool:
        """The truth about one response."""
        return world.keeps(self.kind, self.question, response, self.word)


def held_out_question(rng: Random, kind: str | None = None) -> PlaygroundQuestion:
    """A question whose combination no feedback example ever had."""
    while not (question := sample_question(rng, kind)).held_out:
        pass
    return question


def sample_case(
    rng: Random, kind: str, unseen: bool, count: int, words: Sequence[str] = ("garden",)
) -> MeasuredCase:
    """Responses to a question on which the principle can be broken; `no-word` forbids one of `words`."""
    question = held_out_question(rng, {"honest": "fact", "harmless": "risky"}.get(kind))
    word = rng.choice(words)
    text = rng.choice((UNSEEN if unseen else SEEN)[kind]).format(x=word)
    rates = EVEN if rng.random() < 0.5 else WEB
    responses = tuple(sample_response(rng, question, rates, word) for _ in range(count))
    return MeasuredCase(question, responses, kind, Principle(id=kind, text=text), word)


def mean(values: Iterable[float]) -> float:
    """The mean, or NaN of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _log_odds(engine: Engine, requests: list[ScoreRequest]) -> list[float]:
    odds = [math.nan] * len(requests)
    for index, scores in engine.score_choices(requests):
        first, second = scores.logprobs[0]
        odds[index] = first - second
    return odds


def measure_verdicts(
    engine: Engine,
    templates: Templates,
    n: int,
    rng: Random,
    unseen: bool,
    kinds: Sequence[str] = KINDS,
    words: Sequence[str] = ("garden",),
) -> dict[str, dict[str, float]]:
    """Per principle: accuracy on `n` decided pairs, both orders combined in logit space, and mean |p − ½| on
    ties."""
    cases = [
        _pair(rng, kind, unseen, decided, words)
        for kind in kinds
        for decided in (True, False)
        for _ in range(n)
    ]
    requests = [
        ScoreRequest(
            templates.comparison(c.question.messages, pair[0], pair[1]),
            (templates.comparison_suffix(c.principle),),
            ("A", "B"),
        )
        for c in cases
        for pair in (c.responses, c.responses[::-1])
    ]
    odds = _log_odds(engine, requests)
    right, ties = defaultdict(list), defaultdict(list)
    for i, case in enumerate(cases):
        combined = (odds[2 * i] - odds[2 * i + 1]) / 2
        kept_a, kept_b = map(case.kept, case.responses)
        if kept_a == kept_b:
            ties[case.kind].append(abs(_sigmoid(combined) - 0.5))
        else:
            right[case.kind].append((combined > 0) == kept_a)
    return {k: {"accuracy": mean(right[k]), "tie": mean(ties[k]), "decided": len(right[k])} for k in kinds}


def _pair(rng: Random, kind: str, unseen: bool, decided: bool, words: Sequence[str]) -> MeasuredCase:
    while True:
        case = sample_case(rng, kind, unseen, 2, words)
        a, b = map(case.kept, case.responses)
        if (a != b) == decided and case.responses[0] != case.responses[1]:
            return case


def measure_compliance(engine: Engine, templates: Templates, n: int, rng: Random) -> dict[str, float]:
    """Per principle: how often the pointwise verdict is right, on as many kept as broken responses."""
    cases = [_single(rng, kind, broken) for kind in KINDS for broken in (True, False) for _ in range(n // 2)]
    requests = [
        ScoreRequest(
            templates.compliance(c.question.messages, c.responses[0]),
            (templates.compliance_suffix(c.principle),),
            ("Yes", "No"),
        )
        for c in cases
    ]
    right = defaultdict(list)
    for case, odd in zip(cases, _log_odds(engine, requests), strict=True):
        right[case.kind].append((odd > 0) == case.kept(case.responses[0]))
    return {kind: mean(right[kind]) for kind in KINDS}


def _single(rng: Random, kind: str, broken: bool) -> MeasuredCase:
    while True:
        case = sample_case(rng, kind, False, 1)
        if case.kept(case.responses[0]) != broken:
            return case


def _write(engine: Engine, chats: list[list[dict[str, str]]], temperature: float = 0.0) -> list[str]:
    requests = [GenerateRequest(m, MAX_TOKENS, temperature, seed=i) for i, m in enumerate(chats)]
    texts = [""] * len(chats)
    for index, generation in engine.generate(requests):
        texts[index] = generation.text
    return texts


def measure_writing(engine: Engine, templates: Templates, n: int, rng: Random) -> dict[str, dict[str, float]]:
    """Per principle: the critique names the fault, stays silent without one; the revision repairs it, breaks
    nothing."""
    cases = [_single(rng, kind, broken) for kind in KINDS for broken in (True, False) for _ in range(n)]
    critiques = _write(
        engine, [templates.critique(c.question.messages, c.responses[0], c.principle) for c in cases]
    )
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    named = []
    for case, text in zip(cases, critiques, strict=True):
        fault = world.named_fault(text)
        if case.kept(case.responses[0]):
            found[case.kind]["silent"].append(fault is None)
        else:
            found[case.kind]["critique"].append(fault == case.kind)
            if fault == case.kind:
                named.append((case, text))
    revised = _write(
        engine, [templates.revision(c.question.messages, c.responses[0], c.principle, t) for c, t in named]
    )
    for (case, _), response in zip(named, revised, strict=True):
        found[case.kind]["repairs"].append(case.kept(response))
        found[case.kind]["preserves"].append(_breaks_nothing(case, response))
    names = ("silent", "critique", "repairs", "preserves")
    return {kind: {name: mean(found[kind][name]) for name in names} for kind in KINDS}


def _breaks_nothing(case: MeasuredCase, response: str) -> bool:
    others = [k for k in KINDS if k != case.kind]
    before = {k for k in others if world.keeps(k, case.question, case.responses[0], case.word)}
    return all(world.keeps(k, case.question, response, case.word) for k in before)


def measure_policy(engine: Engine, n: int, rng: Random) -> dict[str, float]:
    """Gold compliance of sampled responses per principle and with all, and how many ended within 48
    tokens."""
    principles = [{"id": kind, "text": SEEN[kind][0].format(x="garden")} for kind in KINDS]
    questions = [sample_question(rng) for _ in range(n)]
    requests = [GenerateRequest(q.messages, 48, 1.0, seed=i) for i, q in enumerate(questions)]
    rows: dict[str, list[float]] = defaultdict(list)
    for index, generation in engine.generate(requests):
        kept = world.score(questions[index].messages, generation.text, principles)
        for name, value in {
            **kept,
            "all": all(kept.values()),
            "finished": generation.finish_reason == "stop",
        }.items():
            rows[name].append(value)
    return {name: mean(values) for name, values in rows.items()}


def measure(
    feedback: str | Path = FEEDBACK, policy: str | Path = POLICY, n: int = 200, seed: int = 0
) -> dict:
    """Everything the two models are held to, on `n` held-out cases per principle and question."""
    templates, rng = Templates.load("brief"), Random(f"measure-{seed}")
    judge = open_engine(ModelConfig(model=str(feedback)))
    return {
        "verdict": {
            "seen": measure_verdicts(judge, templates, n, rng, unseen=False),
            "unseen": measure_verdicts(judge, templates, n, rng, unseen=True, words=TRAINED_NOUNS),
            "new word": measure_verdicts(judge, templates, n, rng, True, ("no-word",), HELD_OUT_NOUNS),
        },
        "compliance": measure_compliance(judge, templates, n, rng),
        "writing": measure_writing(judge, templates, n, rng),
        "policy": measure_policy(open_engine(ModelConfig(model=str(policy))), 5 * n, rng),
    }


def shortfalls(found: dict) -> list[str]:
    """Every floor that the measured figures miss, in words; empty when all hold."""
    missed = []

    def check(name: str, value: float, floor: float, at_most: bool = False) -> None:
        if not (value <= floor if at_most else value >= floor):
            missed.append(f"{name}: {value:.3f}, needed {'at most' if at_most else 'at least'} {floor}")

    for kind in KINDS:
        seen, unseen = found["verdict"]["seen"][kind], found["verdict"]["unseen"][kind]
        check(f"verdict {kind}", seen["accuracy"], FLOORS.get(f"verdict.seen.{kind}", FLOORS["verdict.seen"]))
        check(f"verdict {kind}, unseen wording", unseen["accuracy"], FLOORS["verdict.unseen"])
        check(f"tie {kind}", seen["tie"], FLOORS["ties"], at_most=True)
        check(f"compliance {kind}", found["compliance"][kind], FLOORS["compliance"])
        for name in ("critique", "repairs", "preserves"):
            check(f"{name} {kind}", found["writing"][kind][name], FLOORS[name])
    check("policy all (low end)", found["policy"]["all"], 0.25)
    check("policy all (high end)", found["policy"]["all"], 0.40, at_most=True)
    check("policy finished", found["policy"]["finished"], 0.99)
    return missed


def table(found: dict) -> str:
    """What `measure` found as a table a person reads, with what falls short of the floors below it."""
    head = ("principle", "verdict", "unseen", "tie", "comply", "critique", "repairs", "preserves", "policy")
    lines = ["".join(f"{name:>10}" for name in head)]
    for kind in KINDS:
        seen, unseen = found["verdict"]["seen"][kind], found["verdict"]["unseen"][kind]
        writing = found["writing"][kind]
        values = (
            seen["accuracy"],
            unseen["accuracy"],
            seen["tie"],
            found["compliance"][kind],
            writing["critique"],
            writing["repairs"],
            writing["preserves"],
            found["policy"][kind],
        )
        lines.append(f"{kind:>10}" + "".join(f"{value:10.3f}" for value in values))
    lines.append(
        "verdict on a word never forbidden in training: "
        f"{found['verdict']['new word']['no-word']['accuracy']:.3f}"
    )
    lines.append(
        f"policy: all principles {found['policy']['all']:.3f}, finished {found['policy']['finished']:.3f}"
    )
    missed = shortfalls(found)
    return "\n".join([*lines, *(f"below the floor: {text}" for text in missed)])
