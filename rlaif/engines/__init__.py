"""Engines: one protocol, two verbs. `generate` writes text; `score_choices` reads the probability of fixed
answers.

Back ends: `transformers` and `vllm` in process, `openai` for any compatible endpoints, `scripted` for tests.
Each is imported only where it is opened. An engine's fingerprint says what produced a row; it is part of the
cache key.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rlaif.config import ModelConfig
from rlaif.errors import UserError, replace_surrogates
from rlaif.plugin import load_function, own
from rlaif.prompting.chat import refused_by_template
from rlaif.prompting.thinking import split_thinking
from rlaif.runs.spending import Account

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class GenerateRequest:
    """One text to write. The same request and seed give the same text on one engine, whatever it is batched
    with."""

    messages: Chat
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """One written text. `finish_reason` is "stop", "length", "content_filter" where a service broke it off,
    or, without a text, "too_long" where the prompt did not fit the context, "refused" where a server would
    not take it and "template" where the model's chat template would not, which then `said` why. `token_ids`
    as in `records.Response`, where they are known; they hold the `thinking` as well, which is no part of the
    text.
    """

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    tokens: int = 0
    token_ids: str | None = None
    said: str = ""
    thinking: str = ""

    def __post_init__(self) -> None:
        # From any source, a script or an older cache included: no row can hold half of a surrogate pair.
        thinking, text = split_thinking(replace_surrogates(self.text)[0])
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "thinking", self.thinking or thinking)

    @property
    def why_empty(self) -> str | None:
        """Why there is no text, in the words under which stages count it; None where there is one."""
        return (
            refused_by_template(self.said)
            if self.finish_reason == "template"
            else _UNWRITTEN.get(self.finish_reason)
        )


TEMPLATE = (
    "chat template: "  # what a question is counted under, among the refused ones, with what the template said
)
_UNWRITTEN = {"too_long": "prompt longer than the model's context", "refused": "refused by the server"}


@dataclass(frozen=True)
class Subject:
    """What a question is about: a conversation, and its responses in the order in which they are shown (two
    of a pair, or the one that is scored). For an engine that reads more than the answer (`fitted`).

    `wording` identifies how a pair is asked about; `worth` is what each choice stands for where one response
    is scored.
    """

    prompt: Chat
    responses: tuple[str, ...]
    wording: str = ""
    worth: tuple[float, ...] = ()


@dataclass(frozen=True)
class ScoreRequest:
    """One question about a shared text: each suffix is appended to the last turn, each choice is a possible
    answer.

    `again` asks the model even where a cache holds the response, and leaves the cache as it is. `worst` says
    that the question asks for the worst: a written answer is read by what it was asked.
    """

    messages: Chat
    suffixes: tuple[str, ...]
    choices: tuple[str, ...]
    again: bool = False
    worst: bool = False
    subject: Subject | None = None


UNNAMED = -1e9  # stands for the log-probability of a choice that a written answer does not name


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of the choices, raw (not renormalised): `logprobs[suffix][choice]`, natural
    logarithm.

    An empty row means that nothing readable was answered (a refusal, a lecture); `too_long` that the question
    did not fit the context (`logprobs` is empty); NaN or +∞ in a row that the model's arithmetic broke down.
    Ask `readable` before `probability`. Where an answer was written and parsed, the choice it names has 0 and
    every other one UNNAMED: a certain verdict, of which no mass is known.
    """

    logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: int = 0
    too_long: bool = False
    refused: bool = (
        False  # a server or a chat template would not take a question, which is no answer of the model's
    )

    def broken(self, suffix: int) -> bool:
        """Whether what stands there is no log-probability: NaN or +∞ (−∞ is one, of a choice ruled out)."""
        return suffix < len(self.logprobs) and not all(x < math.inf for x in self.logprobs[suffix])

    def readable(self, suffix: int) -> bool:
        """Whether anything could be read after this suffix."""
        return suffix < len(self.logprobs) and bool(self.logprobs[suffix]) and not self.broken(suffix)

    def probability(self, suffix: int) -> tuple[float, ...]:
        """The choices' probabilities after one suffix, renormalised to sum to 1."""
        top = max(self.logprobs[suffix])
        weights = [math.exp(x - top) for x in self.logprobs[suffix]]
        return tuple(w / sum(weights) for w in weights)

    def answer_mass(self, suffix: int) -> float | None:
        """The probability the model put on the choices together; None where it wrote its answer."""
        if UNNAMED in self.logprobs[suffix]:
            return None
        return min(1.0, sum(math.exp(x) for x in self.logprobs[suffix]))


