"""The gate before labelling: a small audit on pairs about to be labelled, against the thresholds in the config."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from rlaif.auditing.audit import Audit
from rlaif.auditing.card import failures, tokenizer_of
from rlaif.auditing.cases import Case, from_examples, with_truth
from rlaif.auditing.page import write_card
from rlaif.errors import UserError
from rlaif.gold import load_gold
from rlaif.judge import Judge, Question
from rlaif.runfolder import Stage, read_json, write_json
from rlaif.seeds import derive_seed


def check_judge(stage: Stage, judge: Judge, questions: Iterable[Question]) -> None:
    """Leave judge_card.json in the stage's folder; raises UserError where it fails and the config enforces it.

    Without `judge_card` in the config nothing is asked, and the notes say that no card was seen.
    """
    limits = stage.config.judge_card
    if limits is None:
        stage.notes.append(
            "no judge card was seen: judge_card in the config sets thresholds, `rlaif judge audit` makes a card"
        )
        return
    path = stage.dir / "judge_card.json"
    card = read_json(path) if path.exists() else None
    if card is None or card["judge"]["model"] != judge.engine.fingerprint:
        drawn = heapq.nsmallest(
            limits.pairs, questions, key=lambda q: derive_seed(stage.seed, "card", q.comparison.id)
        )
        card = {
            **audit_of_stage(stage, judge, drawn, limits.pairs).card(),
            "gold": stage.config.gold,
            "left_out": {},
        }
        write_json(path, card)
        write_card(path.with_suffix(".html"), card)
    failed = failures(card, limits)
    if failed and limits.enforce:
        raise UserError("\n".join([f"{stage.dir.name}: the judge's card fails ({path.with_suffix('.html')}):", *(f"  {line}" for line in failed)]),
                        "a judge that meets judge_card in the config",
                        "use another feedback model or wording, or label all the same: -s judge_card.enforce=false")  # fmt: skip
    stage.notes += [f"the judge's card fails, and labels were made all the same: {line}" for line in failed]


def varied(pairs: int) -> int:
    """How many of the gate's pairs are varied, and attacked in each way."""
    return max(8, pairs // 2)


def audit_of_stage(stage: Stage, judge: Judge, questions: Iterable[Question], pairs: int) -> Audit:
    """The audit of a stage's judge on some of its own questions and on the constitution's examples."""
    gold = load_gold(stage.config.gold, stage.constitution)
    own = [with_truth(Case(question), gold) for question in questions]
    examples = from_examples(stage.constitution, stage.seed, judge.shots)
    return Audit(
        judge, stage.constitution, [*examples, *own], stage.seed,
        varied(pairs), gold, tokenizer_of(stage.config), stage.run.progress,
    )  # fmt: skip
