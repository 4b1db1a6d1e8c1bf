"""Which verdicts flip with the order, where a fit is measured: those that are clear in one of them."""

import numpy as np

from rlaif.audit.fit_numerics import Opinions, Readings, unfitted
from rlaif.audit.fit_verdict import measured_on_labels, measured_on_orders


def test_verdicts_that_are_ties_in_both_orders_do_not_flip():
    """Which side of one half two ties fall on says nothing: a temperature alone was taken for fewer flips."""
    rng = np.random.default_rng(0)
    quality = np.where(np.arange(300) % 3 == 0, rng.choice([-4.0, 4.0], 300), 0.0)  # two of three are ties
    lean = rng.normal(0.02, 0.05, 300)
    every = np.arange(300)
    readings = Readings(quality, lean, np.zeros(300, np.intp))
    people = np.where(quality == 0, 0.5, quality > 0)
    opinions = Opinions(people, every, np.zeros(300, np.intp), every, every, np.ones(300))
    found = [(every % 5 == fold, unfitted(1, np.array([0.02, 0.02]))) for fold in range(5)]
    row = measured_on_labels(found, readings, opinions, ["one"])
    assert row["heldout"]["all"]["flips"]["before"]["n"] == 100
    assert row["heldout"]["all"]["flips"]["before"]["value"] == 0
    assert not row["taken"]
    orders = measured_on_orders(readings, every, 1, ["one"], 0)
    assert orders["heldout"]["all"]["flips"]["before"]["value"] == 0
    assert not orders["taken"]


def test_a_judge_that_only_calls_ties_has_no_flips_to_lose():
    every = np.arange(60)
    readings = Readings(np.zeros(60), np.full(60, 0.1), np.zeros(60, np.intp))
    opinions = Opinions(every % 2 * 1.0, every, np.zeros(60, np.intp), every, every, np.ones(60))
    found = [(every % 5 == fold, unfitted(1)) for fold in range(5)]
    row = measured_on_labels(found, readings, opinions, ["one"])
    assert row["heldout"]["all"]["flips"]["before"]["value"] is None
    assert not row["taken"]
    assert not measured_on_orders(readings, every, 1, ["one"], 0)["taken"]
