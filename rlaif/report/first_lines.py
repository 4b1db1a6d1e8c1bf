"""What a reader of a comparison asks first, answered in a line each: the judge, the labels, the cost, the
disagreements, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif.pages.page import ci, count, fixed
from rlaif.report.arms import Arm
from rlaif.report.comparison_text import capital
from rlaif.report.cost import cost
from rlaif.report.differences import REPEATED, affects_results
from rlaif.report.fairness import BOTH, NEITHER, PARTIAL

FEW_GROUPS = 20  # of prompts, below which the prompts ask few different things
Data = Mapping[str, Any]


def first_lines(a: Arm, b: Arm, data: Data) -> dict[str, str]:
    """Question → answer, of one arm against another."""
    found = {
        "judge": _judge(a, b, data) if data["prompts"] else "",
        "labels": _labels(a, b, data),
        "cost": "; ".join(
            f"{arm.name}: {cost_in_words([cost(s.reader) for s in arm.sides])}" for arm in (a, b)
        )
        + ".",
        "disagreements": " ".join(_disagreements(a, b, data)),
        "not_known": capital("; ".join(_not_known(a, b, data))) + ".",
    }
    return {question: answer for question, answer in found.items() if answer}


def _judge(a: Arm, b: Arm, data: Data) -> str:
    win = data["win_rate"]
    if win["judge"] is None:
        return "No judge could be asked."
    model = win["judge_model"]
    model = Path(model).name if Path(model).is_absolute() else model
    if not win["n"]:
        return (
            f"The judge {model} gave no verdict that could be read."
            if win["invalid"] == 1
            else f"The judge {model} was not asked: no principle applies to any of the held-out prompts."
        )
    rate = (
        f"prefers {a.name} in {fixed(win['value'], 3)} {ci(win['ci'], 3)} of {win['n']} held-out responses, "
        "ties counting half"
    )
    if win["taught"] == NEITHER:
        return f"The judge {model}, which taught neither, {rate}."
    arm = {a.letter: a.name, b.letter: b.name, BOTH: "both"}[win["taught"]]
    return f"The judge {model}, which taught {arm}, {rate}. No judge that taught neither was asked (--judge)."


def _labels(a: Arm, b: Arm, data: Data) -> str:
    found = data["labels"]
    right = [arm.first.reader.metrics("label") for arm in (a, b)]
    gold = " and ".join(
        f"{arm.name}'s in {fixed(own['agreement_with_gold'], 3)} {ci(own['agreement_with_gold_ci'], 3)}"
        for arm, own in zip((a, b), right, strict=True)
        if own.get("agreement_with_gold") is not None and own.get("agreement_with_gold_ci")
    )
    truth = f" Of what gold decides, they are right: {gold}." if gold else ""
    if not found["shared"]:
        return f"No comparison was labelled in both runs, so that their labels cannot be compared.{truth}"
    return (
        f"They agree in {fixed(found['agreement'], 3)} {ci(found['agreement_ci'], 3)} of the "
        f"{found['shared']} comparisons that both labelled, kappa {fixed(found['kappa'], 3)} "
        f"{ci(found['kappa_ci'], 3)}.{truth}"
    )


def cost_in_words(runs: Sequence[Mapping[str, Any]]) -> str:
    """The cost of an arm's runs as a phrase, their mean where there are several."""

    def over(key: str) -> float:
        return sum(row[key] or 0 for row in runs) / len(runs)

    labels = [
        f"{count(over(key))} {what}"
        for key, what in (("ai_labels", "AI"), ("people", "human"), ("simulated", "simulated human"))
        if over(key)
    ]
    parts = [
        *([f"{' and '.join(labels)} labels"] if labels else ["no labels"]),
        f"{count(over('calls'))} questions to models",
        f"{count(over('prompt_tokens'))} tokens read and {count(over('tokens'))} written",
        f"{count(over('seconds'))} seconds",
    ]
    if over("people"):
        timed = all(row["people_hours"] is not None for row in runs if row["people"])
        hours = f"{fixed(over('people_hours'))} hours of people"
        parts.append(hours if timed else "people's time not measured")
    priced = all(row["money"] is not None for row in runs)
    parts.append(f"{fixed(over('money'))} money" if priced else "money not known")
    return ", ".join(parts) + (f" (mean of {len(runs)} runs)" if len(runs) > 1 else "")


def _disagreements(a: Arm, b: Arm, data: Data) -> Iterator[str]:
    turned, ahead = data["labels"]["preferences"], data.get("gold_ahead")
    if turned:
        yield f"{turned['changed']} of {turned['both']} preferences change from {a.name} to {b.name}."
        most = max(data["labels"]["principles"].items(), key=lambda row: row[1]["changed"], default=None)
        if most and most[1]["changed"]:
            yield f"Most verdicts change under {most[0]}: {most[1]['changed']} of {most[1]['both']}."
    if ahead:
        yield (
            f"By gold {a.name} keeps more principles on {ahead[a.letter]} responses, {b.name} on "
            f"{ahead[b.letter]}, both as many on {ahead['neither']}."
        )


def _not_known(a: Arm, b: Arm, data: Data) -> Iterator[str]:
    judged = data["verdict"]["measure"] == "judge"
    if any(judged or not reason.startswith(PARTIAL) for reason in data["unfair"]):
        yield "what would remain of it in a fair comparison"
    if data["prompts"] and len(a.sides) == len(b.sides) == 1:
        yield "whether other seeds would say the same (one of each)"
    if any("simulated" in arm.first.feedback for arm in (a, b)):
        yield "what people would have said: their labels are a program's"
    if data["prompts"] and "gold" not in data:
        yield "the truth: the runs have no gold scorer in common"
    if data["prompts"] and (groups := data["length"]["delta"]["groups"]) < FEW_GROUPS:
        yield f"what holds beyond the {groups} groups of held-out prompts"
    apart = [key for key in data["differs"]["config"] if _explains(key)]
    labels = [key for key in apart if key.startswith("label.")]
    if len(labels) < len(apart) and labels:
        others = [key for key in apart if key not in labels]
        yield f"what the labels alone do: {', '.join(others)} differ, too"
    if detectable := data["detectable"]:
        largest = 0.5 if judged else 1.0  # a win rate's distance from one half, a difference of two shares
        size = f"below about {fixed(detectable, 3)}" if detectable < largest else "of any size"
        yield f"differences {size}, which this sample has a power below 0.8 for"


def _explains(key: str) -> bool:
    return key not in REPEATED and affects_results(key)
