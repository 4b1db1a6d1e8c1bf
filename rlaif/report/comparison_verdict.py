"""Which of two arms is ahead, in one sentence: by gold where there is one, otherwise by the judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlaif.pages.page import ci, fixed, signed
from rlaif.report.arms import Arm
from rlaif.report.comparison_text import capital

Data = Mapping[str, Any]


def verdict(a: Arm, b: Arm, data: Data) -> dict[str, Any]:
    """`winner` (a letter, or None), `measure` (what decides), `text`, and which `principles` differ.

    A judge that taught the arm it prefers, and not the other one, declares no winner.
    """
    measure, change, figures = _figures(a, b, data)
    if measure is None:
        return {
            "winner": None,
            "measure": None,
            "text": f"{_question(a, b, data)} {figures}",
            "principles": "",
        }
    winner = (a if change["value"] > 0 else b) if change["different"] else None
    if winner and measure == "judge" and data["win_rate"]["taught"] == winner.letter:
        said = f"Not known: the judge taught {winner.name} and not the other; {figures}."
        winner = None
    elif winner is None and not _known(change["ci"]):
        said = f"Not known, so few prompts and seeds allow no interval: {figures}."
    else:
        said = f"{_called(winner, a, b)}: {figures}." if winner else f"No difference shown: {figures}."
    more = "A gap of this size is within seed noise." if data["same_config"] else _principles(data, measure)
    return {
        "winner": winner and winner.letter,
        "measure": measure,
        "text": f"{_question(a, b, data)} {said}",
        "principles": more,
    }


def _known(edges: Any) -> bool:
    return edges is not None and all(edge is not None and math.isfinite(edge) for edge in edges)


def _question(a: Arm, b: Arm, data: Data) -> str:
    kinds = [arm.first.feedback for arm in (a, b)]
    if data["same_config"]:
        seeds = "two seeds" if "seed" in data["differs"]["config"] else "one seed"
        return f"{a.name} and {b.name} are one experiment under {seeds}."
    if kinds[0] != kinds[1]:
        return f"{capital(kinds[0])} or {kinds[1]} feedback?"
    return f"{a.name} or {b.name}?"


def _called(arm: Arm, a: Arm, b: Arm) -> str:
    kinds = {each.first.feedback for each in (a, b)}
    return f"{capital(arm.first.feedback)} ({arm.name})" if len(kinds) > 1 else arm.name


def _figures(a: Arm, b: Arm, data: Data) -> tuple[str | None, Mapping[str, Any], str]:
    """(what decides, its change, the figures in words)."""
    shift, win = data.get("gold", {}).get("delta", {}).get("all"), data["win_rate"]
    if shift:
        mine, theirs = (fixed(data["gold"][arm.letter]["all"]) for arm in (a, b))
        words = (
            f"{a.name} keeps every principle in {mine} of {shift['n']} held-out responses and "
            f"{b.name} in {theirs}, {signed(shift['value'])} {ci(shift['ci'])}"
        )
        return "gold", shift, words
    if win["n"]:
        change = {
            "value": win["value"] - 0.5,
            "ci": win["ci"],
            "different": win["different"] and not data["same_config"],
        }
        flips = win["order_flip_rate"]
        order = "no verdict is decided"
        if flips is not None:
            of = f"{fixed(flips)} {ci(win['order_flip_rate_ci'])}"
            order = f"of its decided verdicts {of} flip with the order"
        words = (
            f"the judge prefers {a.name} in {fixed(win['value'])} {ci(win['ci'])} of {win['n']} held-out "
            f"responses, ties ({fixed(win['ties'])} {ci(win['ties_ci'])}) counting half; {order}"
        )
        return "judge", change, words
    if not data["prompts"]:
        found = data["labels"]
        words = (
            f"Their labels agree in {fixed(found['agreement'])} {ci(found['agreement_ci'])} of the "
            f"{found['shared']} comparisons that both labelled (Cohen's kappa {fixed(found['kappa'])} "
            f"{ci(found['kappa_ci'])})."
        )
        return None, {}, words
    return None, {}, "There is neither gold nor a judge to say."


def _principles(data: Data, measure: str) -> str:
    table = (data.get("gold") if measure == "gold" else data["compliance"]) or {}
    apart = [
        f"{name} ({signed(change['value'])})"
        for name, change in table.get("delta", {}).items()
        if change["different"] and name != "all"
    ]
    if apart:
        return f"Principles that differ: {', '.join(apart)}."
    return "No single principle differs clearly."
