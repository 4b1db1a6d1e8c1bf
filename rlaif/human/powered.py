"""What people would say of all pairs, from their labels on some and a judge's on all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import fmean
from typing import Any

import numpy as np

from rlaif.agreement.prediction_powered import powered_mean
from rlaif.human.said import Annotated, Item
from rlaif.records import verdict_of

MOST_MODELS = 10
Value = Callable[[Item, float], float | None]  # an opinion p_a of a pair as the value that is estimated


def powered_estimates(found: Annotated) -> list[dict[str, Any]]:
    """For each judge: how often people prefer the longer response, and each model's, and how often each other
    judge is right by them; ties count half.

    `worth` is how many labels alone a label is worth with as many of the judge's verdicts as one likes:
    1 / (1 − r²), with r the correlation of people's and the judge's values over the labelled pairs.
    """
    people = _people(found)
    models = Counter(m for item in found.items.values() for m in set(item.models) if m)
    rows: list[dict[str, Any]] = []
    for judge in found.of_kind("ai") if people else ():
        predicted = {i: outcome(x.p_a) for i, x in found.said[judge].items() if x.p_a is not None}
        asked: list[tuple[str, Value]] = [("people prefer the longer response", _longer)]
        if len(models) > 1:
            asked += [(f"{m} wins", _model(m)) for m, _ in models.most_common(MOST_MODELS)]
        for what, value in asked:
            rows.append(_estimate(found, judge, what, people, predicted, value))
        for other in found.of_kind("ai"):
            if other != judge:
                right = _right(found, other)
                rows.append(_estimate(found, judge, f"{other} is right", people, predicted, right))
    return [row for row in rows if row["n"]]


def outcome(p: float) -> float:
    """An opinion as 1 (a), 0 (b) or ½ (a tie)."""
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[verdict_of(p)]


def _people(found: Annotated) -> dict[str, float]:
    """The mean of the people's verdicts on each pair that one of them could read."""
    said: dict[str, list[float]] = {}
    for who in found.of_kind("human", "simulated"):
        for item, x in found.said[who].items():
            if x.p_a is not None:
                said.setdefault(item, []).append(outcome(x.p_a))
    return {item: fmean(values) for item, values in said.items()}


def _longer(item: Item, p_a: float) -> float | None:
    return None if len(item.a) == len(item.b) else p_a if len(item.a) > len(item.b) else 1 - p_a


def _model(name: str) -> Value:
    def value(item: Item, p_a: float) -> float | None:
        mine = [model == name for model in item.models]
        return None if sum(mine) != 1 else p_a if mine[0] else 1 - p_a

    return value


def _right(found: Annotated, judge: str) -> Value:
    """How far a judge's verdict is that of an opinion: 1 the same, ½ one of both a tie, 0 the other one."""
    said = found.said[judge]

    def value(item: Item, p_a: float) -> float | None:
        own = said.get(item.id)
        return None if own is None or own.p_a is None else 1 - abs(outcome(own.p_a) - p_a)

    return value


def _estimate(
    found: Annotated,
    judge: str,
    what: str,
    people: dict[str, float],
    predicted: dict[str, float],
    value: Value,
) -> dict[str, Any]:
    both: list[tuple[float, float, str]] = []
    others: list[tuple[float, str]] = []
    for i, f in predicted.items():
        item = found.items[i]
        guess = value(item, f)
        if guess is None:
            continue
        if i in people:
            both.append((value(item, people[i]) or 0.0, guess, item.cluster))
        else:
            others.append((guess, item.cluster))
    y, f = [row[0] for row in both], [row[1] for row in both]
    mean = powered_mean(y, f, [x for x, _ in others], [row[2] for row in both], [of for _, of in others])
    return {"judge": judge, "what": what, **mean, "worth": _worth(y, f)}


def _worth(y: list[float], f: list[float]) -> float | None:
    if len(y) < 2 or np.std(y) == 0 or np.std(f) == 0:
        return None
    r = float(np.corrcoef(y, f)[0, 1])
    return 1.0 if r <= 0 else 1 / max(1 - r * r, 1e-9)
