"""Talking to policies: several of them side by side, each with its own side of the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.config import ModelConfig
from rlaif.engines import Chat, Engine, GenerateRequest, open_engine
from rlaif.errors import UserError, nearest
from rlaif.feedback.judge import Judge
from rlaif.records import Prompt
from rlaif.report.run_reader import model_references, require_consent
from rlaif.runs.catalog import is_run
from rlaif.runs.folder import Run, chosen, silent_progress
from rlaif.runs.seeds import derive_seed


@dataclass
class ChatPolicy:
    """A policy to talk to: its name, its engine, the name shown while it is waited for, and its turns."""

    name: str
    engine: Engine
    place: str = ""
    turns: Chat = field(default_factory=list)


@dataclass(frozen=True)
class ChatResponse:
    """One policy's response; `text` is None where it gave none, and `why` then says why not.

    `verdicts`: P(the response keeps the principle) by principle, None where the judge gave no verdict.
    """

    name: str
    text: str | None
    why: str = ""
    verdicts: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatTarget:
    """What a command names: a run's policy, or a model without a run."""

    name: str
    config: ModelConfig
    run: Run | None

    @classmethod
    def of(cls, text: str) -> ChatTarget:
        """RUN, RUN:POLICY or a model; a run alone is its last policy. Raises UserError where there is
        none."""
        path, colon, policy = Path(text), "", ""
        if not path.exists():
            before, colon, policy = text.rpartition(":")
            path = Path(before) if colon and is_run(Path(before)) else path
        if not is_run(path):
            return cls(path.name or text, ModelConfig(model=text), None)
        run = Run.load(path)
        run.verify(small=True)
        models = {name: made for name, made in run.policies.items() if not chosen(made)}
        name = policy if colon else list(models)[-1]
        if name not in models:
            raise UserError(f'{path}: no policy "{name}" to talk to — {nearest(name, list(models))}')
        given = str(models[name]) == str(Path(run.config.policy.model))
        config = run.config.policy
        if not given:  # what a run has trained is a folder, whatever answered for the policy it began with
            config = config.model_copy(update={"model": str(models[name])})
        return cls(f"{path.name}:{name}", config, run)


class Conversation:
    """One user's turns, the responses of every policy to them, and what a judge says of these."""

    def __init__(
        self, policies: Sequence[ChatPolicy], seed: int, temperature: float, max_tokens: int
    ) -> None:
        self.policies, self.seed = list(policies), seed
        self.temperature, self.max_tokens = temperature, max_tokens
        self.system = ""
        self.judge: tuple[Judge, Run] | None = None
        self.progress: Any = silent_progress

    def reset(self) -> None:
        """Forget all turns; the system prompt stays."""
        for policy in self.policies:
            policy.turns.clear()

    def ask(self, text: str) -> list[ChatResponse]:
        """What every policy responds to a further turn of the user.

        One that gives no response has not heard the turn. All sample with the same random numbers, which hang
        on the seed and the turn alone.
        """
        return [self._respond(policy, text) for policy in self.policies]

    def _respond(self, policy: ChatPolicy, text: str) -> ChatResponse:
        system = [{"role": "system", "content": self.system}] if self.system else []
        chat = [*system, *policy.turns, {"role": "user", "content": text}]
        seed = derive_seed(self.seed, "chat", len(policy.turns))
        request = GenerateRequest(chat, self.max_tokens, self.temperature, seed=seed)
        with self.progress(f"{policy.name}, waiting for {policy.place or 'the policy'}", None):
            ((_, made),) = policy.engine.generate([request])
        if made.why_empty:
            return ChatResponse(policy.name, None, made.why_empty)
        policy.turns += [chat[-1], {"role": "assistant", "content": made.text}]
        why = "cut at the most tokens" if made.finish_reason == "length" else ""
        return ChatResponse(policy.name, made.text, why, self._verdicts(chat, made.text))

    def _verdicts(self, chat: Chat, response: str) -> dict[str, float | None]:
        if self.judge is None:
            return {}
        judge, run = self.judge
        principles = run.constitution.principles
        prompt = Prompt.model_validate({"messages": chat})
        with self.progress(f"verdicts, waiting for {run.config.feedback.place}", None):
            found = dict(judge.compliance([(prompt, response, principles)])).get(0, {})
        return {principle.id: found.get(principle.id) for principle in principles}


def open_conversation(
    names: Sequence[str],
    judged: bool = False,
    seed: int = 0,
    temperature: float = 0.7,
    max_tokens: int = 256,
    trust: bool = False,
) -> Conversation:
    """A conversation with the policies named; `judged`: with the verdicts of the first run's judge.

    Raises UserError where a name is none, where there is no judge, or where a run folder names functions or
    endpoints and `trust` is not given.
    """
    named = [ChatTarget.of(name) for name in names]
    runs = [own.run for own in named if own.run]
    if judged and not runs:
        raise UserError(
            "no run is named, whose judge could give verdicts.",
            "a run folder: its feedback model, constitution and templates",
            "rlaif chat RUN --judge",
        )
    asked = [(own.run.path, own.config) for own in named if own.run]
    asked += [(runs[0].path, runs[0].config.feedback)] if judged else []
    require_consent(
        "talking to these policies",
        [line for own in asked for line in model_references(*own)],
        trust,
        "add --trust",
    )
    policies = [ChatPolicy(own.name, open_engine(own.config), own.config.place) for own in named]
    found = Conversation(policies, seed, temperature, max_tokens)
    if judged:
        run = runs[0]
        found.judge = Judge(open_engine(run.config.feedback), run.templates), run
    return found
