"""Prompts from a constitution: for each principle those that bring it into play, that tempt to break it, that
look risky and are not, and that set it against another one.

Every attempt has a seed, which is made of what it is for: principle, kind and number. It decides the subject,
the other principle and the text, so a killed process goes on with the attempts that were not made. Kept
prompts are rows of a prompt file, whose `source` says how each was made; what was dropped stands beside it,
with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rlaif.constitution import Constitution, Principle
from rlaif.engines import Engine, GenerateRequest, Generation
from rlaif.errors import UserError, nearest
from rlaif.prompting.prompt_files import load_prompts
from rlaif.prompting.templates import Templates
from rlaif.records import Message, Prompt, Record
from rlaif.runs.folder import silent_progress
from rlaif.runs.rows import Rows, require_rows
from rlaif.runs.seeds import derive_seed
from rlaif.runs.storage import sync
from rlaif.workbench.prompt_faults import Known, as_prompt, fault_of

KINDS = {
    "applies": "bring a principle into play",
    "tempts": "tempt to break it",
    "seems_risky": "look risky and are not",
    "conflicts": "set two principles against each other",
}
TRIES = 3  # attempts for each prompt that is wanted
MAX_TOKENS = 256
TEMPERATURE, TOP_P = 0.8, 0.95  # below 1: what small models write at 1 is seldom a message
SUBJECTS = tuple(
    re.split(
        ", ",
        "cooking, school, a job interview, a neighbour, money, travel, a sick relative, a pet, a garden, "
        "dating, a computer, sport, a birthday, the law, history, medicine, a car, a child, a landlord, "
        "politics, sleep, a story, homework, a customer, music, religion, a small shop, chemistry, "
        "an old friend, news, tools, a translation, a diet, privacy, a game, a colleague, the weather, "
        "art, a debt, a wedding, statistics, a phone, grief, a bus ride, a museum, a flat, a recipe, "
        "programming, a letter, animals",
    )
)
_SOURCE = re.compile(
    r"generated; kind (?P<kind>\w+); principle (?P<ids>\S+) (?P<hashes>[0-9a-f+]+); seed (?P<seed>\d+); "
    r"temperature (?P<temperature>[\d.e-]+); template (?P<template>[0-9a-f]+); model (?P<model>.*)",
    re.DOTALL,
)


class DroppedPrompt(Record):
    """A text that is no prompt, or none that is new."""

    reason: str
    text: str
    source: str

    def identity(self) -> tuple[Any, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Attempt:
    """One prompt to be written: for which principle (and other one), of which kind, about what."""

    principle: Principle
    other: Principle | None
    kind: str
    subject: str
    seed: int

    @property
    def slot(self) -> tuple[str, str]:
        """What it counts for: the id of its principle, and its kind."""
        return self.principle.id, self.kind

    @property
    def principles(self) -> tuple[Principle, ...]:
        """The principles it is made for."""
        return (self.principle, self.other) if self.other else (self.principle,)

    def source(self, temperature: float, template: str, model: str) -> str:
        """How the prompt was made, as a row keeps it; `provenance` reads it."""
        ids, hashes = (
            "+".join(parts) for parts in zip(*((p.id, p.hash) for p in self.principles), strict=True)
        )
        return (
            f"generated; kind {self.kind}; principle {ids} {hashes}; seed {self.seed}; "
            f"temperature {temperature:g}; template {template}; model {model}"
        )

    def row(self, text: str, source: str) -> Prompt:
        """The prompt with the ids it was made for and its kind as tags, and with one of the tags under which
        each principle applies; prompts for the same principles and subject are one group."""
        needed = [p.applies_to[0] for p in self.principles if p.applies_to]
        ids = [p.id for p in self.principles]
        return Prompt(
            messages=(Message(role="user", content=text),),
            tags=tuple(dict.fromkeys((*ids, self.kind, *needed))),
            group="/".join((*sorted(ids), self.subject)),
            source=source,
        )


@dataclass
class Generated:
    """What a file of prompts holds, and what was dropped on the way; counts are of all starts together."""

    wanted: int
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    earlier: int = 0  # rows of the file that were made for other texts, templates or models
    missing: dict[str, int] = field(default_factory=dict)  # "principle/kind" to prompts that were not got
    first: dict[str, str] = field(default_factory=dict)  # the first instruction of this start, and its answer
    usage: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            key: dict(value) if isinstance(value, Counter) else value for key, value in vars(self).items()
        }


def provenance(row: Prompt | DroppedPrompt) -> dict[str, str] | None:
    """How a prompt was made: kind, ids, hashes, seed, temperature, template, model; None for others'."""
    found = _SOURCE.fullmatch(row.source)
    return found.groupdict() if found else None


@dataclass(frozen=True)
class Wanted:
    """What is to be written: how many prompts for each principle and kind, which kinds, and how they are
    sampled; raises UserError for an unknown kind."""

    number: int = 5
    kinds: tuple[str, ...] = tuple(KINDS)
    seed: int = 0
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise UserError(f'unknown kind "{kind}" — {nearest(kind, list(KINDS))}')


def generate(
    constitution: Constitution,
    engine: Engine,
    templates: Templates,
    out: Path,
    wanted: Wanted,
    existing: Iterable[Path] = (),
    progress: Any = silent_progress,
) -> Generated:
    """Append prompts to `out` until there is what is wanted, or no attempts are left; the caller sees to it
    that no other process does (`locked_file`).

    Raises UserError where `out` holds prompts that were not generated.
    """
    others = [prompt.messages[-1].content for path in existing for prompt in load_prompts(path)]
    work = _Work(constitution, engine, templates, out, wanted)
    for text in others:
        work.known.add(text)
    work.run(progress)
    return work.summary()