@dataclass
class Usage:
    """What an engine has been asked for, cache hits apart."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    shared_tokens: int = 0  # of the prompt tokens, those that a shared prefix or a server's cache saved
    retried: Counter[str] = field(default_factory=Counter)  # failed requests, by the kind of failure
    # Questions that a server or a chat template would not take, by reason.
    refused: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """Plain numbers for a stage's summary."""
        counted = {"retried": self.retried, "refused": self.refused}
        numbers = {key: value for key, value in vars(self).items() if key not in counted}
        return numbers | {
            f"{what}: {kind}": n for what, kinds in counted.items() for kind, n in kinds.items()
        }


class Engine(Protocol):
    """What a stage may ask of a model.

    Both verbs take a sequence and yield (index, result) as results become ready, in any order, each index
    once: a caller writes every row as it arrives, so a killed process loses at most one batch.
    """

    usage: Usage
    notes: list[str]  # things a reader of the run should know, e.g. that the model brings no chat template
    batched: bool  # whether a score's last bits depend on which other questions it is read with

    @property
    def fingerprint(self) -> str:
        """Identity of model, weights, tokenizer and decoding."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Write a text for each request."""
        ...

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """Read the log-probabilities of each request's choices after each of its suffixes."""
        ...


@dataclass
class Scripted:
    """An engine that answers from two functions; for tests and for wrapping a program as a model."""

    on_generate: Callable[[GenerateRequest], str] | None = None
    on_score: Callable[[Chat, str, tuple[str, ...]], Sequence[float]] | None = None
    name: str = "scripted"
    usage: Usage = field(default_factory=Usage)
    notes: list[str] = field(default_factory=list)
    batched: bool = False

    @property
    def fingerprint(self) -> str:
        """The script's name."""
        return f"scripted:{self.name}"

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """One call of `on_generate` a request; a text is cut to max_tokens words."""
        if self.on_generate is None:
            raise TypeError(f"the script {self.name} writes no text")
        for index, request in enumerate(requests):
            words = self._called(self.on_generate, _is_text, "a text", request).split(" ")
            cut = words[: request.max_tokens]
            self.usage.calls += 1
            self.usage.tokens += len(cut)
            yield (
                index,
                Generation(" ".join(cut), "stop" if len(cut) == len(words) else "length", 0, len(cut)),
            )

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """One call of `on_score(messages, suffix, choices) -> probabilities` a suffix."""
        if self.on_score is None:
            raise TypeError(f"the script {self.name} scores nothing")
        for index, request in enumerate(requests):
            needed = f"a probability for each of {', '.join(request.choices)}"
            fits = partial(_are_numbers, len(request.choices))
            asked = [(request.messages, suffix, request.choices) for suffix in request.suffixes]
            rows = [self._called(self.on_score, fits, needed, *words) for words in asked]
            self.usage.calls += len(rows)
            yield index, Scores(tuple(tuple(math.log(max(p, 1e-30)) for p in row) for row in rows))

    def _called(
        self, function: Callable[..., Any], fits: Callable[[Any], bool], needed: str, *given: Any
    ) -> Any:
        """What a script's function returns; UserError where that can be no answer."""
        found = function(*given)
        if not fits(found):
            raise UserError(f"the script {self.name} returned {found!r:.80}.", needed, "fix it and run again")
        return found


def _is_text(found: Any) -> bool:
    return isinstance(found, str)


def _are_numbers(count: int, found: Any) -> bool:
    """`count` numbers, or none at all, which says that the script cannot tell."""
    try:
        return len([x + 0.0 for x in found]) in (0, count)
    except TypeError:  # also of a text
        return False


def scripted(config: ModelConfig) -> Engine:
    """The engine that a config's function makes."""
    return load_function(config.model, "scripted engine")()


def open_engine(config: ModelConfig, cache: Path | None = None, account: Account | None = None) -> Engine:
    """The engine a config names; with `cache`, responses are kept in that SQLite file; with `account`, they
    are paid for.

    Raises UserError where the model, the endpoint or the script cannot be opened, or a fit is not of it.
    """
    engine: Engine = own(config.kind.opens)(config)
    caches = cache is not None and config.kind.cached
    if config.fit is not None:
        from rlaif.engines.fitted import fitted

        # A fit without head and adapter is arithmetic on scores: the model's are kept, and hold for any fit.
        engine, caches = fitted(engine, config, cache if caches else None)
    if cache is not None and caches:
        from rlaif.engines.cache import CachedEngine

        engine = CachedEngine(engine, cache)
    if account is not None:
        from rlaif.engines.metered import MeteredEngine

        engine = MeteredEngine(engine, config.model, account)
    return engine
