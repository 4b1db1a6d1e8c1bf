"""What an annotator prefers whatever is asked: the place, the length, and the style of a response."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rlaif.human.said import Item, Said
from rlaif.intervals import rate
from rlaif.refusals import refuses

_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.M)
_MARKUP = re.compile(r"^#{1,6} |\*\*\S|```|^\|.*\|\s*$", re.M)
# Of two responses the one that has more of it, as a number for each.
STYLES: dict[str, Callable[[str], float]] = {
    "longer": len,
    "with a list": lambda text: float(bool(_LIST.search(text))),
    "with headings, bold, code or a table": lambda text: float(bool(_MARKUP.search(text))),
    "refusing": lambda text: float(refuses(text)),
}


def leanings(own: Mapping[str, Said], items: Mapping[str, Item]) -> dict[str, Any]:
    """Rates at which an annotator's clear verdicts go to the response shown first, and to the one that is
    longer, has a list, has markup, or refuses, where the two differ in that.

    Half is no leaning of the place; what is longer may also be better, so that people's rate stands beside a
    judge's. The place is None where the data does not say what was shown first.
    """
    first = [(float(hit), items[i].cluster) for i, x in own.items() for hit in x.first]
    decided = [(x.verdict == "a", items[i]) for i, x in own.items() if x.verdict in ("a", "b")]
    texts = [(a, item) for a, item in decided if item.a or item.b]
    return {
        "shown first": _rate(first) if first else None,
        **{style: _rate(_hits(texts, of)) for style, of in STYLES.items()},
    }


def _hits(decided: list[tuple[bool, Item]], of: Callable[[str], float]) -> list[tuple[float, str]]:
    values = ((a, of(item.a), of(item.b), item.cluster) for a, item in decided)
    return [(float(a == (x > y)), cluster) for a, x, y, cluster in values if x != y]


def _rate(hits: list[tuple[float, str]]) -> dict[str, Any]:
    return rate([x for x, _ in hits], [cluster for _, cluster in hits])
