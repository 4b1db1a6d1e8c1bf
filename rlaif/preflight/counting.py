"""What questions would take: an engine that counts them and answers nothing; and how many a label stage asks,
where its comparisons and earlier labels are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaif.config import Config
from rlaif.engines import GenerateRequest, Generation, ScoreRequest, Scores, Usage
from rlaif.feedback.judge import slot_of
from rlaif.options import LabelOptions
from rlaif.options.plan import CHARACTERS
from rlaif.preflight.calibration import calibrated
from rlaif.records import Comparison, Label, Prompt
from rlaif.runs.folder import Stage, label_files
from rlaif.runs.lookup import Lookup
from rlaif.runs.rows import RowFile
from rlaif.runs.spending import money
from rlaif.stats import sum_known


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


def judge_of_labels(files: Sequence[Path]) -> str:
    """The fingerprint of the judge whose labels the files hold; empty where people alone labelled."""
    rows = (row for file in files for row in RowFile(file, Label))
    return next((row.judge["model"] for row in rows if row.annotator.kind == "ai" and row.judge), "")


def counted(row: dict[str, Any], stage: Stage[Any]) -> dict[str, Any]:
    """A stage's row of an estimate; exact where the stage takes labels over and its comparisons are there.

    The row's calls are then those for labels that nobody has yet, and its `labels_from` also has how many
    labels are `expected`, `taken_over`, and there already (`own`).
    """
    options, said = stage.options, row.get("labels_from")
    if not isinstance(options, LabelOptions) or not said or not said["same_judge"] or not options.ai:
        return row
    if (options.human and options.ai == "rest") or not all(
        earlier.is_done for earlier in stage.run.stages[: stage.number - 1]
    ):
        return row
    found, engine, examines = _asked_of(stage)
    used = cost_of(engine, stage)
    if examines and "judge_card" in row:
        used = {key: sum_known([value, row["judge_card"][key]]) for key, value in used.items()}
    kept = {key: value for key, value in row.items() if key != "judge_card" or examines}
    return kept | used | {"labels_from": said | found}


def _asked_of(stage: Stage[LabelOptions]) -> tuple[dict[str, int], CountingEngine, bool]:
    """How many labels there are; the questions left, counted; whether the judge's card is made first."""
    from rlaif.audit.gate import known_card  # these import what asks models
    from rlaif.stages.label import Questions, asked_of_judge, judge_of

    earlier, own = label_files(Path(str(stage.options.labels_from))), [stage.dir / "labels.jsonl"]
    engine = CountingEngine(judge_of_labels([*own, *earlier]))
    judge, numbers = judge_of(stage, engine), Counter[str]()
    stored = [Lookup(files, Label, "comparison_id") for files in (earlier, own)]
    for chunk in Questions(stage, RowFile(stage.input("comparisons"), Comparison)).chunks():
        asked = asked_of_judge(stage, chunk, {})
        expected = judge.expected_slots(asked)
        theirs, ours = ([row for q in asked for row in rows.all(q.comparison.id)] for rows in stored)
        given = {slot_of(row) for row in theirs if row.reason != Label.NUMBERLESS} & expected
        mine = {slot_of(row) for row in ours} & expected - given
        numbers.update(expected=len(expected), taken_over=len(given), own=len(mine))
        for _ in judge.compare(asked, mine, given):
            pass
    missing = numbers["expected"] - numbers["taken_over"] - numbers["own"]
    return dict(numbers), engine, bool(missing) and known_card(stage, judge) is None
