"""One prompt tried out: two responses of the policy, each principle's critique and revision of the first, and
the verdicts on the pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlaif.audit.card import JudgeSetting
from rlaif.constitution import Constitution, Principle
from rlaif.engines import Engine, GenerateRequest, Generation
from rlaif.feedback.revisions import why_no_revision, without_preamble
from rlaif.options import CritiqueOptions
from rlaif.records import Prompt
from rlaif.runs.folder import silent_progress
from rlaif.runs.seeds import derive_seed
from rlaif.workbench.probe import Probe, ProbePair, Verdicts


@dataclass(frozen=True)
class Sample:
    """A response of the policy, or why it gave none."""

    text: str
    why: str | None = None


@dataclass(frozen=True)
class Revised:
    """What one principle made of a response: the critique, and the revision or why there is none.

    `unchanged`: the revision is the response.
    """

    principle: str
    critique: str
    revision: str
    why: str | None
    unchanged: bool


@dataclass
class Trial:
    """A policy, a critic and a judge; nothing is kept but the verdicts, so that the same pair costs nothing
    again."""

    policy: Engine
    setting: JudgeSetting
    critique: CritiqueOptions
    seed: int = 0
    temperature: float = 1.0
    max_tokens: int = 256
    names: tuple[str, str] = ("the policy", "the judge")  # what is told where one is waited for
    progress: Any = silent_progress

    def respond(self, prompt: Prompt) -> list[Sample]:
        """Two responses; the same prompt and seed give the same ones."""
        seeds = [derive_seed(self.seed, "try", prompt.id, k) for k in range(2)]
        requests = [
            GenerateRequest(prompt.chat, self.max_tokens, self.temperature, seed=seed) for seed in seeds
        ]
        with self.progress(f"responses, waiting for {self.names[0]}", None):
            made = dict(self.policy.generate(requests))
        return [Sample(made[k].text, made[k].why_empty) for k in range(2)]

    def revise(self, prompt: Prompt, response: str, principles: Sequence[Principle]) -> list[Revised]:
        """The response criticised and revised under each principle, as the critique stage does it."""
        texts, options = self.setting.templates, self.critique
        critiques = dict.fromkeys(range(len(principles)), "")
        if options.critique:
            asked = [texts.critique(prompt.chat, response, p, options.few_shot) for p in principles]
            written = self._write(prompt, asked, "critique", options.temperature)
            critiques = {at: "" if made.why_empty else made.text for at, made in written}
        asked = [
            texts.revision(prompt.chat, response, p, critiques[at], options.few_shot)
            for at, p in enumerate(principles)
        ]
        own = options.revision_temperature
        written = self._write(prompt, asked, "revision", options.temperature if own is None else own)
        found = []
        for at, made in sorted(written, key=lambda pair: pair[0]):
            _, text = without_preamble(made.text)
            given = critiques[at] if options.critique else None
            why = why_no_revision(replace(made, text=text), prompt, response, principles[at], given)
            same = why is None and text == response
            found.append(Revised(principles[at].id, critiques[at], text, why, same))
        return found

    def _write(
        self, prompt: Prompt, asked: Sequence[list[dict[str, str]]], what: str, temperature: float
    ) -> list[tuple[int, Generation]]:
        requests = [
            GenerateRequest(
                chat,
                self.critique.max_tokens,
                temperature,
                seed=derive_seed(self.seed, what, prompt.id, at),
            )
            for at, chat in enumerate(asked)
        ]
        with self.progress(f"{what}, waiting for {self.names[1]}", None):
            return list(self.setting.engine.generate(requests))

    def judge(self, prompt: Prompt, a: str, b: str, constitution: Constitution) -> Verdicts:
        """The verdicts on the pair under every principle that applies, in both orders."""
        pairs = [ProbePair(prompt, a, b)]
        return Probe(self.setting, pairs, self.names[1], self.progress).verdicts(constitution)
