"""Candidate principles that a model proposes: it is shown which response was preferred and says by what rule;
what says the same is put together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlaif.config import ASSETS
from rlaif.constitution import Constitution, Principle
from rlaif.engines import Engine, GenerateRequest
from rlaif.errors import UserError
from rlaif.prompting.templates import Templates
from rlaif.refusals import opens_with_refusal
from rlaif.runs.folder import silent_progress
from rlaif.similarity import EMPTY, PROPOSALS
from rlaif.workbench.pairs import LabelledPairs

TOKENS = 64
WORDS = (3, 40)  # the fewest and the most of a proposed rule
_LEAD = re.compile(r"^\s*(?:[-*•]|\d+[.)]|rule:|principle:)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Proposed:
    """Candidates, the most often proposed first, how often each was, and what was dropped, by reason."""

    candidates: Constitution
    times: list[int]
    dropped: Counter[str] = field(default_factory=Counter)


def proposed(
    engine: Engine,
    pairs: LabelledPairs,
    said: dict[str, float],
    shown: Sequence[str],
    most: int,
    progress: Any = silent_progress,
) -> Proposed:
    """At most `most` candidates from what the model says of the `shown` comparisons, whose labels are `said`.

    Raises UserError where nothing it wrote is a rule.
    """
    decided = [pair for pair in shown if said[pair] != 0.5]
    folder = ASSETS / "prompts" / "workbench"
    source = (folder / "proposal.j2").read_text(encoding="utf-8")
    templates = Templates.of("workbench", {"proposal": source}, folder)
    requests = []
    for pair in decided:
        a, b = pairs.texts(pair)
        better, worse = (a, b) if said[pair] > 0.5 else (b, a)
        chat = templates.proposal(pairs.prompt(pair).chat, better, worse)
        requests.append(GenerateRequest(chat, TOKENS, temperature=0.0))
    texts: dict[int, str] = {}
    with progress("rules proposed", len(requests)) as tick:
        for index, made in engine.generate(requests):
            texts[index] = made.text
            tick(1)
    dropped: Counter[str] = Counter()
    rules = [rule for at in sorted(texts) if (rule := rule_in(texts[at], dropped))]
    if not rules:
        reasons = ", ".join(f"{n} × {reason}" for reason, n in dropped.items())
        raise UserError(
            f"The model proposed no rule for {len(requests)} comparisons ({reasons or 'none is decided'}).",
            "a model that follows instructions",
            "give the candidates as a constitution file: --candidates FILE",
        )
    groups = sorted(together(rules), key=len, reverse=True)[:most]
    return Proposed(_constitution([group[0] for group in groups]), [len(group) for group in groups], dropped)


def rule_in(text: str, dropped: Counter[str]) -> str | None:
    """The rule in the first line of a written answer; None, with the reason counted, where there is none."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    rule = " ".join(_LEAD.sub("", first).strip(" \"'“”").split())
    words = len(rule.split())
    reason = (
        "empty"
        if not rule
        else "a refusal"
        if opens_with_refusal(rule)
        else f"fewer than {WORDS[0]} words"
        if words < WORDS[0]
        else f"more than {WORDS[1]} words"
        if words > WORDS[1]
        else None
    )
    dropped.update([reason] if reason else [])
    return None if reason else rule


def together(rules: Sequence[str]) -> list[list[str]]:
    """Rules in groups that say about the same, by their words; the first of a group stands for it."""
    groups: list[list[str]] = []
    for rule in rules:
        for group in groups:
            if PROPOSALS.same(rule, group[0]):
                group.append(rule)
                break
        else:
            groups.append([rule])
    return groups


def _constitution(rules: Sequence[str]) -> Constitution:
    ids: Counter[str] = Counter()
    principles = []
    for rule in rules:
        words = re.findall(r"[a-z0-9]+", rule.lower())
        name = "-".join([word for word in words if word not in EMPTY][:4]) or "rule"
        ids[name] += 1
        principles.append(Principle(id=name if ids[name] == 1 else f"{name}-{ids[name]}", text=rule))
    return Constitution(name="proposed", principles=tuple(principles))
