"""A principle's examples as its unit tests: does the judge prefer the better response, shown first or second?

Each example is asked under the principle as it stands and under each of its other wordings. A test passes
where both orders lean to the better response and both together (the mean logit) by at least a margin beyond
one half. An example that the judge has been shown as a few-shot turn would test its memory: its own tests are
asked with the turns that are made without it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rlaif.audit.audit import wordings
from rlaif.audit.card import JudgeSetting
from rlaif.audit.cases import AuditCase, pair
from rlaif.audit.measures import Reading
from rlaif.constitution import Constitution, Example, Principle
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge
from rlaif.records import ORDERS, TIE_MARGIN, Label, Message, Order, Prompt
from rlaif.workbench.probe import require_a_verdict
from rlaif.yamlfile import Lines

Outcome = Literal["passed", "failed", "error"]


@dataclass(frozen=True)
class ExampleTest:
    """An example of a principle, asked under one wording of it: 0 is the principle's own."""

    principle: Principle
    number: int  # of the example, from 1
    wording: int
    line: int  # of the example in the file

    @property
    def id(self) -> str:
        """What the test is called: principle, example, and wording where it is not the principle's own."""
        return f"{self.principle.id}::example-{self.number}" + (
            f"::wording-{self.wording}" if self.wording else ""
        )

    @property
    def example(self) -> Example:
        """The example."""
        return self.principle.examples[self.number - 1]

    @property
    def asked(self) -> Principle:
        """The principle as the judge reads it."""
        if not self.wording:
            return self.principle
        text = wordings(self.principle)[self.wording - 1]
        return self.principle.model_copy(update={"text": text, "compare": None})

    @cached_property
    def case(self) -> AuditCase:
        """The pair to judge: a is the better response."""
        prompt = Prompt(messages=(Message(role="user", content=self.example.prompt),))
        return pair(prompt, self.example.better, self.example.worse, [self.asked])


