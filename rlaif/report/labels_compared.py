"""Two arms' labels on the comparisons that both labelled: which preferences and verdicts changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rlaif.feedback.preferences import combine_orders
from rlaif.feedback.shifts import EXAMPLES, Furthest, Shifts
from rlaif.forecasts import kappa_interval
from rlaif.intervals import mean_interval
from rlaif.prompting.templates import dialogue
from rlaif.records import Comparison, Label, Preference, Prompt, verdict_of
from rlaif.report.arms import Arm
from rlaif.report.run_reader import RunReader
from rlaif.stats import agreement, mean

Both = tuple[float | None, float | None]  # P(response a is better) by the first and by the second arm


class LabelledTwice:
    """What two arms say of the same comparisons; of several seeds the first one's labels count."""

    def __init__(self, a: Arm, b: Arm) -> None:
        self.a, self.b = a, b
        self.readers = a.first.reader, b.first.reader
        first = self.readers[0]
        self.pairs = first.lookup(first.every("pair"), "comparisons", Comparison, "id")
        self.said = tuple(
            reader.lookup(reader.every("label"), "labels", Label, "comparison_id") for reader in self.readers
        )

    def data(self) -> dict[str, Any]:
        """How far the labels agree, ties being a verdict of their own, and what turned, with examples."""
        mine, theirs = (_preferences(reader) for reader in self.readers)
        shared = [pair for pair in mine if pair in theirs]
        clusters = [self._cluster(pair) for pair in shared]
        verdicts = [verdict_of(mine[i]) for i in shared], [verdict_of(theirs[i]) for i in shared]
        same = [x == y for x, y in zip(*verdicts, strict=True)]
        preferences, principles = Shifts(), defaultdict[str, Shifts](Shifts)
        furthest: Furthest[tuple[str, Both]] = Furthest()
        for pair, cluster in zip(shared, clusters, strict=True):
            preferences.add(mine[pair], theirs[pair], cluster)
            furthest.add(cluster, theirs[pair] - mine[pair], pair, (pair, (mine[pair], theirs[pair])))
            for name, both in self._verdicts(pair).items():
                principles[name].add(*both, cluster)
        return {
            "shared": len(shared),
            self.a.letter: len(mine),
            self.b.letter: len(theirs),
            "agreement": agreement(*verdicts),
            "agreement_ci": mean_interval(same, clusters=clusters),
            **kappa_interval(*verdicts, clusters),
            "preferences": preferences.figures() if shared else None,
            "principles": {name: found.figures() for name, found in principles.items() if found.both},
            "examples": [self._example(*item) for item in furthest.first(EXAMPLES)],
        }

    def _prompt(self, pair: str) -> Prompt | None:
        row = self.pairs.get(pair)
        return self.readers[0].prompts.get(row.prompt_id) if row else None

    def _cluster(self, pair: str) -> str:
        """What intervals take as one: the cluster of the comparison's prompt, or itself."""
        prompt = self._prompt(pair)
        return prompt.cluster if prompt else pair

    def _verdicts(self, pair: str) -> dict[str, Both]:
        """By principle what either arm's annotators say of a pair, the mean where there are several."""
        mine, theirs = (_by_principle(rows.all(pair)) for rows in self.said)
        return {name: (mine.get(name), theirs.get(name)) for name in {**mine, **theirs}}

    def _example(self, pair: str, p_a: Both) -> dict[str, Any]:
        prompt, row = self._prompt(pair), self.pairs.get(pair)
        texts = [_text(self.readers, side) for side in ((row.a, row.b) if row else ("", ""))]
        verdicts = self._verdicts(pair)
        by_change = sorted(verdicts, key=lambda name: (-_apart(verdicts[name]), name))
        return {
            "comparison_id": pair,
            "prompt": dialogue(prompt.chat) if prompt else "(not stored)",
            "a": texts[0],
            "b": texts[1],
            "p_a": list(p_a),
            "verdicts": {
                name: list(verdicts[name])
                for name in by_change
                if any(p is not None and verdict_of(p) != "tie" for p in verdicts[name])
            },
        }


def _preferences(reader: RunReader) -> dict[str, float]:
    """P(response a is better) of each comparison of all rounds, the last one's of one that several have."""
    stages = reader.every("label")
    rows = (row for stage in stages for row in reader.each(stage, "preferences", Preference))
    return {row.comparison_id: row.p_a for row in rows}


def _by_principle(labels: Sequence[Label]) -> dict[str, float]:
    found = defaultdict[str, list[float]](list)
    for (_, principle), p in combine_orders(labels).items():
        if principle is not None:
            found[principle].append(p)
    return {name: mean(values) for name, values in found.items()}


def _apart(both: Both) -> float:
    """How far two verdicts are from each other; 1 where one is missing."""
    return 1.0 if both[0] is None or both[1] is None else round(abs(both[1] - both[0]), 6)


def _text(readers: Sequence[RunReader], response: str) -> str:
    found = next((row for reader in readers if (row := reader.responses.get(response))), None)
    return found.text if found else "(not stored)"
