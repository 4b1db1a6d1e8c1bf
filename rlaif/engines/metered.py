"""An engine that counts its questions in the run's ledger and asks none that could exceed
the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from rlaif.engines import Engine, GenerateRequest, Generation, ScoreRequest, Scores
from rlaif.engines.responses import READS, VERDICT_TOKENS
from rlaif.runs.spending import Account

Q = TypeVar("Q", GenerateRequest, ScoreRequest)
A = TypeVar("A")
TURN = 32  # tokens a chat template may put around a turn


class MeteredEngine:
    """The engine behind, with an account; what comes from a cache costs nothing."""

    def __init__(self, engine: Engine, model: str, account: Account) -> None:
        self.engine, self.model, self.account = engine, model, account
        self.usage, self.notes, self.batched = engine.usage, engine.notes, engine.batched
        self._counted = engine.usage.as_dict()
        account.track_notes(engine.notes)
        self._tries = READS + 1 if account.ledger.by_endpoint(model) else 1

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the engine behind."""
        return self.engine.fingerprint

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """As many of the requests at once as the budget surely allows, until none is left or none fits."""
        yield from self._within_budget(requests, self.engine.generate, _max_new_tokens)

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """The same for questions."""
        yield from self._within_budget(requests, self.engine.score_choices, self._max_prompt_tokens)

    def _within_budget(
        self,
        requests: Sequence[Q],
        ask: Callable[[Sequence[Q]], Iterator[tuple[int, A]]],
        most: Callable[[Q], dict[str, float]],
    ) -> Iterator[tuple[int, A]]:
        ledger, start = self.account.ledger, 0
        while start < len(requests):
            part = requests[start:]
            if ledger.remaining():
                part = part[: ledger.affordable(self.model, map(most, part))]
            try:
                for index, response in ask(part):
                    self._count()
                    yield start + index, response
            except BaseException:  # what cannot be written now is written with what comes next, or told by it
                with suppress(OSError):
                    self._count()
                    ledger.flush()
                raise
            self._count()
            ledger.flush()
            start += len(part)

    def _max_prompt_tokens(self, request: ScoreRequest) -> dict[str, float]:
        shared, count = _size(request.messages), len(request.suffixes)
        own = sum(len(suffix.encode(errors="surrogatepass")) for suffix in request.suffixes)
        return {
            "calls": self._tries * count,
            "prompt_tokens": self._tries * (shared * count + own),
            "tokens": (READS + VERDICT_TOKENS) * count,
        }

    def _count(self) -> None:
        now: dict[str, Any] = self.engine.usage.as_dict()
        new = {key: n - self._counted.get(key, 0) for key, n in now.items() if n != self._counted.get(key, 0)}
        self._counted = now
        if new:
            self.account.spend(self.model, new)


def _size(messages: Sequence[dict[str, str]]) -> int:
    """The most tokens a conversation can have: no tokenizer needs more than one for a byte."""
    return sum(len(m["content"].encode(errors="surrogatepass")) + TURN for m in messages) + TURN


def _max_new_tokens(request: GenerateRequest) -> dict[str, float]:
    return {"calls": 1, "prompt_tokens": _size(request.messages), "tokens": request.max_tokens}
