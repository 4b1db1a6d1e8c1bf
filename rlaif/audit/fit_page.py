"""What `rlaif judge fit` says: the figures before and after, and why a fit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.engines.fit import ADAPTER
from rlaif.errors import UserError

Figures = dict[str, Any]
LOWER_IS_BETTER = ("brier", "flips")


def fit_in_words(report: Figures) -> list[str]:
    """A report as lines: what it was made of, a table of held-out figures, and the numbers of the fit."""
    labels = f"{report['labels']} labels, {report['opinions']} opinions" if report["labels"] else "no labels"
    lines = [
        f"{report['judge']} by {report['constitution']}: {labels}, {report['readings']} pairs under a "
        "principle, asked in both orders",
        *(f"  left out: {n} × {reason}" for reason, n in report["dropped"].items()),
        f"chosen: {report['setting']}",
        "on what the fit has not seen, before → after [95 % of the difference]:",
    ]
    lines += _table([_cells(name, row) for name, row in report["heldout"].items()])
    temperatures = report["temperature"]
    if any(t != 1 for t in temperatures.values()):
        lines.append("temperature: " + ", ".join(f"{n} {_number(t)}" for n, t in temperatures.items()))
    priors = ", ".join(f"{n} {p:+.2f}" for n, p in report["prior"].items())
    lines += [f"prior (log-odds for the first): {priors}"] if priors else []
    return [*lines, f"{'taken' if report['taken'] else 'refused'}: {report['why']}"]


def refused(report: Figures) -> UserError:
    """The error of a fit that is not taken."""
    more = report["more"]
    advice = f"about {more} more labels would decide; " if more else ""
    readings = f"the judge's readings stay in {report['out']}.readings, so that only new pairs are asked"
    anew = "; with other labels adapters are trained anew" if report["kind"] == ADAPTER else ""
    return UserError(
        f"{report['out']}: nothing is written: {report['why']}.",
        "a fit that is better on labels it has not seen",
        f"{advice}{readings}{anew}",
    )


def _cells(name: str, row: Figures) -> list[str]:
    cells = [name, f"n {row['n']}"]
    if "accuracy" in row:
        cells += [f"accuracy {_change(row, 'accuracy')}", f"Brier {_change(row, 'brier')}"]
        ece = row["ece"]
        cells.append(
            f"ECE {_number(ece['before']['ece'])} → {_number(ece['after']['ece'])} "
            f"(by chance {_number(ece['after']['ece_floor'])})"
        )
    return [*cells, f"flips {_change(row, 'flips')}"]


def _change(row: Figures, name: str) -> str:
    """A figure before and after with the interval of the difference, after less before."""
    before, after = (row[name][k]["value"] for k in ("before", "after"))
    if before is None:
        return "–"
    low, high = row[name]["gain"]["ci"]
    low, high = (-high, -low) if name in LOWER_IS_BETTER else (low, high)
    return f"{before:.3f} → {after:.3f} [{low:+.3f}, {high:+.3f}]"


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.2f}" if value == value else "–"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with their columns under each other."""
    width = max(map(len, rows), default=0)
    filled = [[*row, *[""] * (width - len(row))] for row in rows]
    sizes = [max(len(row[at]) for row in filled) for at in range(width)]
    return ["  " + "  ".join(c.ljust(n) for c, n in zip(r, sizes, strict=True)).rstrip() for r in filled]
