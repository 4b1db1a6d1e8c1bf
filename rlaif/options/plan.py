"""What the stages' options count on when they say what a run will ask of its models
(`StageOptions.estimate`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaif.config import Config, ModelConfig
    from rlaif.constitution import Constitution
    from rlaif.prompting.templates import Templates

CHARACTERS = 4  # in a token


@dataclass(frozen=True)
class Work:
    """What a stage computes itself, beside the questions it asks: in tokens, each of one model, and how many
    models it holds for it at once."""

    model: str  # the folder or hub id that the models are like
    learnt: float = 0.0  # read with gradients, and learnt from
    read: float = 0.0  # read without gradients
    written: float = 0.0
    rows: float = 1.0  # texts that are written at once
    forward: float = 0.0  # of the largest pass with gradients
    trained: int = 1  # with gradients and the optimiser's two moments
    frozen: int = 0


def training(model: str, tokens: float, options: Any, forward: float, models: int = 1) -> Work:
    """The work of a training on `tokens`, of whose prompts the share `heldout` measures: before it, and after
    every epoch."""
    held = options.heldout * tokens * models
    learnt = (1 - options.heldout) * tokens * models * options.epochs
    return Work(model, learnt, held * (1 + options.epochs), forward=forward)


@dataclass(frozen=True)
class Asked:
    """What one kind of question costs: how many, and tokens of each."""

    model: ModelConfig
    calls: float
    shared: float  # prompt tokens that `of` questions have in common
    own: float = 0.0
    written: float = 0.0
    of: float = 1.0
    examines: bool = False  # of the judge's card, before it labels


@dataclass
class Plan:
    """The run as far as its stages have been gone through; each leaves behind what the next ones count on.

    Lengths are in tokens. `examined` says what the judge's card costs: (tokens of a question, principles of a
    pair, pairs) → questions. `imported` says what a folder of `rlaif data import` holds: (prompts,
    comparisons outside the held-out ones, `pair` of these).
    """

    config: Config
    constitution: Constitution
    templates: Templates
    train: int  # prompts, by split
    heldout: int
    wordings: int
    groups: Mapping[str, str | None]  # of the prompts, by id
    prompt: float  # mean length
    principles: float  # that apply to a prompt, on average
    examined: Callable[[float, float, int], list[Asked]]
    imported: Callable[[Path], tuple[int, int, tuple[float, float, float]]]
    k: int = 1  # responses a prompt
    response_tokens: float = 0.0  # most tokens of a response
    responses: int = 0
    originals: int = 0  # responses that have been revised
    revisions: int = 0
    comparisons: int = 0
    paired: int = 0  # prompts that have comparisons
    pair: tuple[float, float, float] = (
        0.0,
        0.0,
        0.0,
    )  # tokens of conversation and response, principles that apply
    policies: int = 1
    characters: float = CHARACTERS  # in a token

    @property
    def row(self) -> float:
        """Tokens of a prompt and its response."""
        return self.prompt + self.response_tokens

    def tokens(self, *texts: str) -> float:
        """Roughly how many tokens texts have."""
        return sum(map(len, texts)) / self.characters

    def tokens_in(self, *files: str) -> float:
        """Tokens of files of text, by their size; a folder, or what is not there, counts as nothing."""
        return sum(Path(file).stat().st_size for file in files if Path(file).is_file()) / self.characters

    def template(self) -> float:
        """Tokens of the judge's question around conversation and responses."""
        return self.tokens(self.templates.comparison([{"role": "user", "content": ""}], "", "")[0]["content"])

    def suffix(self) -> float:
        """Tokens of a principle as the judge reads it."""
        rules = self.constitution.principles
        return self.tokens(*map(self.templates.comparison_suffix, rules)) / len(rules)

    def verdict_tokens(self) -> int:
        """Tokens written for a verdict: endpoints write at least one."""
        return int(self.config.feedback.kind.served)

    def pointwise(self, responses: float, length: float) -> list[Asked]:
        """The judge's opinion of single responses."""
        calls = round_up(responses * self.principles)
        if not calls:
            return []
        shared, group = self.template() + self.prompt + length, max(1, self.principles)
        return [Asked(self.config.feedback, calls, shared, self.suffix(), self.verdict_tokens(), group)]

    def evaluated(self, limit: int | None) -> int:
        """Prompts that policies are evaluated on: of each held-out split at most `limit`."""
        return sum(n if limit is None else min(n, limit) for n in (self.heldout, self.wordings))


def round_up(x: float) -> int:
    """The next whole number."""
    return -int(-x // 1)
