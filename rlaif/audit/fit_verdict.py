"""Is a fitted judge better? From opinions, or orders, that the fit has not seen.

A fit is taken where three things hold on held-out labels, and refused otherwise:

1. *The labels tell something*: the fitted judge is right more often than a coin, by a 99 % interval. A
   temperature alone makes an overconfident judge look better on labels that are coin flips, because it learns
   to say ½; this asks for more than that. Of fits on such labels 0.5 % get past it.
2. *It is better for it*: accuracy, the Brier score or the share of verdicts that change with the order
   improves, by the 95 % interval of the paired differences.
3. *It is not worse for it*: neither accuracy nor the Brier score is worse, by such an interval.

The Brier score and not the cross-entropy decides: it is bounded, so that one confident mistake does not
decide alone, and its paired differences have intervals that cover at these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlaif.agreement.decisions import more_labels, standard_error
from rlaif.audit.fit_numerics import (
    OUTER,
    Floats,
    Ints,
    Numbers,
    Opinions,
    Readings,
    cross_entropies,
    folds,
    forecast,
    order_priors,
    unfitted,
)
from rlaif.feedback.preferences import logit
from rlaif.forecasts import calibration_error
from rlaif.intervals import mean_interval, rate
from rlaif.records import TIE_MARGIN
from rlaif.stats import mean

SIGNED = (-1.0, 1.0)
CLEAR = logit(0.5 + TIE_MARGIN)  # log-odds beyond which a verdict is no tie
INFORMED = 0.99  # level of the interval that must exclude a coin
Figures = dict[str, Any]


def measured_on_labels(
    found: Sequence[tuple[NDArray[np.bool_], Numbers]],
    readings: Readings,
    opinions: Opinions,
    names: Sequence[str],
    later: Readings | None = None,
) -> Figures:
    """Figures of held-out opinions before and after, of all, by principle and on the whole comparison; and
    whether the fit is taken, and why not. `later` is what the judge says where the fit changes that."""
    plain, later = unfitted(len(names)), later or readings
    before = forecast(plain, readings, opinions)
    after, turned = np.full(len(before), np.nan), np.zeros((2, len(readings.own)))
    turned[0], clear = flips(plain, readings), clear_in(plain, readings)
    for held, numbers in found:
        after[held] = forecast(numbers, later, opinions)[held]
        own = np.unique(opinions.reading[held[opinions.opinion]])
        turned[1, own] = flips(numbers, later)[own]
        clear[own] |= clear_in(numbers, later)[own]
    clearly = opinions.added(clear.astype(float))
    columns = np.array([opinions.added(row) for row in turned * clear])
    share = np.where(clearly > 0, columns / np.maximum(clearly, 1e-12), np.nan)
    kinds = [(name, opinions.principle == at) for at, name in enumerate(names)]
    kinds.append(("the whole comparison", opinions.principle == -1))
    every = np.ones(len(before), bool)
    rows = {
        name: _row(before[kept], after[kept], share[:, kept], opinions.p_a[kept], opinions.cluster[kept])
        for name, kept in [("all", every), *((n, k) for n, k in kinds if k.any())]
    }
    return {"heldout": rows, **verdict(rows["all"])}


def _row(before: Floats, after: Floats, turned: Floats, y: Floats, cluster: Ints) -> Figures:
    """The figures of some opinions: forecasts before and after [N], shares of flips [2, N] (nan where no
    verdict is clear), p_a of people [N]."""
    sides, of, clear = y != 0.5, cluster, ~np.isnan(turned[0])
    right = [_right(p, y)[sides] for p in (before, after)]
    squares = [(p - y) ** 2 for p in (before, after)]
    losses = [cross_entropies(p, y) for p in (before, after)]
    return {
        "n": len(y),
        "prompts": len(np.unique(cluster)),
        "decided": int(sides.sum()),
        "accuracy": _paired(right[0], right[1], of[sides], right[1] - right[0]),
        "brier": _paired(squares[0], squares[1], of, squares[0] - squares[1]),
        "cross_entropy": {"before": mean(losses[0]), "after": mean(losses[1])},
        "ece": {
            name: calibration_error(*_of_choice(p[sides], y[sides]), of[sides].tolist())
            for name, p in (("before", before), ("after", after))
        },
        "flips": _paired(turned[0, clear], turned[1, clear], of[clear], (turned[0] - turned[1])[clear]),
        "informed_ci": mean_interval(right[1], clusters=of[sides].tolist(), level=INFORMED)
        if sides.any()
        else None,
    }


def _paired(before: Floats, after: Floats, cluster: Ints, gain: Floats) -> Figures:
    """Both means with their intervals, and the gain of one over the other with that of the differences."""
    return {
        "before": rate(before, cluster),
        "after": rate(after, cluster),
        "gain": rate(gain, cluster, SIGNED),
    }


def _right(p: Floats, y: Floats) -> Floats:
    """1 where a forecast is on the outcome's side of ½, 0 on the other, ½ for one that says ½."""
    return np.where(p == 0.5, 0.5, (p > 0.5) == (y > 0.5)).astype(float)


