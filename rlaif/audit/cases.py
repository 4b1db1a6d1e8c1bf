"""What a judge is audited on: pairs of responses, with the truth about them wherever it is known.

A constitution's examples say which response is better under their principle. A gold scorer says of any pair
which response keeps each principle; where both or neither does, the truth is a tie.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rlaif.config import Config
from rlaif.constitution import Constitution, Principle
from rlaif.engines import GenerateRequest, open_engine
from rlaif.feedback.gold import Gold
from rlaif.feedback.judge import JudgeQuestion
from rlaif.records import Comparison, Message, Prompt, content_hash
from rlaif.runs.folder import silent_progress
from rlaif.runs.seeds import derive_seed

Side = Literal["a", "b", "tie"]
MAX_TOKENS = 256  # of a response sampled for the audit


@dataclass(frozen=True)
class AuditCase:
    """A pair to judge; `truth` holds the better side by principle id, for the principles about which it is
    known."""

    question: JudgeQuestion
    truth: dict[str, Side] = field(default_factory=dict)

    def side(self, side: str) -> str:
        """The text of one side."""
        return self.question.a if side == "a" else self.question.b

    def with_responses(self, a: str, b: str, principles: Sequence[Principle] | None = None) -> AuditCase:
        """The same prompt with other responses, about which no truth is known yet."""
        asked = self.question.principles if principles is None else tuple(principles)
        return pair(self.question.prompt, a, b, asked)


def pair(
    prompt: Prompt, a: str, b: str, principles: Sequence[Principle], gold: Gold | None = None
) -> AuditCase:
    """A case of two responses to a prompt, with the gold scorer's truth where there is one."""
    comparison = Comparison(prompt_id=prompt.id, a=content_hash("text", a), b=content_hash("text", b))
    question = JudgeQuestion(comparison, prompt, a, b, tuple(principles))
    return with_truth(AuditCase(question), gold)


def with_truth(case: AuditCase, gold: Gold | None) -> AuditCase:
    """The case with what the gold scorer says of it."""
    if gold is None:
        return case
    asked = case.question
    first, second = gold(asked.prompt, asked.a), gold(asked.prompt, asked.b)
    known = [p.id for p in asked.principles if p.id in first and p.id in second]
    return replace(case, truth={i: _better(first[i], second[i]) for i in known})


def _better(a: bool, b: bool) -> Side:
    return "tie" if a == b else "a" if a else "b"


def from_examples(
    constitution: Constitution, seed: int, shots: Sequence[dict[str, str]] = ()
) -> list[AuditCase]:
    """One case an example of a principle, judged by that principle alone; the better response's side is
    drawn.

    Examples that the judge is shown as few-shot turns would test its memory: they are left out.
    """
    cases, shown = [], "\n".join(turn["content"] for turn in shots)
    for principle in constitution.principles:
        for example in (e for e in principle.examples if not (shots and e.better in shown)):
            prompt = Prompt(messages=(Message(role="user", content=example.prompt),))
            swap = random.Random(derive_seed(seed, "side", principle.id, example.prompt)).random() < 0.5
            texts = (example.worse, example.better) if swap else (example.better, example.worse)
            case = pair(prompt, *texts, [principle])
            cases.append(replace(case, truth={principle.id: "b" if swap else "a"}))
    return cases


def sampled(
    config: Config,
    constitution: Constitution,
    prompts: Sequence[Prompt],
    count: int,
    seed: int,
    gold: Gold | None,
    left_out: Counter[str],
    progress: Any = silent_progress,
) -> list[AuditCase]:
    """Pairs of the policy's own responses to `count` prompts drawn by the seed; `left_out` counts what made
    no pair."""
    drawn = random.Random(derive_seed(seed, "audit prompts")).sample(list(prompts), min(count, len(prompts)))
    texts: dict[int, str] = {}
    requests = [
        GenerateRequest(prompt.chat, MAX_TOKENS, seed=derive_seed(seed, "audit", prompt.id, k))
        for prompt in drawn
        for k in range(2)
    ]
    with progress("responses to judge", len(requests)) as tick:
        for index, written in open_engine(config.policy).generate(requests):
            if written.why_empty:
                left_out[written.why_empty] += 1
            else:
                texts[index] = written.text
            tick(1)
    return list(_pairs(drawn, texts, constitution, gold, left_out))


def _pairs(
    prompts: Sequence[Prompt],
    texts: dict[int, str],
    constitution: Constitution,
    gold: Gold | None,
    left_out: Counter[str],
) -> Iterator[AuditCase]:
    for at, prompt in enumerate(prompts):
        a, b = texts.get(2 * at), texts.get(2 * at + 1)
        if a is None or b is None:
            continue
        principles = constitution.applicable(prompt.tags)
        if a == b or not principles:
            left_out["both responses the same" if principles else "no principle applies"] += 1
        else:
            yield pair(prompt, a, b, principles, gold)
