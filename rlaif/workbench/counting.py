"""What questions would take: an engine that counts them and answers nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlaif.config import Config
from rlaif.engines import GenerateRequest, Generation, ScoreRequest, Scores, Usage
from rlaif.options.plan import CHARACTERS
from rlaif.preflight.calibration import calibrated
from rlaif.records import Prompt
from rlaif.runs.folder import Stage
from rlaif.runs.rows import RowFile
from rlaif.runs.spending import money


@dataclass
class CountingEngine:
    """An engine under another one's fingerprint that no model stands behind."""

    fingerprint: str = ""
    calls: int = 0
    read: int = 0  # characters of all questions
    shared: int = 0  # of these, characters that several questions begin with, but for the first time
    written: int = 0  # tokens, at most
    usage: Usage = field(default_factory=Usage)
    notes: list[str] = field(default_factory=list)
    batched: bool = False

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Counts a text for each request, as long as it may be."""
        for index, request in enumerate(requests):
            self.calls += 1
            self.read += _size(request.messages)
            self.written += request.max_tokens
            yield index, Generation("counted", "stop")

    def score_choices(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Scores]]:
        """Counts a question for each suffix; none gets an answer."""
        for index, request in enumerate(requests):
            size, count = _size(request.messages), len(request.suffixes)
            self.calls += count
            self.read += count * size + sum(map(len, request.suffixes))
            self.shared += (count - 1) * size
            yield index, Scores(((),) * count)


def _size(messages: Sequence[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def cost_of(asked: CountingEngine, stage: Stage) -> dict[str, Any]:
    """Calls, tokens, seconds and money of what was counted, by the stage's feedback model.

    Tokens are a quarter of the characters, as in every estimate. Seconds are by the price table, else by what
    `--dry-run` has measured of the model here, else by what the stage itself took a token; None where nothing
    is known.
    """
    config = stage.config
    used = {
        "calls": asked.calls,
        "prompt_tokens": round(asked.read / CHARACTERS),
        "shared_tokens": round(asked.shared / CHARACTERS) if config.feedback.kind.shares_prefixes else 0,
        "tokens": asked.written + (asked.calls if config.feedback.kind.served else 0),
    }
    price = config.prices.get(config.feedback.model)
    return used | {
        "seconds": _seconds(used, stage) if asked.calls else 0.0,
        "money": money(used, price) if config.prices else None,
    }


def _seconds(used: dict[str, int], stage: Stage) -> float | None:
    config: Config = stage.config
    price, fresh = config.prices.get(config.feedback.model), used["prompt_tokens"] - used["shared_tokens"]
    if price and price.seconds is not None:
        return (fresh + used["tokens"]) / 1000 * price.seconds
    run = stage.run
    prompts = list(RowFile(run.path / "prompts.jsonl", Prompt))
    speed = calibrated(config, run.constitution, prompts, stage.templates, measure=False).get("feedback")
    if speed:
        return speed.load + fresh * speed.ask + used["tokens"] * speed.write
    then = stage.summary.get("usage", {})
    took = then.get("prompt_tokens", 0) - then.get("shared_tokens", 0) + then.get("tokens", 0)
    return stage.summary["seconds"] * (fresh + used["tokens"]) / took if took else None
