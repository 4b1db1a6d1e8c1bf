"""The thresholds of a judge card: each holds, fails, or is inconclusive on so few pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlaif.agreement.decisions import Decision, decide
from rlaif.intervals import Interval
from rlaif.options import JudgeCardOptions

MARGIN = 0.1  # beyond a threshold: what the power of a check is told for
TOKENS = ("template tokens", "delimiters")
NO_WORDS = (*TOKENS, "placebo", "the user's turn")


@dataclass(frozen=True)
class Check:
    """One figure of a card against its threshold."""

    name: str
    value: float
    ci: Interval | None
    decision: Decision

    @property
    def line(self) -> str:
        """The check in words."""
        said = self.decision
        needed = f"needed at {'least' if said['at_least'] else 'most'} {said['limit']:g}"
        if self.ci is None:
            return f"{self.name}: {self.value:.3f}, {needed}"
        interval = f"95 % interval {self.ci[0]:.3f} to {self.ci[1]:.3f}, n {said['n']}"
        more = ""
        if said["verdict"] == "inconclusive":
            more = (
                f"; about {said['more']} more would decide"
                if said["more"]
                else "; it is too near for a number of pairs to decide"
            )
        return f"{self.name}: {self.value:.3f}, {needed} ({interval}{more})"


def checks(card: dict[str, Any], limits: JudgeCardOptions) -> list[Check]:
    """Every figure of the card that could be measured and has a threshold.

    A figure without an interval (calibration error, probability on the answers) is taken as it is.
    """
    families = card["injection"]["families"]
    tokens = [f["turned"] for name, f in families.items() if name in TOKENS]
    words = [f["turned"] for name, f in families.items() if name not in NO_WORDS]
    instructed = [f["turned"] for name, f in families.items() if name == "the user's turn"]
    readability = card["readability"]
    unread = {
        "value": card["readability"]["invalid_rate"],
        "ci": readability.get("invalid_rate_ci"),
        "n": card.get("verdicts"),
    }
    miscalibrated = {"value": _miscalibration(card["calibration"])}
    error, answered = "calibration error beyond a perfect judge's", {"value": card["readability"]["mass"]}
    by_words = "verdicts flipped by words in the user's turn"
    found = (
        _check("accuracy", card["accuracy"], limits.min_accuracy, True),
        _check(error, miscalibrated, limits.max_ece, False),
        _check("verdicts that flip with the order", card["order"], limits.max_order_flips, False),
        _check("unreadable verdicts", unread, limits.max_invalid, False),
        _check("probability on the answers", answered, limits.min_answer_mass, True),
        _check(
            "verdicts flipped by template tokens or delimiters", _worst(tokens), limits.max_injected, False
        ),
        _check("verdicts flipped by words", _worst(words), limits.max_persuaded, False),
        _check(by_words, _worst(instructed), limits.max_instructed, False),
    )
    return [check for check in found if check is not None]


def failures(card: dict[str, Any], limits: JudgeCardOptions) -> list[str]:
    """In words, every threshold that the card is shown to miss."""
    return [check.line for check in checks(card, limits) if check.decision["verdict"] == "fails"]


def undecided(card: dict[str, Any], limits: JudgeCardOptions) -> list[str]:
    """In words, every threshold on which the card's pairs are too few to decide."""
    return [check.line for check in checks(card, limits) if check.decision["verdict"] == "inconclusive"]


def _check(name: str, figure: dict[str, Any], limit: float | None, at_least: bool) -> Check | None:
    value = figure.get("value")
    if limit is None or value is None:
        return None
    given = figure.get("ci")
    # An end of which nothing can be said leaves the check open; a figure that has no interval is taken as is.
    low, high = (value, value) if given is None else (math.nan if x is None else x for x in given)
    ci = (low, high) if given is not None and math.isfinite(low + high) else None
    return Check(name, value, ci, decide(value, (low, high), limit, MARGIN, figure.get("n") or 0, at_least))


def _worst(turned: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several kinds of attacks the figure of the one that turns most."""
    return max(turned, key=lambda row: row["value"] or 0.0, default={})


def _miscalibration(calibration: dict[str, Any]) -> float | None:
    """The calibration error less what chance alone would give on average, None where it was not measured."""
    error = calibration["ece"]
    return None if error is None else max(0.0, error - (calibration.get("ece_floor") or 0.0))
