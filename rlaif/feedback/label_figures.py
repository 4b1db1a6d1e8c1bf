"""What the labels of a stage are worth: a `Tally` a principle, agreement with the truth, and who labelled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rlaif.feedback.gold import Gold, load_gold
from rlaif.feedback.judge import JudgeQuestion
from rlaif.feedback.preferences import ShareByCluster, Tally, TallyByCluster, combine_orders, ratio
from rlaif.options import LabelOptions
from rlaif.records import Label, Preference
from rlaif.runs.folder import Stage

# By whether a judge is among those who labelled, and whether people are.
WHOSE = {(True, False): "the judge", (True, True): "people and the judge", (False, True): "people"}


class LabelFigures:
    """What the labels are worth, added up a comparison at a time."""

    def __init__(self, stage: Stage[LabelOptions]) -> None:
        self.gold: Gold | None = load_gold(stage.config.gold, stage.constitution)
        self.ids = stage.constitution.ids
        self.comparisons = 0
        self.by_principle: dict[str | None, Tally] = defaultdict(Tally)
        self.by_cluster = TallyByCluster()
        self.flips: dict[str | None, ShareByCluster] = defaultdict(ShareByCluster)  # by principle
        self.sources: Counter[str] = Counter()
        self.preferences: Counter[str] = Counter()  # by whose labels they are made of
        self.annotators: Counter[str] = Counter()
        # By whose verdicts: how many are right, of those that the truth decides.
        self.right: dict[str, ShareByCluster] = defaultdict(ShareByCluster)
        self.ties = 0
        self.tie_distance = 0.0

    def add(self, question: JudgeQuestion, labels: Sequence[Label], made: Preference | None) -> None:
        """Count one comparison's labels, and what was made of them."""
        self.comparisons += 1
        if made:
            self.preferences[WHOSE["ai" in made.sources, set(made.sources) != {"ai"}]] += 1
        self.sources.update(label.annotator.kind for label in labels)
        self.annotators.update(f"{label.annotator.kind} ({label.annotator.id})" for label in labels)
        rows: dict[str | None, list[Label]] = defaultdict(list)
        for label in labels:
            rows[label.principle_id].append(label)
        for principle_id, own in rows.items():
            self.by_principle[principle_id].add(own)
            tally = Tally().add(own)
            self.by_cluster.add(question.prompt.cluster, tally)
            self.flips[principle_id].add(question.prompt.cluster, tally.flips, tally.decided)
        if self.gold and labels:
            self._gold_agreement(self.gold, question, labels)

    def _gold_agreement(self, gold: Gold, question: JudgeQuestion, labels: Sequence[Label]) -> None:
        """Agreement with the truth where the truth decides: per principle, and people by how many principles
        are kept."""
        truths = gold(question.prompt, question.a), gold(question.prompt, question.b)
        shared = truths[0].keys() & truths[1].keys()
        for (annotator, principle_id), p in combine_orders(labels).items():
            a, b = (
                sum(t[i] for i in shared) if principle_id is None else t.get(principle_id) for t in truths
            )
            if a is None or b is None:
                continue
            if a == b:
                self.ties += principle_id is not None
                self.tie_distance += abs(p - 0.5) if principle_id is not None else 0.0
                continue
            for name in (
                "all",
                annotator.split(":")[0],
                *([f"principle {principle_id}"] if principle_id else []),
            ):
                self.right[name].add(question.prompt.cluster, (p > 0.5) == (a > b) and p != 0.5)

    def by_whom(self) -> list[str]:
        """How many labels, and how many preferences, came from whom."""
        labels = ", ".join(f"{n} by {who}" for who, n in sorted(self.annotators.items()))
        made = ", ".join(f"{n} by {who}" for who, n in sorted(self.preferences.items()))
        return [f"labels: {labels or 'none'}", f"preferences: {made or 'none'}"]

    def figures(self) -> dict[str, Any]:
        """The stage's metrics."""
        table = {i: self._row(i) for i in self.ids if self.by_principle[i].rows}
        metrics = {
            "comparisons": self.comparisons,
            **Tally.total(self.by_principle.values()).figures(),
            **self.by_cluster.intervals(),
            "sources": dict(self.sources),
            "preferences_by": dict(sorted(self.preferences.items())),
            "by_principle": table,
        }
        if self.gold is None:
            return metrics
        sources = {kind: self.right[kind] for kind in ("ai", "human", "simulated") if self.right[kind].of}
        return metrics | {
            **self._agreement("all"),
            "gold_tie_distance": ratio(self.tie_distance, self.ties),
            "agreement_by_source": {kind: share.value for kind, share in sources.items()},
            "agreement_by_source_ci": {kind: share.ci for kind, share in sources.items()},
        }

    @property
    def not_numbers(self) -> int:
        """How many verdicts were NaN."""
        return sum(tally.not_numbers for tally in self.by_principle.values())

    def _row(self, principle_id: str) -> dict[str, Any]:
        tally, flips = self.by_principle[principle_id], self.flips[principle_id]
        row = {
            "n": tally.rows,
            "decided": tally.decided,
            "flip_rate": flips.value,
            "flip_rate_ci": flips.ci,
            "mean_confidence": ratio(tally.confidence, tally.read),
        }
        if self.gold:
            row |= self._agreement(f"principle {principle_id}")
        return row

    def _agreement(self, name: str) -> dict[str, Any]:
        """The share right with its interval over clusters of prompts, None where the truth decides
        nothing."""
        right = self.right[name]
        return {
            "agreement_with_gold": right.value,
            "gold_decided": right.of.total(),
            "gold_groups": len(right.of),
            "agreement_with_gold_ci": right.ci,
        }
