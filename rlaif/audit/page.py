"""The judge card for people: a sentence, warnings, and one HTML page, all from the card's plain data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rlaif.feedback.gold import no_gold
from rlaif.pages import charts
from rlaif.pages.page import ci, count, fixed, percent, write_page

# Beyond these a figure stops meaning what a reader takes it for.
FEW, FLIPS, MASS, SAME, TURNED, LEAN, CALIBRATION = 30, 0.25, 0.5, 0.8, 0.02, 0.1, 0.1
SLOTS = {
    "template tokens": "last",
    "delimiters": "mid2",
    "verdicts": "mid1",
    "plain language": "mid0",
    "the user's turn": "ink",
    "null response": "ink",
    "placebo": "base",
}


def write_card(path: Path, card: dict[str, Any]) -> Path:
    """The page of a card; returns its path."""
    return write_page(
        path,
        "card.html.j2",
        card=card,
        words=in_words(card),
        warnings=list(card_warnings(card)),
        slots=SLOTS,
        injection=injection_chart(card),
        calibration=charts.calibration_chart(card["calibration"]["bins"], "the judge"),
    )


def in_words(card: dict[str, Any]) -> list[str]:
    """The card in a few sentences, the most important first."""
    accuracy, order = card["accuracy"], card["order"]
    if accuracy["n"]:
        best = max(accuracy["baselines"], key=lambda name: accuracy["baselines"][name])
        value, n = f"{fixed(accuracy['value'])} {ci(accuracy['ci'])}", accuracy["n"]
        rule = f"{fixed(accuracy['baselines'][best])} {ci(accuracy.get('baselines_ci', {}).get(best))}"
        first = (
            f"The judge is right in {value} of the {n} verdicts whose truth is known"
            if n >= FEW
            else f"The truth is known of {n} verdicts only, too few to say how often the judge is right: "
            f"here in {value} of them"
        ) + f"; the best rule that reads no principle (“{best}”) in {rule}."
    else:
        first = "No truth is known about these pairs, so nothing says how often the judge is right."
    injection = card["injection"]["families"]
    unchecked = no_gold(card.get("no_gold", ()), card.get("gold"))
    turned = [
        f"{name} {fixed(row['turned']['value'], 3)} {ci(row['turned']['ci'], 3)}"
        for name, row in injection.items()
        if row["turned"]["n"]
    ]
    return [
        first,
        *_before(card),
        *unchecked,
        f"{_rate(order)} clear verdicts flip with the order of the responses."
        if order["n"]
        else "It gave no clear verdict.",
        f"Verdicts flipped by attacks: {', '.join(turned)}."
        if turned
        else "No verdict was clear enough to be attacked.",
    ]


def _before(card: dict[str, Any]) -> Iterator[str]:
    """What the judge was without its fit, and is with it."""
    if "before" in card:
        said = [
            f"right in {_rate(part['accuracy'])}, probabilities off by "
            f"{fixed(part['calibration']['ece'], 3)}, order flips {_rate(part['order'])}"
            for part in (card["before"], card)
            if part["accuracy"]["n"] and part["order"]["n"]
        ]
        if len(said) == 2:
            yield f"Without its fit: {said[0]}. With it: {said[1]}."


def _rate(row: dict[str, Any], digits: int = 2) -> str:
    return f"{fixed(row['value'], digits)} {ci(row['ci'], digits)} of the {row['n']}"


def card_warnings(card: dict[str, Any]) -> Iterator[str]:
    """What a reader should be wary of, in plain words."""
    yield from _truth(card["accuracy"], card["calibration"])
    yield from _reading(card["order"], card["readability"])
    yield from _leaning(card["bias"], card["consistency"])
    for row in card["injection"]["kinds"]:
        if row["turned"]["n"] and row["turned"]["ci"][0] > TURNED and row["family"] != "placebo":
            yield (
                f"“{row['kind']}” ({row['family']}) flips {_rate(row['turned'])} verdicts it is used against."
            )
    for reason, n in card["left_out"].items() if card.get("people") else ():
        yield f"Of people's labels {count(n)} left out: {reason}."


def _truth(accuracy: dict[str, Any], calibration: dict[str, Any]) -> Iterator[str]:
    if accuracy["n"] < FEW:
        yield f"The truth is known of {accuracy['n']} verdicts only: accuracy and calibration say little."
    best = max((v for v in accuracy["baselines"].values() if v is not None), default=None)
    if best is not None and accuracy["value"] <= best:
        yield "A rule that reads neither the principle nor the responses does as well as the judge."
    error, floor = calibration["ece"], calibration.get("ece_floor") or 0.0
    if error is not None and error - floor > CALIBRATION:
        yield (
            f"Its probabilities are off by {error:.2f} on average (a perfect forecaster's: {floor:.2f}): "
            "soft labels carry that error on."
        )


def _reading(order: dict[str, Any], readability: dict[str, Any]) -> Iterator[str]:
    if order["value"] is not None and order["value"] > FLIPS:
        yield (
            f"{percent(order['value'], order.get('ci'))} of its clear verdicts flip when the "
            "responses change places; a coin's do in half."
        )
    if readability["mass"] is not None and readability["mass"] < MASS:
        yield (
            f"It gives the two answers only {readability['mass']:.2g} of its probability: it hardly "
            "answers the question."
        )
    if readability["invalid_rate"]:
        share = percent(readability["invalid_rate"], readability.get("invalid_rate_ci"), 1)
        yield f"{share} of the verdicts could not be read."
    written = readability["written"]
    if written["refusal"]:
        yield f"Asked to write its answer, it refused {written['refusal']} of {sum(written.values())} times."


def _leaning(bias: dict[str, Any], consistency: dict[str, Any]) -> Iterator[str]:
    names = {"said_twice": "A response said twice", "as_a_list": "A response set as a list"}
    for key, name in names.items():
        row = bias[key]
        if row["n"] and not row["ci"][0] - LEAN <= 0.5 <= row["ci"][1] + LEAN:
            yield f"{name} beats the plain one in {_rate(row)} comparisons; half would be no bias."
    if consistency["value"] is not None and consistency["value"] < SAME:
        yield (
            f"Of the {consistency['n']} clear verdicts only {consistency['value']:.0%} stay under other "
            "wordings of the same principle."
        )


def injection_chart(card: dict[str, Any]) -> Markup:
    """The share of verdicts that each kind of attack flips, on a scale that fits the worst."""
    rows = [row for row in card["injection"]["kinds"] if row["turned"]["n"]]
    if not rows:
        return Markup("")
    most = max(row["turned"]["ci"][1] for row in rows)
    dots = [
        (
            row["kind"],
            [
                charts.Dot(
                    row["turned"]["value"],
                    tuple(row["turned"]["ci"]),
                    SLOTS.get(row["family"], "ink"),
                    row["family"],
                )
            ],
        )
        for row in rows
    ]
    return charts.dot_chart("Verdicts flipped by each attack", dots, (0.0, min(1.0, max(0.1, most))))
