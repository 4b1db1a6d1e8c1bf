"""A pair of responses with its texts and what people said of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rlaif.constitution import Constitution
from rlaif.feedback.judge import JudgeQuestion
from rlaif.records import Comparison, Label, Prompt


@dataclass(frozen=True)
class LabelledPair:
    """A comparison with its texts and people's labels that say something of it."""

    comparison: Comparison
    prompt: Prompt
    a: str
    b: str
    labels: tuple[Label, ...]

    def opinions(self) -> dict[str | None, float]:
        """The mean of the people's p_a by principle; None stands for the whole comparison."""
        said: dict[str | None, list[float]] = defaultdict(list)
        for label in self.labels:
            if label.p_a is not None:
                said[label.principle_id].append(label.p_a)
        return {principle: fmean(values) for principle, values in said.items()}

    def question(self, constitution: Constitution) -> JudgeQuestion | None:
        """What a judge is asked so that its verdicts can be held against the labels: the principles that
        these name, and all that apply where one is on the whole; None where no principle applies."""
        named = self.opinions()
        applicable = constitution.applicable(self.prompt.tags)
        wanted = [p for p in constitution.principles if p.id in named or (None in named and p in applicable)]
        return JudgeQuestion(self.comparison, self.prompt, self.a, self.b, tuple(wanted)) if wanted else None


def sides(pairs: Sequence[LabelledPair]) -> tuple[int, int]:
    """(how many labels prefer a, how many b)."""
    values = [label.p_a for pair in pairs for label in pair.labels if label.p_a is not None]
    return sum(p > 0.5 for p in values), sum(p < 0.5 for p in values)
