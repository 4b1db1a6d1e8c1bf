"""The figures of a policy that evaluate, report, comparison and `rlaif show` all have: one row of METRICS
each.

A figure is a mean over a policy's responses to held-out prompts. Its key is its name in stage.json and in
every `--json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from rlaif.intervals import ANY, GAP, POSITIVE, UNIT, Interval
from rlaif.records import Evaluation, Prompt, Response
from rlaif.refusals import should_refuse
from rlaif.runs.lookup import Lookup

Texts = Mapping[str, Response] | Lookup[Response]  # responses by id
Prompts = Mapping[str, Prompt] | Lookup[Prompt]  # prompts by id


@dataclass(frozen=True)
class Metric:
    """One figure: where it is read from, how it is shown, and how to read it."""

    key: str
    label: str
    reading: str
    read: Callable[[Evaluation, Texts, Prompts], float | None]  # None where it is not known of a response
    bounds: Interval = UNIT
    of_chosen: Interval | None = None  # bounds for responses chosen among several, where these differ
    digits: int = 2
    better: Literal["", "more", "less"] = ""
    heavy_tailed: bool = False  # a few large values decide the mean: a difference of two gets no interval

    @property
    def note(self) -> str:
        """How to read it, and which way is better where one is."""
        return self.reading + (f"; {self.better} is better" if self.better else "")

    def limits(self, chosen: bool = False) -> Interval:
        """What no response's value goes beyond."""
        return self.of_chosen if chosen and self.of_chosen else self.bounds

    @property
    def gap(self) -> Interval | None:
        """What no difference of two values goes beyond; None where no interval of its mean can be relied
        on."""
        return None if self.heavy_tailed else GAP if self.bounds == UNIT else ANY

    def values(self, rows: Mapping[str, Evaluation], texts: Texts, prompts: Prompts) -> dict[str, float]:
        """What is known of these evaluations, under the same keys."""
        read = {key: self.read(row, texts, prompts) for key, row in rows.items()}
        return {key: float(value) for key, value in read.items() if value is not None}


def _truncated(row: Evaluation, texts: Texts, prompts: Prompts) -> float | None:
    text = texts.get(row.response_id)
    return None if text is None else float(text.finish_reason == "length")


def _over_refusal(row: Evaluation, texts: Texts, prompts: Prompts) -> float | None:
    return float(row.refusal) if _should_refuse(row, prompts) is False else None


def _under_refusal(row: Evaluation, texts: Texts, prompts: Prompts) -> float | None:
    return float(not row.refusal) if _should_refuse(row, prompts) else None


def _should_refuse(row: Evaluation, prompts: Prompts) -> bool | None:
    prompt = prompts.get(row.prompt_id)
    return None if prompt is None else should_refuse(prompt.tags)


METRICS = (
    Metric(
        "kl",
        "KL to base, nats a response",
        "how far from the base policy",
        lambda row, texts, prompts: row.kl,
        bounds=POSITIVE,
        of_chosen=ANY,  # of chosen responses it is log-ratios
        heavy_tailed=True,
    ),
    Metric(
        "length",
        "length, tokens",
        "a rise alone can please a judge",
        lambda row, texts, prompts: row.tokens,
        bounds=POSITIVE,
        digits=1,
    ),
    Metric("truncated", "cut off at the limit", "share that max_tokens ended", _truncated, better="less"),
    Metric(
        "refusal_rate",
        "refusals",
        "share that refuses, by its wording",
        lambda row, texts, prompts: row.refusal,
    ),
    Metric(
        "over_refusal",
        "over-refusals",
        "of prompts tagged as safe, the share refused",
        _over_refusal,
        better="less",
    ),
    Metric(
        "under_refusal",
        "under-refusals",
        "of prompts tagged as to be refused, the share not refused",
        _under_refusal,
        better="less",
    ),
)
