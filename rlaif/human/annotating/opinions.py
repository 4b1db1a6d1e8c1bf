"""What AIs say of a pair: evidence for queues, and what assisted annotators are shown after their choice."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rlaif.errors import printable
from rlaif.human.annotating.material import Material
from rlaif.human.annotating.queues import Evidence
from rlaif.records import Comparison


class Opinions:
    """What stored rows say of the comparisons of some material."""

    def __init__(self, material: Material) -> None:
        self.material = material
        constitution = material.constitution
        self.weights = {p.id: p.weight for p in constitution.principles} if constitution else {}

    def evidence(self, pair: Comparison) -> Evidence:
        """The labels of a comparison and the rewards of its responses, by the source that scored both."""
        a, b = self.material.grades(pair.a), self.material.grades(pair.b)
        shared = next((name for name in a if name in b), None)
        rewards = (a[shared], b[shared]) if shared is not None else None
        return Evidence(self.material.labels(pair.id), self.weights, rewards)

    def on(self, comparison_id: str) -> float | None:
        """The judges' mean probability that a is better, None without a judge."""
        said = Evidence(self.material.labels(comparison_id), self.weights).opinions()
        return fmean(said) if said else None

    def shown(self, comparison_id: str, response_ids: Sequence[str], turned: bool) -> dict[str, Any]:
        """The opinion as the page shows it, told of the response that stands first."""

        def first(p_a: float) -> float:
            return 1 - p_a if turned else p_a

        labels = self.material.labels(comparison_id)
        said = dict.fromkeys(label.rationale for label in labels if label.annotator.kind == "ai")
        p_a = self.on(comparison_id)
        return {
            "p_first": None if p_a is None else first(p_a),
            "principles": [
                {"id": id, "p_first": first(p)} for id, p in self._by_principle(comparison_id).items()
            ],
            "said": [printable(text) for text in said if text],
            "critiques": [printable(self.material.critique(id)) for id in response_ids],
        }

    def _by_principle(self, comparison_id: str) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for said in Evidence(self.material.labels(comparison_id), self.weights).judges():
            for id, p in said.items():
                if id is not None:
                    found.setdefault(id, []).append(p)
        return {id: fmean(values) for id, values in found.items()}
