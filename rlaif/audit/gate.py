"""The gate before labelling: a small audit on pairs about to be labelled, against the thresholds in the
config."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlaif.audit.audit import Audit
from rlaif.audit.card import tokenizer_of
from rlaif.audit.cases import AuditCase, from_examples, with_truth
from rlaif.audit.page import write_card
from rlaif.audit.thresholds import failures, undecided
from rlaif.errors import UserError
from rlaif.feedback.gold import load_gold
from rlaif.feedback.judge import Judge, JudgeQuestion
from rlaif.runs.folder import Stage, label_files
from rlaif.runs.seeds import derive_seed
from rlaif.runs.storage import read_json, write_json


def check_judge(stage: Stage, judge: Judge, questions: Iterable[JudgeQuestion]) -> None:
    """Leave judge_card.json in the stage's folder; raises UserError where it fails and the config enforces
    it. What the pairs are too few to decide stands in the notes.

    A card is made once for a judge and its template: where labels are taken over, so is the card that they
    had. Without `judge_card` in the config nothing is asked, and the notes say that no card was seen.
    """
    limits = stage.config.judge_card
    if limits is None:
        stage.notes.append(
            "no judge card was seen: judge_card in the config sets thresholds, `rlaif judge audit` makes "
            "a card"
        )
        return
    path = stage.dir / "judge_card.json"
    card = known_card(stage, judge)
    if card is None:
        drawn = heapq.nsmallest(
            limits.num_pairs, questions, key=lambda q: derive_seed(stage.seed, "card", q.comparison.id)
        )
        card = {
            **audit_of_stage(stage, judge, drawn, limits.num_pairs).card(),
            "gold": stage.config.gold,
            "left_out": {},
        }
    if not path.exists() or read_json(path) != card:
        write_json(path, card)
        write_card(path.with_suffix(".html"), card)
    failed = failures(card, limits)
    if failed and limits.enforce:
        raise UserError(
            "\n".join(
                [
                    f"{stage.dir.name}: the judge's card fails ({path.with_suffix('.html')}):",
                    *(f"  {line}" for line in failed),
                ]
            ),
            "a judge that meets judge_card in the config",
            "use another feedback model or wording, or label all the same: -s judge_card.enforce=false",
        )
    stage.notes += [f"the judge's card is inconclusive: {line}" for line in undecided(card, limits)]
    stage.notes += [f"the judge's card fails, and labels were made all the same: {line}" for line in failed]


def known_card(stage: Stage, judge: Judge) -> dict[str, Any] | None:
    """The card of this judge and its template, the stage's or that of the run it takes labels from.

    None where it is still to be made.
    """
    earlier = stage.options.labels_from
    folders = [stage.dir, *(file.parent for file in label_files(Path(earlier)))] if earlier else [stage.dir]
    cards = (read_json(p) for folder in folders if (p := folder / "judge_card.json").exists())
    return next((card for card in cards if _same(card["judge"], judge, stage)), None)


def _same(known: dict[str, str], judge: Judge, stage: Stage) -> bool:
    """Whether a card is of this judge, asked by these templates."""
    own = judge.identity(stage.constitution.principles[0])
    return all(known[key] == own[key] for key in ("model", "template"))


def num_varied(pairs: int) -> int:
    """How many of the gate's pairs are varied, and attacked in each way."""
    return max(8, pairs // 2)


def audit_of_stage(stage: Stage, judge: Judge, questions: Iterable[JudgeQuestion], pairs: int) -> Audit:
    """The audit of a stage's judge on some of its own questions and on the constitution's examples."""
    gold = load_gold(stage.config.gold, stage.constitution)
    own = [with_truth(AuditCase(question), gold) for question in questions]
    examples = from_examples(stage.constitution, stage.seed, judge.shots)
    return Audit(
        judge,
        stage.constitution,
        [*examples, *own],
        stage.seed,
        num_varied(pairs),
        gold,
        tokenizer_of(stage.config),
        stage.run.progress,
    )
