"""The judge card of a config or a model: opening what the audit needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlaif.audit import measures
from rlaif.audit.audit import Audit
from rlaif.audit.cases import from_examples, sampled
from rlaif.config import Config
from rlaif.constitution import Constitution
from rlaif.engines import Engine, open_engine
from rlaif.feedback.gold import load_gold
from rlaif.feedback.judge import Judge
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
    card = {**audit.card(), "gold": config.gold, "left_out": dict(left_out)}
    return card | before_fit(audit, config, base)


def before_fit(audit: Audit, config: Config, base: Path) -> dict[str, Any]:
    """The figures of the same cases without the judge's fit, as `before`; empty where it has none."""
    if config.feedback.fit is None:
        return {}
    plain = config.model_copy(update={"feedback": config.feedback.model_copy(update={"fit": None})})
    judge = judge_of(plain, base, audit.constitution)
    rows, _ = replace(audit, judge=judge).ask(audit.cases, "verdicts without the fit")
    figures = {
        "accuracy": measures.accuracy(rows),
        "calibration": measures.calibration(rows),
        "order": measures.order(rows),
    }
    return {"before": {"fit": config.feedback.fit, "model": judge.engine.fingerprint, **figures}}


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
