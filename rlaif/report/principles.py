"""What each principle does to the preferences of a run: how often it applies and decides, what changes
without it, which principles say the same and which contradict each other.

All of it comes from stored labels; no model is asked. A reading is one annotator's verdicts on one
comparison, one a principle, both orders combined. Intervals are 95 %, over clusters of prompts.

Axes: C comparisons, R readings, P principles in the order of the file.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlaif.constitution import Constitution
from rlaif.feedback.preferences import Bounds, combine_orders, mixed, p_a_by_annotator, without_each
from rlaif.human.labelled import NO_PROMPT, RunLabels
from rlaif.intervals import rate
from rlaif.options import LabelOptions
from rlaif.records import TIE_MARGIN, Label, Prompt
from rlaif.runs.lookup import Lookup

Array = NDArray[Any]
Rate = dict[str, Any]
NAN, GONE = math.nan, math.inf  # no opinion; no opinion left without the principle
NOT_ASKED, UNREAD, ABSTAINS, READ = range(4)
LISTED = 5  # prompts that no principle decides


def sides(p: Array) -> Array:
    """The verdicts of probabilities: 1 for a, −1 for b, 0 for a tie and for no opinion (nan)."""
    return np.where(np.abs(p - 0.5) > TIE_MARGIN, np.sign(p - 0.5), 0.0)


class PrincipleReadings:
    """The labels of comparisons, added one comparison at a time: some ten bytes a label are kept of them."""

    def __init__(
        self, constitution: Constitution, human_weight: float = 1.0, clamp: Bounds = (0.0, 1.0)
    ) -> None:
        self.constitution, self.human_weight, self.clamp = constitution, human_weight, clamp
        self.number = {name: at for at, name in enumerate(constitution.ids)}
        self.weights = {p.id: p.weight for p in constitution.principles}
        self.clusters: dict[str, int] = {}
        self.of_C, self.p_C, self.deciding_C = array("l"), array("d"), array("h")
        self.applies_CP, self.rest_CP = array("b"), array("d")
        self.comparison_R, self.p_RP, self.state_RP = array("l"), array("d"), array("b")
        self.labels: Counter[str | None] = Counter()
        self.unlabelled = 0
        # By prompt: its cluster, its tags, whether a principle applies, whether one has decided.
        self.prompts: dict[str, tuple[int, tuple[str, ...], bool, bool]] = {}

    def add(self, prompt: Prompt, labels: Sequence[Label]) -> None:
        """Count the labels of one comparison of responses to a prompt; one without labels is counted."""
        if not labels:
            self.unlabelled += 1
            return
        cluster = self.clusters.setdefault(prompt.cluster, len(self.clusters))
        applies = [p.applies(prompt.tags) for p in self.constitution.principles]
        self.applies_CP.extend(applies)
        self.labels.update(label.principle_id for label in labels)
        decides = self._read(labels)
        self._aggregate(labels)
        self.of_C.append(cluster)
        decided = self.prompts.get(prompt.id, (0, (), False, False))[3] or decides
        self.prompts[prompt.id] = (cluster, prompt.tags, any(applies), decided)

    def _read(self, labels: Sequence[Label]) -> bool:
        """Keep a reading for each annotator who labels by principle; whether a principle that counts
        decides."""
        p: dict[str, list[float]] = defaultdict(lambda: [NAN] * len(self.number))
        state: dict[str, list[int]] = defaultdict(lambda: [NOT_ASKED] * len(self.number))
        for label in labels:
            at = self.number.get(label.principle_id or "")
            if at is not None:
                who = f"{label.annotator.kind}:{label.annotator.id}"
                said = ABSTAINS if label.verdict == "abstain" else UNREAD
                state[who][at] = max(state[who][at], said)
        decides = False
        for (who, principle), x in combine_orders(labels).items():
            at = self.number.get(principle or "")
            if at is not None:
                p[who][at], state[who][at] = x, READ
                decides |= abs(x - 0.5) > TIE_MARGIN and self.constitution.principles[at].weight > 0
        for who, row in state.items():
            self.comparison_R.append(len(self.of_C))
            self.p_RP.extend(p[who])
            self.state_RP.extend(row)
        return decides

    def _aggregate(self, labels: Sequence[Label]) -> None:
        """Keep the preference, and what it would be without each principle that takes part in it."""
        said = p_a_by_annotator(labels, self.weights)
        whole = mixed(said, self.weights, self.human_weight, self.clamp)
        p_a, deciding = whole or (NAN, None)
        self.p_C.append(p_a)
        self.deciding_C.append(self.number.get(deciding or "", -1))
        left = without_each(said, self.weights, self.human_weight, self.clamp) if whole else {}
        self.rest_CP.extend((GONE if p is None else p) for p in (left.get(i, NAN) for i in self.number))

    def figures(self) -> dict[str, Any]:
        """What is shown of them."""
        table = _Table(self)
        pairs = list(table.pairs())
        return {
            "comparisons": len(self.of_C),
            "unlabelled": self.unlabelled,
            "preferences": int((~np.isnan(table.p_C)).sum()),
            "principles": [table.principle(at) for at in range(len(self.number))],
            "pairs": pairs,
            "redundant": ranked(pairs, "same"),
            "conflicting": ranked(pairs, "opposite"),
            "undecided": self._undecided(),
        }

    def _undecided(self) -> dict[str, Any]:
        """The prompts on none of whose comparisons a principle that counts decides."""
        rows = self.prompts.values()
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for _, tags, _, decided in rows:
            for tag in tags:
                found[tag].update({"n": 1, "undecided": int(not decided)})
        undecided = [name for name, (*_, decided) in self.prompts.items() if not decided]
        return {
            **rate(
                np.array([not decided for *_, decided in rows], float),
                np.array([row[0] for row in rows], np.intp),
            ),
            "count": len(undecided),
            "no_principle": sum(not applicable for _, _, applicable, _ in rows),
            "by_tag": {tag: dict(counts) for tag, counts in sorted(found.items())},
            "prompts": sorted(undecided)[:LISTED],
        }


class _Table:
    """The readings as arrays, and the figures of single principles and of pairs of them."""

    def __init__(self, held: PrincipleReadings) -> None:
        shape = (-1, len(held.number))
        self.held, self.ids = held, held.constitution.ids
        self.of_C, self.p_C = np.array(held.of_C, np.intp), np.array(held.p_C, float)
        self.deciding_C = np.array(held.deciding_C, int)
        self.applies_CP = np.array(held.applies_CP, bool).reshape(shape)
        self.rest_CP = np.array(held.rest_CP, float).reshape(shape)
        self.comparison_R = np.array(held.comparison_R, np.intp)
        self.of_R = self.of_C[self.comparison_R]
        self.state_RP = np.array(held.state_RP, int).reshape(shape)
        self.side_RP = sides(np.array(held.p_RP, float).reshape(shape))

    def principle(self, at: int) -> dict[str, Any]:
        """What one principle says, and what it changes."""
        state, side, of = self.state_RP[:, at], self.side_RP[:, at], self.of_R
        asked, preferred = state != NOT_ASKED, ~np.isnan(self.p_C)
        states = {
            "decides": side != 0,
            "ties": (state == READ) & (side == 0),
            "abstains": state == ABSTAINS,
            "unread": state == UNREAD,
        }
        return {
            "id": self.ids[at],
            "weight": self.held.constitution.principles[at].weight,
            "labels": self.held.labels[self.ids[at]],
            "applies": rate(self.applies_CP[:, at].astype(float), self.of_C),
            **{name: rate(hit[asked].astype(float), of[asked]) for name, hit in states.items()},
            "agreement": self._agreement(side, self.p_C),
            "agreement_with_rest": self._agreement(side, self.rest_CP[:, at]),
            "deciding": rate((self.deciding_C == at)[preferred].astype(float), self.of_C[preferred]),
            "without": self._without(at),
        }

    def _agreement(self, side_R: Array, p_C: Array) -> Rate:
        """How often decided readings are on the side of an opinion of the comparison that takes one."""
        other_R = sides(np.where(np.isinf(p_C), NAN, p_C))[self.comparison_R]
        both = (side_R != 0) & (other_R != 0)
        return rate((side_R == other_R)[both].astype(float), self.of_R[both])

    def _without(self, at: int) -> dict[str, Any]:
        """How the preferences would differ without the principle: of all of them, those that it has no part
        in included."""
        rest = np.where(np.isnan(self.rest_CP[:, at]), self.p_C, self.rest_CP[:, at])
        kept = ~np.isnan(self.p_C) & ~np.isinf(rest)
        p, q, of = self.p_C[kept], rest[kept], self.of_C[kept]
        now, then = sides(p), sides(q)
        return {
            "turned": rate((now * then < 0).astype(float), of),
            "undecided": rate(((now != 0) & (then == 0)).astype(float), of),
            "decided": rate(((now == 0) & (then != 0)).astype(float), of),
            "moved": rate(np.abs(p - q), of),
            "gone": int(np.isinf(rest).sum()),
        }

    def pairs(self) -> Iterator[dict[str, Any]]:
        """Every two principles on the readings of which either decides and the other could be read."""
        for i, j in combinations(range(len(self.ids)), 2):
            x, y = self.side_RP[:, i], self.side_RP[:, j]
            read = (self.state_RP[:, i] == READ) & (self.state_RP[:, j] == READ) & ((x != 0) | (y != 0))
            both, of = (x * y)[read], self.of_R[read]
            yield {
                "a": self.ids[i],
                "b": self.ids[j],
                "same": rate((both > 0).astype(float), of),
                "opposite": rate((both < 0).astype(float), of),
            }


def ranked(pairs: Sequence[Mapping[str, Any]], what: str) -> list[list[str]]:
    """The pairs of principles that say the `same` (or the `opposite`) at all, most first: by the lower end of
    the interval, so that few comparisons do not lead."""
    some = [pair for pair in pairs if pair[what]["value"]]
    return [[pair["a"], pair["b"]] for pair in sorted(some, key=lambda pair: -pair[what]["ci"][0])]


def coverage(held: RunLabels | None, prompts: Lookup[Prompt]) -> dict[str, Any] | None:
    """The figures of a run's labels, mixed as its last label stage mixes them; None where no label is by
    principle."""
    options = held.stages[-1].options if held else None
    if held is None or not isinstance(options, LabelOptions):
        return None
    found = PrincipleReadings(held.run.constitution, options.human_weight, options.bounds)
    left_out = held.strays
    for pair in held.each_comparison():
        prompt = prompts.get(pair.prompt_id)
        if prompt is not None:
            found.add(prompt, held.labels_of(pair.id))
        else:
            left_out[NO_PROMPT] += 1
    return {**found.figures(), "left_out": dict(left_out)} if len(found.comparison_R) else None
