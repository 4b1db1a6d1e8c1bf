"""Ways to ask the judge about comparisons (`label.mode`): a row of MODES each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class JudgeMode:
    """What one question shows and asks: of each pair which response is better, or of all responses to a
    prompt what is `asked`, "best" or "worst", a question each.
    """

    asked: tuple[str, ...] = ()

    @property
    def listwise(self) -> bool:
        """Whether all responses to a prompt are shown in one question."""
        return bool(self.asked)

    @property
    def questions(self) -> int:
        """How many questions are asked of a pair, or of a prompt, under a principle in one order."""
        return max(1, len(self.asked))

    def template(self, cot: bool = False) -> str:
        """The template of the question."""
        return "best" if self.listwise else "comparison_cot" if cot else "comparison"


PAIRWISE = JudgeMode()
MODES = {
    "pairwise": PAIRWISE,
    "best": JudgeMode(("best",)),
    "best and worst": JudgeMode(("best", "worst")),
}
if TYPE_CHECKING:
    ModeName = str
else:
    ModeName = Literal[tuple(MODES)]
