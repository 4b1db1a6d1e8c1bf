"""A comparison in words, for a terminal."""

from __future__ import annotations

from typing import Any

from rlaif.metrics import METRICS
from rlaif.pages.page import ci, difference_in_words, fixed, signed


def in_words(data: dict[str, Any]) -> list[str]:
    """A comparison as lines of text: the headline, then each figure with its interval."""
    lines: list[str] = []
    for table in data.get("overall", {}).values():
        lines += [table["text"], *filter(None, [table["more"]]), *_pairwise(table), ""]
    for pair in (data, *data["others"]):
        lines += [
            pair["verdict"]["text"],
            *(f"UNFAIR: {reason}" for reason in pair["unfair"]),
            pair["verdict"]["principles"],
            *(f"{question.replace('_', ' ')}: {answer}" for question, answer in pair["answers"].items()),
            *_lines(pair),
            *(f"note: {note}" for note in pair["notes"]),
            "",
        ]
    return lines[:-1]


def _pairwise(table: dict[str, Any]) -> list[str]:
    return [
        f"  {pair}: win rate {fixed(rate['value'], 3)} {ci(rate['ci'], 3)}, ties {fixed(rate['ties'])} "
        f"{ci(rate['ties_ci'])}, n {rate['n']}{', different' if rate['different'] else ''}"
        for pair, rate in table["pairs"].items()
    ]


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
        if not change["n"] and metric.key != "kl":  # no prompt is of the kind
            continue
        n = f", n {change['n']}" if change["n"] < pair["prompts"] else ""
        lines.append(
            f"{metric.key}: {fixed(figure[a], digits)} and {fixed(figure[b], digits)}, "
            f"{signed(change['value'], digits)} {ci(change['ci'], digits)}{n}"
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
    turned = labels["preferences"]
    if turned:
        lines.append(
            f"preferences that change: {turned['changed']} of {turned['both']}, "
            f"{fixed(turned['changed_rate'], 3)} {ci(turned['changed_ci'], 3)}"
        )
        lines += [
            f"verdicts that change under {name}: {found['changed']} of {found['both']}, "
            f"{fixed(found['changed_rate'], 3)} {ci(found['changed_ci'], 3)}"
            for name, found in labels["principles"].items()
        ]
    keys = [key for kind in pair["differs"].values() for key in kind]
    return [*lines, f"differs: {', '.join(keys) or 'nothing'}"]
