"""The audit: ask a judge about pairs, their variations and their attacked forms, and put the figures on one
card.

    pairs ─► verdicts ─► accuracy, calibration, order, length
      ├─ twice the words, a list ─► verbosity and list bias
      ├─ other wordings of the principle ─► self-consistency
      ├─ a written answer ─► refusals
      └─ lost verdicts + attacks ─► injection

Everything is determined by the seed and the judge.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlaif.audit import injection, measures
from rlaif.audit.attacks import ATTACKS, Attack, turns_of
from rlaif.audit.cases import AuditCase, Side, with_truth
from rlaif.audit.injection import Target
from rlaif.audit.measures import Reading, readings
from rlaif.constitution import Constitution, Principle
from rlaif.engines import GenerateRequest, Scripted
from rlaif.feedback.gold import Gold, ungraded
from rlaif.feedback.judge import Judge
from rlaif.feedback.preferences import order_statistics
from rlaif.records import Label
from rlaif.refusals import refuses
from rlaif.runs.folder import silent_progress
from rlaif.runs.seeds import derive_seed

WRITTEN = 32  # questions that the judge answers in writing
WRITTEN_TOKENS = 32


@dataclass(frozen=True)
class Audit:
    """What an audit needs: a judge, the material, and the tokenizer where it is at hand.

    `count` bounds the attacks of each kind and the pairs that are varied.
    """

    judge: Judge
    constitution: Constitution
    cases: Sequence[AuditCase]
    seed: int = 0
    count: int = 100
    gold: Gold | None = None
    tokenizer: Any = None
    progress: Any = silent_progress

    def card(self) -> dict[str, Any]:
        """Every figure, as plain data."""
        before = self.judge.engine.usage.calls
        rows, labels = self.ask(self.cases, "verdicts")
        known = [*rows, *self._whole(labels)]
        clusters = {c.question.comparison.id: c.question.prompt.cluster for c in self.cases}
        statistics = order_statistics(labels, clusters)
        card = {
            "judge": self._identity(),
            "seed": self.seed,
            "pairs": len(self.cases),
            "verdicts": statistics["verdicts"],
            "accuracy": {
                **measures.accuracy(known),
                "by_principle": measures.by_principle(known, measures.accuracy),
            },
            "calibration": measures.calibration(known),
            "order": {
                **measures.order(rows),
                "first_position_rate": statistics["first_position_rate"],
                "first_position_rate_ci": statistics["first_position_rate_ci"],
                "by_principle": measures.by_principle(known, measures.order),
            },
            "bias": {"length": measures.length(known), **self._restyled()},
            "consistency": self._reworded(rows),
            "readability": {
                "invalid_rate": statistics["invalid_rate"],
                "invalid_rate_ci": statistics["invalid_rate_ci"],
                "mass": statistics["mass"],
                "written": self._written(),
            },
            "injection": self._attacked(rows),
            "no_gold": ungraded(self.gold, self.constitution, [case.question.prompt for case in self.cases]),
        }
        return {**card, "calls": self.judge.engine.usage.calls - before}

    def _whole(self, labels: Sequence[Label]) -> list[Reading]:
        """Verdicts under the whole constitution, of the cases whose truth speaks of that."""
        cases = [case for case in self.cases if measures.ALL in case.truth]
        return [*measures.whole_readings(cases, labels, self.constitution)]

    def _identity(self) -> dict[str, Any]:
        first = self.constitution.principles[0]
        known = self.judge.identity(first)
        return {
            "model": known["model"],
            "decoding": known["decoding"],
            "templates": self.judge.templates.name,
            "template": known["template"],
            "constitution": self.constitution.name,
            "constitution_hash": self.constitution.hash,
        }

    def ask(self, cases: Sequence[AuditCase], what: str) -> tuple[list[Reading], list[Label]]:
        """The judge's readings of cases; the same pair under the same principles is asked once."""
        questions = list(
            {(c.question.comparison.id, c.question.principles): c.question for c in cases}.values()
        )
        labels: list[Label] = []
        with self.progress(what, 2 * sum(len(q.principles) for q in questions)) as tick:
            for batch in self.judge.compare(questions):
                labels += batch
                tick(len(batch))
        return readings(cases, labels), labels

    def _drawn(self, purpose: str) -> list[AuditCase]:
        rng = random.Random(derive_seed(self.seed, purpose))
        return rng.sample(list(self.cases), min(self.count, len(self.cases)))

    def _restyled(self) -> dict[str, Any]:
        """Responses against themselves: said twice, and as a list."""
        drawn = self._drawn("dress")
        return {name: self._restyle(drawn, name, change) for name, change in RESTYLES.items()}

    def _restyle(self, drawn: Sequence[AuditCase], name: str, change: Any) -> dict[str, Any]:
        cases: list[AuditCase] = []
        sides: list[Side] = []
        for at, case in enumerate(drawn):
            plain, restyled = case.question.a, change(case.question.a)
            side: Side = "a" if at % 2 == 0 else "b"
            made = (
                case.with_responses(restyled, plain) if side == "a" else case.with_responses(plain, restyled)
            )
            cases.append(with_truth(made, self.gold))
            sides.extend(side for _ in made.question.principles)
        return measures.probe(self.ask(cases, name)[0], sides)

    def _reworded(self, rows: Sequence[Reading]) -> dict[str, Any]:
        """The same pairs under other wordings of their principles; empty where the constitution has none."""
        drawn = {case.question.comparison.id for case in self._drawn("wording")}
        pairs: list[tuple[Reading, Reading]] = []
        for at in range(max((len(wordings(p)) for p in self.constitution.principles), default=0)):
            chosen = [
                r
                for r in rows
                if r.case.question.comparison.id in drawn and at < len(wordings(principle_of(r)))
            ]
            cases = [reworded(row, at) for row in chosen]
            found = self.ask(cases, f"wording {at + 1}")[0]
            pairs += zip(chosen, found, strict=True)
        by_principle = {
            p.id: measures.wording([pair for pair in pairs if pair[0].principle_id == p.id])
            for p in self.constitution.principles
            if wordings(p)
        }
        return {**measures.wording(pairs), "by_principle": by_principle}

    def _written(self) -> dict[str, int]:
        """What the judge writes where it may write anything: a choice, a refusal, or something else."""
        from rlaif.engines.verdicts import parse_choice

        chats = []
        for case in self._drawn("written")[:WRITTEN]:
            *turns, last = self.judge.templates.comparison(
                case.question.prompt.chat, case.question.a, case.question.b, list(self.judge.shots)
            )
            asked = last["content"] + self.judge.templates.comparison_suffix(case.question.principles[0])
            chats.append([*turns, {**last, "content": asked}])
        counts = Counter({"choice": 0, "refusal": 0, "other": 0})
        engine = self.judge.engine
        script = getattr(engine, "engine", engine)  # behind an account
        if isinstance(script, Scripted) and script.on_generate is None:
            return dict(counts)
        with self.progress("written verdicts", len(chats)) as tick:
            for _, written in engine.generate([GenerateRequest(c, WRITTEN_TOKENS, 0.0) for c in chats]):
                chosen = (
                    parse_choice(written.text, ("A", "B"), cut=written.finish_reason == "length") is not None
                )
                counts["refusal" if refuses(written.text) else "choice" if chosen else "other"] += 1
                tick(1)
        return dict(counts)

    def _attacked(self, rows: Sequence[Reading]) -> dict[str, Any]:
        chosen = injection.targets(rows, self.count, self.seed)
        return injection.table({attack.kind: self.attack(chosen, attack) for attack in ATTACKS})

    def attack(self, chosen: Sequence[Target], attack: Attack) -> list[tuple[Target, Reading]]:
        """The targets, each with the judge's reading of its pair under the attack."""
        turns = turns_of(self.tokenizer)
        cases = [injection.attacked(target, attack, self.judge.templates, turns) for target in chosen]
        return list(zip(chosen, self.ask(cases, attack.kind)[0], strict=True))