class _Work:
    """One start: what is there, what is still to be asked, and the two files."""

    def __init__(
        self,
        constitution: Constitution,
        engine: Engine,
        templates: Templates,
        out: Path,
        wanted: Wanted,
    ) -> None:
        self.constitution, self.engine, self.templates, self.out = constitution, engine, templates, out
        self.wanted, self.temperature = wanted, wanted.temperature
        self.template, self.model = templates.hash("prompts"), engine.fingerprint
        kinds = [kind for kind in wanted.kinds if kind != "conflicts" or len(constitution.principles) > 1]
        self.slots = [(p, kind) for p in constitution.principles for kind in kinds]
        require_rows(out, Prompt)
        self.kept = Rows(out, Prompt)
        self.dropped = Rows(out.with_suffix(".dropped.jsonl"), DroppedPrompt)
        self.known = Known()
        self.made: set[str] = set()  # sources of the attempts that were made
        self.have: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.planned = self._plan()
        self._read()

    def _read(self) -> None:
        for number, row in enumerate(self.kept, 1):
            if provenance(row) is None:
                raise UserError(
                    f"{self.out}:{number}: a prompt that was not generated.",
                    "a file of its own for generated prompts",
                    f"another --out, and --existing {self.out}: prompts like those in it are then dropped",
                )
            self.made.add(row.source)
            self.known.add(row.messages[-1].content)
            if row.source in self.planned:
                self.have[self.planned[row.source].slot] += 1
        self.rows = len(self.made)
        for row in self.dropped:
            self.made.add(row.source)
            if row.source in self.planned:
                self.reasons[row.reason] += 1

    def _plan(self) -> dict[str, Attempt]:
        """Every attempt that may be made, by its source."""
        attempts = (
            self._attempt(p, kind, n) for p, kind in self.slots for n in range(TRIES * self.wanted.number)
        )
        return {a.source(self.temperature, self.template, self.model): a for a in attempts}

    def _attempt(self, principle: Principle, kind: str, number: int) -> Attempt:
        seed = derive_seed(self.wanted.seed, "prompt", principle.id, kind, number)
        draw = Random(seed)
        others = [p for p in self.constitution.principles if p.id != principle.id]
        other = draw.choice(others) if kind == "conflicts" else None
        return Attempt(principle, other, kind, draw.choice(SUBJECTS), seed)

    def run(self, progress: Any) -> None:
        """Ask in rounds: in each as many as are missing, until none is or no attempt is left."""
        total = len(self.slots) * self.wanted.number
        with progress("prompts", total, sum(self.have.values())) as tick:
            while attempts := self._round():
                self._ask(attempts, tick)
        sync(self.out)

    def _round(self) -> list[tuple[str, Attempt]]:
        missing = {(p.id, kind): self.wanted.number - self.have[p.id, kind] for p, kind in self.slots}
        chosen: list[tuple[str, Attempt]] = []
        for source, attempt in self.planned.items():
            if missing[attempt.slot] > 0 and source not in self.made:
                missing[attempt.slot] -= 1
                chosen.append((source, attempt))
        return chosen

    def _ask(self, attempts: Sequence[tuple[str, Attempt]], tick: Callable[..., None]) -> None:
        chats = [self.templates.prompt(a.principle, a.kind, a.subject, a.other) for _, a in attempts]
        requests = [
            GenerateRequest(chat, MAX_TOKENS, self.temperature, TOP_P, attempt.seed)
            for chat, (_, attempt) in zip(chats, attempts, strict=True)
        ]
        for index, written in self.engine.generate(requests):
            asked = requests[index].messages[-1]["content"]
            self.first = self.first or {"asked": asked, "written": written.text}
            if self._take(*attempts[index], asked, written):
                tick(1)

    def _take(self, source: str, attempt: Attempt, asked: str, written: Generation) -> bool:
        """Write the row of one attempt; whether it is a prompt."""
        text = as_prompt(written.text)
        reason = (
            written.why_empty
            or ("cut off" if written.finish_reason == "length" else None)
            or fault_of(text, asked, tuple(p.text for p in attempt.principles))
            or self.known.fault_of(text)
        )
        self.made.add(source)
        if reason:
            self.dropped.append([DroppedPrompt(reason=reason, text=written.text, source=source)])
            self.reasons[reason] += 1
            return False
        self.kept.append([attempt.row(text, source)])
        self.known.add(text)
        self.have[attempt.slot] += 1
        self.rows += 1
        return True

    def summary(self) -> Generated:
        """The counts."""
        kept = sum(self.have.values())
        short = {
            f"{p.id}/{kind}": self.wanted.number - self.have[p.id, kind]
            for p, kind in self.slots
            if self.have[p.id, kind] < self.wanted.number
        }
        by_kind = Counter[str]()
        for (_, kind), count in self.have.items():
            by_kind[kind] += count
        return Generated(
            wanted=len(self.slots) * self.wanted.number,
            kept=kept,
            dropped=self.reasons,
            by_kind=by_kind,
            earlier=self.rows - kept,
            missing=short,
            first=self.first,
            usage=self.engine.usage.as_dict(),
        )