def _of_choice(p: Floats, y: Floats) -> tuple[Floats, Floats]:
    """(the probability of what is chosen, whether that is right)."""
    return np.maximum(p, 1 - p), np.where(p >= 0.5, y > 0.5, y < 0.5).astype(float)


def flips(numbers: Numbers, readings: Readings) -> Floats:
    """1 for each reading [R] whose two orders choose different responses."""
    z, rest = numbers.logits(readings)
    return ((z + rest > 0) != (z - rest > 0)).astype(float)


def clear_in(numbers: Numbers, readings: Readings) -> NDArray[np.bool_]:
    """The readings [R] that are no tie in both orders: which side of ½ two ties fall on says nothing."""
    z, rest = numbers.logits(readings)
    return np.maximum(abs(z + rest), abs(z - rest)) > CLEAR


def verdict(row: Figures) -> Figures:
    """Whether a fit with these figures is taken; `why` says what is missing, `more` about how many further
    labels would show it, None where no number is advice."""
    accuracy, gains = row["accuracy"]["after"], {k: row[k]["gain"] for k in ("accuracy", "brier", "flips")}
    gains = {k: gain for k, gain in gains.items() if gain["value"] is not None}
    if not row["decided"]:
        return {"taken": False, "why": "no held-out label is on one side", "more": None}
    low, high = row["informed_ci"]
    if not low > 0.5:
        error = standard_error((low, high), INFORMED)
        value = accuracy["value"]
        return {
            "taken": False,
            "why": f"on labels that it has not seen the fitted judge is right in {value:.3f} "
            f"[99 %: {low:.3f}, {high:.3f}], which a coin might be, too",
            "more": more_labels(value - 0.5, error, row["decided"], INFORMED) if value > 0.5 else None,
        }
    worse = [k for k in ("accuracy", "brier") if gains[k]["ci"][1] < 0]
    better = [k for k, gain in gains.items() if gain["ci"][0] > 0]
    if better and not worse:
        return {"taken": True, "why": f"on held-out labels better: {_words(better)}", "more": None}
    if worse:
        return {"taken": False, "why": f"on held-out labels worse: {_words(worse)}", "more": None}
    need = [
        more_labels(g["value"], standard_error(g["ci"]), row["n"]) for g in gains.values() if g["value"] > 0
    ]
    return {
        "taken": False,
        "why": "neither accuracy, nor the Brier score, nor order flips improve on held-out labels by a "
        "paired 95 % interval",
        "more": min((n for n in need if n is not None), default=None),
    }


def _words(names: Sequence[str]) -> str:
    known = {"accuracy": "accuracy", "brier": "the Brier score", "flips": "order flips"}
    return " and ".join(known[name] for name in names)


def measured_on_orders(
    readings: Readings, cluster: Ints, groups: int, names: Sequence[str], seed: int
) -> Figures:
    """The share of verdicts that change with the order, before and after a prior from the other folds."""
    fold = folds(cluster, OUTER, seed)
    before, after = flips(unfitted(groups), readings), np.zeros(len(readings.own))
    clear = clear_in(unfitted(groups), readings)
    for held in range(OUTER):
        kept = fold != held
        rest = Readings(readings.own[kept], readings.lean[kept], readings.principle[kept])
        numbers, own = unfitted(groups, order_priors(rest, groups)), fold == held
        after[own] = flips(numbers, readings)[own]
        clear[own] |= clear_in(numbers, readings)[own]
    every = [("all", np.ones(len(before), bool))]
    every += [(name, readings.principle == at) for at, name in enumerate(names)]
    rows = {
        name: {
            "n": int(kept.sum()),
            "prompts": len(np.unique(cluster[kept])),
            "flips": _paired(before[of], after[of], cluster[of], before[of] - after[of]),
        }
        for name, kept in every
        if kept.any()
        for of in [kept & clear]
    }
    gain: Any = rows["all"]["flips"]["gain"]["ci"] if rows else None
    taken = bool(gain and gain[0] > 0)
    why = (
        "fewer verdicts change with the order"
        if taken
        else "no fewer verdicts on held-out pairs change with the order"
    )
    return {"heldout": rows, "taken": taken, "why": why, "more": None}