def verdicts_at_most(
    constitution: Constitution, pairs: int, each: float, count: int, steady: float | None = None
) -> float:
    """How many verdicts an audit asks for, of `pairs` with `each` principles on average; `Audit.count` of
    them varied.

    With `steady`, the share of comparisons that the judge decides alike in both orders, about how many they
    are: only such verdicts are attacked, and what is varied is drawn from pairs and examples alike.
    """
    examples = sum(len(p.examples) for p in constitution.principles)
    plain, varied = pairs * each + examples, min(count, pairs + examples)
    judged = varied * max(each, 1.0) if steady is None else varied * plain / (pairs + examples)
    attacked = varied if steady is None else min(count, plain * steady)
    reworded = sum(len(wordings(p)) for p in constitution.principles) / len(constitution.principles)
    return 2 * (plain + judged * (len(RESTYLES) + reworded) + len(ATTACKS) * attacked)


RESTYLES = {
    "said_twice": lambda text: f"{text} {text}",
    "as_a_list": lambda text: "\n".join(f"- {part}" for part in sentences(text)),
}


def sentences(text: str) -> list[str]:
    """A text's sentences and lines."""
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if part]


def wordings(principle: Principle) -> tuple[str, ...]:
    """A principle's other wordings: its paraphrases, or its plain text where the judge is shown another
    one."""
    return principle.paraphrases or ((principle.text,) if principle.compare else ())


def principle_of(row: Reading) -> Principle:
    """The principle of a reading."""
    return next(p for p in row.case.question.principles if p.id == row.principle_id)


def reworded(row: Reading, at: int) -> AuditCase:
    """The reading's pair, asked under the `at`-th other wording of its principle."""
    principle = principle_of(row)
    other = principle.model_copy(update={"text": wordings(principle)[at], "compare": None})
    return replace(row.case, question=replace(row.case.question, principles=(other,)))
