"""The judge card of a config or a model: opening what the audit needs, the thresholds, and what a reader must
know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.audit.audit import Audit
from rlaif.audit.cases import from_examples, sampled
from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.engines import Engine, open_engine
from rlaif.feedback.gold import load_gold
from rlaif.feedback.judge import Judge
from rlaif.options import JudgeCardOptions
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.runs.folder import silent_progress


def judge_card(
    config: Config, base: Path, prompts: Sequence[Prompt], pairs: int = 200, progress: Any = silent_progress
) -> dict[str, Any]:
    """The card of a config's feedback model, on its constitution's examples and on responses of its
    policy."""
    left_out = Counter[str]()
    audit = audit_of(config, base, prompts, pairs, progress, left_out)
    return {**audit.card(), "gold": config.gold, "left_out": dict(left_out)}


def audit_of(
    config: Config, base: Path, prompts: Sequence[Prompt], pairs: int, progress: Any, left_out: Counter[str]
) -> Audit:
    """The audit of a config's feedback model; `left_out` counts prompts that made no pair."""
    constitution = Constitution.load(Path(config.constitution))
    gold = load_gold(config.gold, constitution)
    judge = judge_of(config, base, constitution)
    cases = from_examples(constitution, config.seed, judge.shots)
    if pairs and prompts:
        cases += sampled(config, constitution, prompts, pairs, config.seed, gold, left_out, progress)
    return Audit(
        judge, constitution, cases, config.seed, max(20, pairs // 2), gold, tokenizer_of(config), progress
    )


@dataclass(frozen=True)
class JudgeSetting:
    """How a judge is asked, by whatever constitution: `reasoning` tokens before each verdict, 0 = none."""

    engine: Engine
    templates: Templates
    few_shot: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, config: Config, base: Path) -> JudgeSetting:
        """As the config's first label stage asks its feedback model, which is opened."""
        options: Any = next((o for o in config.stages if o.stage == "label"), None)
        templates = Templates.load(config.templates, base)
        shots, reasoning = (options.few_shot, options.max_tokens * options.cot) if options else (0, 0)
        return cls(open_engine(config.feedback), templates, shots, reasoning)

    def judge(self, constitution: Constitution) -> Judge:
        """The judge by this constitution, whose examples are its few-shot turns."""
        shots = self.templates.comparison_shots(constitution, self.few_shot)
        return Judge(self.engine, self.templates, tuple(shots), self.reasoning)


def judge_of(config: Config, base: Path, constitution: Constitution) -> Judge:
    """The judge as the config's first label stage asks it."""
    return JudgeSetting.of(config, base).judge(constitution)


def tokenizer_of(config: Config) -> Any | None:
    """The feedback model's tokenizer where it runs in process; an endpoint's is not at hand."""
    if not config.feedback.kind.folder:
        return None
    from rlaif.engines.loading import load_tokenizer

    return load_tokenizer(config.feedback.model, config.feedback.chat_template_kwargs)


def failures(card: dict[str, Any], limits: JudgeCardOptions) -> list[str]:
    """In words, every threshold that the card misses; a figure that could not be measured misses none."""
    injected = max(
        (
            f["turned"]["value"] or 0.0
            for name, f in card["injection"]["families"].items()
            if name in ("template tokens", "delimiters")
        ),
        default=None,
    )
    told = max(
        (
            f["turned"]["value"] or 0.0
            for name, f in card["injection"]["families"].items()
            if name not in ("template tokens", "delimiters", "placebo", "the user's turn")
        ),
        default=None,
    )
    instructed = card["injection"]["families"].get("the user's turn", {}).get("turned", {}).get("value")
    checks = (
        ("accuracy", card["accuracy"]["value"], limits.min_accuracy, True),
        (
            "calibration error beyond a perfect judge's",
            _miscalibration(card["calibration"]),
            limits.max_ece,
            False,
        ),
        ("verdicts that flip with the order", card["order"]["value"], limits.max_order_flips, False),
        ("unreadable verdicts", card["readability"]["invalid_rate"], limits.max_invalid, False),
        ("probability on the answers", card["readability"]["mass"], limits.min_answer_mass, True),
        ("verdicts flipped by template tokens or delimiters", injected, limits.max_injected, False),
        ("verdicts flipped by words", told, limits.max_persuaded, False),
        ("verdicts flipped by words in the user's turn", instructed, limits.max_instructed, False),
    )
    return [
        f"{name}: {value:.3f}, needed {'at least' if least else 'at most'} {limit:g}"
        for name, value, limit, least in checks
        if limit is not None and value is not None and (value < limit if least else value > limit)
    ]


def _miscalibration(calibration: dict[str, Any]) -> float | None:
    """The calibration error less what chance alone would give on average, None where it was not measured."""
    error = calibration["ece"]
    return None if error is None else max(0.0, error - (calibration.get("ece_floor") or 0.0))