@dataclass(frozen=True)
class ExampleResult:
    """What the judge said: the probability that the better response is better, in each order that could be
    read.

    "ab" is the order in which the better one is shown first; `unread` says why an order is missing.
    """

    test: ExampleTest
    reading: Reading
    unread: str | None
    margin: float

    @property
    def outcome(self) -> Outcome:
        """`error` where an order could not be read."""
        if self.unread is not None:
            return "error"
        return "failed" if self.why else "passed"

    @property
    def why(self) -> str:
        """Why the test did not pass, empty where it did."""
        if self.unread is not None:
            return f"no verdict could be read ({self.unread})"
        first, second = (self.reading.shown[order] for order in ORDERS)
        both = self.reading.p_a or 0.0
        said = f"{both:.2f} for the better response: {first:.2f} shown first, {second:.2f} shown second"
        if min(first, second) > 0.5 and both - 0.5 >= self.margin:
            return ""
        if max(abs(first - 0.5), abs(second - 0.5), abs(both - 0.5)) <= max(self.margin, TIE_MARGIN):
            return f"hardly decides: does the judge understand the wording? ({said})"
        if min(first, second) > 0.5:
            return f"decides by too little ({said})"
        if max(first, second) <= 0.5:
            return f"prefers the worse response ({said})"
        return f"the verdict flips with the order ({said})"

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it; `margin` is how far beyond one half both orders together are."""
        both = self.reading.p_a
        return {
            "id": self.test.id,
            "principle": self.test.principle.id,
            "example": self.test.number,
            "wording": self.test.asked.compare or self.test.asked.text,
            "line": self.test.line,
            "outcome": self.outcome,
            "why": self.why,
            "better_first": self.reading.shown.get("ab"),
            "better_second": self.reading.shown.get("ba"),
            "both": both,
            "margin": None if both is None else both - 0.5,
        }


def collect(constitution: Constitution, lines: Lines) -> list[ExampleTest]:
    """Every test of a constitution, in the order of the file; raises UserError where there is none."""
    found = [
        ExampleTest(principle, n + 1, wording, lines.at(("principles", at, "examples", n)))
        for at, principle in enumerate(constitution.principles)
        for n in range(len(principle.examples))
        for wording in range(1 + len(wordings(principle)))
    ]
    if not found:
        raise UserError(
            f"{constitution.name}: no principle has an example: there is nothing to test.",
            "examples: [{prompt: …, better: …, worse: …}] at a principle",
        )
    return found


def untested(constitution: Constitution) -> list[str]:
    """The principles without an example."""
    return [principle.id for principle in constitution.principles if not principle.examples]


def run_tests(
    tests: Sequence[ExampleTest],
    constitution: Constitution,
    setting: JudgeSetting,
    margin: float = TIE_MARGIN,
    first: Collection[str] = (),
) -> Iterator[ExampleResult]:
    """The results of tests as they come; those with an id in `first` are asked before the others.

    Raises UserError where no verdict at all could be read.
    """
    unread: Counter[str] = Counter()
    asked = 0
    for chosen in (True, False):
        for judge, group in _groups([t for t in tests if (t.id in first) == chosen], constitution, setting):
            for result in _asked(judge, group, margin):
                asked += 1
                if result.unread is not None:
                    unread[result.unread] += 1
                yield result
    require_a_verdict(setting, asked, unread)


def _groups(
    tests: Sequence[ExampleTest], constitution: Constitution, setting: JudgeSetting
) -> Iterator[tuple[Judge, list[ExampleTest]]]:
    """Tests that one call can ask: of one wording, with the same few-shot turns."""
    usual = setting.judge(constitution)
    shown = "\n".join(turn["content"] for turn in usual.shots)
    groups: dict[tuple[int, Example | None], list[ExampleTest]] = defaultdict(list)
    for test in tests:
        own = test.example if usual.shots and test.example.better in shown else None
        groups[test.wording, own].append(test)
    for (_, own), group in groups.items():
        yield setting.judge(without(constitution, own)) if own else usual, group


def without(constitution: Constitution, example: Example) -> Constitution:
    """The constitution without an example, wherever it stands."""

    def kept(principle: Principle) -> Principle:
        examples = (e for e in principle.examples if (e.prompt, e.better) != (example.prompt, example.better))
        return principle.model_copy(update={"examples": tuple(examples)})

    return constitution.model_copy(update={"principles": tuple(map(kept, constitution.principles))})


def _asked(judge: Judge, tests: Sequence[ExampleTest], margin: float) -> Iterator[ExampleResult]:
    same: dict[tuple[str, str | None], list[ExampleTest]] = defaultdict(list)  # an example may stand twice
    for test in tests:
        same[test.case.question.comparison.id, test.principle.id].append(test)
    found: dict[tuple[str, str | None], list[Label]] = defaultdict(list)
    for labels in judge.compare([group[0].case.question for group in same.values()]):
        for label in labels:
            key = (label.comparison_id, label.principle_id)
            found[key].append(label)
            if len(found[key]) == len(ORDERS):
                yield from (_result(test, found[key], margin) for test in same[key])


def _result(test: ExampleTest, labels: Sequence[Label], margin: float) -> ExampleResult:
    shown: dict[Order, float] = {x.order: x.p_a for x in labels if x.p_a is not None}
    unread = next((label.reason or "refused" for label in labels if label.p_a is None), None)
    return ExampleResult(test, Reading(test.case, test.principle.id, shown), unread, margin)


def chosen(tests: Sequence[ExampleTest], words: str, path: Path) -> list[ExampleTest]:
    """The tests that an expression such as "polite and not wording" names; raises UserError where it names
    none."""
    from rlaif.workbench.selection import selector

    select = selector(words)
    found = [test for test in tests if select(f"{test.id} {' '.join(test.principle.tags)}")]
    if not found:
        raise UserError(
            f'-k "{words}": names none of the {len(tests)} tests of {path}.',
            "a part of a test's id or of a principle's tags; known principles: "
            + ", ".join(dict.fromkeys(test.principle.id for test in tests)),
        )
    return found
