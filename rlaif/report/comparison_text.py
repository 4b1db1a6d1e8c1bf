"""A comparison in words, for a terminal."""

from __future__ import annotations

from typing import Any

from rlaif.metrics import METRICS
from rlaif.pages.page import ci, difference_in_words, fixed, signed


def in_words(data: dict[str, Any]) -> list[str]:
    """A comparison as lines of text: the headline, then each figure with its interval."""
    lines: list[str] = []
    for pair in (data, *data["others"]):
        lines += [
            pair["verdict"]["text"],
            pair["verdict"]["principles"],
            *_lines(pair),
            *(f"note: {note}" for note in pair["notes"]),
            "",
        ]
    return lines[:-1]


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _lines(pair: dict[str, Any]) -> list[str]:
    a, b = pair["between"]
    win, lines = pair["win_rate"], []
    if win["n"]:
        equal = win["length_controlled"]
        level = (
            f"{fixed(equal['value'], 3)} {ci(equal['ci'], 3)}"
            if equal["reason"] is None
            else f"cannot be told ({equal['reason']})"
        )
        lines.append(
            f"win rate of {a} over {b} (judge, both orders): {fixed(win['value'], 3)} {ci(win['ci'], 3)}, "
            f"ties {fixed(win['ties'])} {ci(win['ties_ci'])}, verdicts that flip with the order "
            f"{fixed(win['order_flip_rate'])} {ci(win['order_flip_rate_ci'])}, unreadable "
            f"{fixed(win['invalid'])} {ci(win['invalid_ci'])}, "
            f"n {win['n']}; at equal length {level}"
        )
    for kind in ("gold", "compliance"):
        for name, change in (pair.get(kind) or {}).get("delta", {}).items():
            sides = f"{fixed(pair[kind][a][name], 3)} and {fixed(pair[kind][b][name], 3)}"
            lines.append(
                f"{'gold' if kind == 'gold' else 'judge'} {name}: {sides}, {a} − {b} "
                f"{signed(change['value'], 3)} "
                f"{ci(change['ci'], 3)}, {difference_in_words(change, a, b, pair['same_config'])}"
            )
    for metric in METRICS if pair["prompts"] else ():
        figure, digits = pair[metric.key], metric.digits
        change = figure["delta"]
        lines.append(
            f"{metric.key}: {fixed(figure[a], digits)} and {fixed(figure[b], digits)}, "
            f"{signed(change['value'], digits)} {ci(change['ci'], digits)}"
        )
    labels = pair["labels"]
    lines.append(
        f"labels: {labels['shared']} comparisons labelled by both"
        + (
            f", agreement {fixed(labels['agreement'], 3)} {ci(labels['agreement_ci'], 3)}, kappa "
            f"{fixed(labels['kappa'], 3)} {ci(labels['kappa_ci'], 3)}"
            if labels["shared"]
            else ""
        )
    )
    keys = [key for kind in pair["differs"].values() for key in kind]
    return [*lines, f"differs: {', '.join(keys) or 'nothing'}"]
