"""What benchmarks/coverage.py measures of `rlaif constitution induce`: the intervals of chosen candidates'
weights, with the choice repeated in every sample."""

from __future__ import annotations

import math
from functools import lru_cache
from unittest.mock import patch

import numpy as np
from coverage_cases import Case, Draw
from numpy.random import Generator

from rlaif.intervals import Array, Interval
from rlaif.stats import sigmoid
from rlaif.workbench import sparse_fit

WEIGHTS = (0.8, 0.5, 0.3)  # of the three candidates of twelve that labels are made of
EXACT = 50  # clusters up to which the test of a candidate changes signs; of more the normal distribution
# stands in, which is about 50 times as fast


def verdicts(rng: Generator, n: int) -> Array:
    """Noisy logits [n, 12] of a judge under twelve candidates that have nothing to do with one another."""
    sides = rng.choice([-3.0, 0.0, 3.0], (n, 12), p=[0.2, 0.6, 0.2])
    return np.clip(sides + rng.normal(0, 0.8, sides.shape), -4, 4)


@lru_cache
def weights_of(chosen: frozenset[int]) -> dict[int, float]:
    """The weights of chosen candidates in labels without end: what a fit of these candidates aims at."""
    x, at = verdicts(np.random.default_rng(0), 200_000), sorted(chosen)
    found = sparse_fit.fit(x[:, at], sigmoid(x[:, : len(WEIGHTS)] @ np.array(WEIGHTS)))
    return dict(zip(at, found.tolist(), strict=True))


def induced_weights() -> list[Case]:
    """Weights of candidates that were chosen as explaining labels: right ones, and ones let in by chance.

    There is none where the candidate is not chosen. In groups of one to seven, half of a group's verdicts are
    the same and its labels fall as one.
    """

    def draw_of(wanted: range, alike: bool) -> Draw:
        def draw(rng: Generator, n: int) -> tuple[Interval, float, float]:
            of = np.repeat(np.arange(n), rng.integers(1, 8, n)) if alike else np.arange(n)
            x, chance = verdicts(rng, len(of)), rng.random(n)[of]
            if alike:
                x = np.where((rng.random(len(of)) < 0.5)[:, None], verdicts(rng, n)[of], x)
            y = (chance < sigmoid(x[:, : len(WEIGHTS)] @ np.array(WEIGHTS))).astype(float)
            turned = rng.random(len(of)) < 0.5  # which response stands first
            x, y = np.where(turned[:, None], -x, x), np.where(turned, 1 - y, y)
            with patch.object(sparse_fit, "MANY", EXACT):
                found = {row["at"]: row for row in sparse_fit.explain(x, y, of)}
            own = next((at for at in wanted if at in found), None)
            if own is None:
                return (math.nan, math.nan), 0.0, 0.0
            right = frozenset(at for at in found if at < len(WEIGHTS))
            return found[own]["ci"], weights_of(right).get(own, 0.0), found[own]["weight"]

        return draw

    return [
        *(
            Case(
                "weight_interval",
                f"weight {weight} of one of twelve candidates{', in groups' if alike else ''}",
                draw_of(range(at, at + 1), alike),
                20,
            )
            for alike in (False, True)
            for at, weight in enumerate(WEIGHTS)
        ),
        Case("weight_interval", "a candidate that was let in by chance", draw_of(range(3, 12), False), 20),
    ]
