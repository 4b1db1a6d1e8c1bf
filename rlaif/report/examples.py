"""Rows worth reading, chosen by stated rules and never by hand: before and after, revisions, doubtful
labels."""

from __future__ import annotations

from dataclasses import dataclass

from rlaif.feedback.preferences import combine_orders
from rlaif.prompting.templates import dialogue
from rlaif.records import TIE_MARGIN, Comparison, Evaluation, Label, Preference, Revision
from rlaif.report.run_reader import RunReader
from rlaif.runs.lookup import Lookup


@dataclass(frozen=True)
class ShownResponse:
    """A policy's response with what each principle says of it; `truth` tells gold from the judge's
    opinion."""

    policy: str
    text: str
    kept: dict[str, bool]
    truth: bool
    row_id: str

    @property
    def score(self) -> float:
        """The share of the principles that it keeps."""
        return sum(self.kept.values()) / len(self.kept) if self.kept else 0.0


@dataclass(frozen=True)
class PromptExample:
    """One prompt and the responses of several policies."""

    prompt_id: str
    prompt: str
    responses: tuple[ShownResponse, ...]

    @property
    def gain(self) -> float:
        """How many more principles the last response keeps than the first, as a share."""
        return self.responses[-1].score - self.responses[0].score


def shown_response(reader: RunReader, row: Evaluation, who: str = "") -> ShownResponse:
    """A response as an example shows it, under the policy's name or `who`."""
    found = reader.responses.get(row.response_id)
    kept = row.gold if row.gold else {name: p > 0.5 for name, p in row.compliance.items()}
    shown = {name: bool(ok) for name, ok in kept.items() if name != "all"}
    text = found.text if found else "(not stored)"
    return ShownResponse(who or row.policy, text, shown, bool(row.gold), row.response_id)


def prompt_text(reader: RunReader, prompt_id: str) -> str:
    """A prompt as plain text."""
    prompt = reader.prompts.get(prompt_id)
    return dialogue(prompt.chat) if prompt else "(not stored)"


def before_after(reader: RunReader, count: int = 4) -> dict[str, list[PromptExample]]:
    """Prompts with the largest gain from the first policy to the last and those with the largest loss."""
    policies = list(reader.evaluations.values())
    shared = sorted(set.intersection(*(set(rows) for rows in policies))) if policies else []
    return extremes(
        [
            PromptExample(
                i, prompt_text(reader, i), tuple(shown_response(reader, rows[i]) for rows in policies)
            )
            for i in shared
        ],
        count,
    )


def extremes(cases: list[PromptExample], count: int) -> dict[str, list[PromptExample]]:
    """The `count` cases of largest gain and of largest loss, equals in the order given."""
    gained = sorted((case for case in cases if case.gain > 0), key=lambda case: -case.gain)
    lost = sorted((case for case in cases if case.gain < 0), key=lambda case: case.gain)
    return {"gained": gained[:count], "lost": lost[:count]}


@dataclass(frozen=True)
class Step:
    """One critique and revision."""

    row_id: str
    principle_id: str
    critique: str
    text: str
    status: str


@dataclass(frozen=True)
class Trace:
    """A response and what its critiques and revisions made of it, one after the other."""

    prompt: str
    response_id: str
    response: str
    steps: list[Step]


def traces(reader: RunReader, count: int = 6) -> list[Trace]:
    """The trace of one response a principle, in the order of the revisions' ids."""
    stage = reader.last("critique")
    rows = reader.rows(stage, "revisions", Revision)
    following = {(row.round, row.from_id): row for row in rows}
    first: dict[tuple[str, str], Revision] = {}
    for row in sorted(rows, key=lambda row: row.id):
        if row.round == 1:
            first.setdefault((row.principle_id, row.status), row)
    # Revisions that changed something come first, then one of each other kind.
    heads = sorted(first.values(), key=lambda row: ("ok", "unchanged", "invalid").index(row.status))[:count]
    return [_trace(reader, head, following) for head in heads]


def _trace(reader: RunReader, head: Revision, following: dict[tuple[int, str], Revision]) -> Trace:
    steps: list[Step] = []
    row: Revision | None = head
    while row is not None:
        status = f"{row.status}: {row.reason}" if row.reason else row.status
        steps.append(Step(row.id, row.principle_id, row.critique, _text(reader, row.to_id), status))
        row = following.get((row.round + 1, row.to_id))
    return Trace(prompt_text(reader, head.prompt_id), head.from_id, _text(reader, head.from_id), steps)


def _text(reader: RunReader, response_id: str) -> str:
    found = reader.responses.get(response_id)
    return found.text if found else "(not stored)"


@dataclass(frozen=True)
class ComparisonExample:
    """A comparison with the label of each annotator and principle, both orders put together."""

    row_id: str
    prompt: str
    a: str
    b: str
    p_a: float
    verdicts: list[tuple[str, float]]
    spread: float


def doubtful(reader: RunReader, count: int = 4) -> dict[str, list[ComparisonExample]]:
    """The preferences nearest to one half though something decides, and those whose principles or annotators
    disagree most."""
    stage = reader.last("label")
    labels = reader.lookup([stage] if stage else [], "labels", Label, "comparison_id")
    pairs = Lookup([stage.input("comparisons")] if stage else [], Comparison)
    ties, uncertain, disputed = (Fewest(count), Fewest(count), Fewest(2 * count))
    some_decide = False
    for row in reader.each(stage, "preferences", Preference):
        read = _counting(reader, labels.all(row.comparison_id))
        decides = any(abs(p - 0.5) > TIE_MARGIN for p in read.values())
        some_decide |= decides
        if abs(row.p_a - 0.5) < 0.25:
            (uncertain if decides else ties).add(abs(row.p_a - 0.5), row)
        if _spread(read) > 0.5:
            disputed.add(-_spread(read), row)
    # Where every verdict is a tie, one half is right and not uncertain.
    first = (uncertain if some_decide else ties).rows()
    second = [row for row in disputed.rows() if row not in first][:count]
    return {
        name: [
            _judged(reader, row, pairs[row.comparison_id], labels.all(row.comparison_id))
            for row in rows
            if row.comparison_id in pairs
        ]
        for name, rows in (("uncertain", first), ("disputed", second))
    }


class Fewest:
    """The rows with the smallest keys of many, equals in the order of their ids; the others are let go."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.held: list[tuple[float, str, Preference]] = []

    def add(self, key: float, row: Preference) -> None:
        """Offer a row."""
        self.held.append((key, row.id, row))
        if len(self.held) > 64 * self.count:
            self.held = self._smallest()

    def _smallest(self) -> list[tuple[float, str, Preference]]:
        return sorted(self.held, key=lambda item: item[:2])[: self.count]

    def rows(self) -> list[Preference]:
        """The rows with the smallest keys, smallest first."""
        return [row for *_, row in self._smallest()]


def _counting(reader: RunReader, labels: list[Label]) -> dict[tuple[str, str | None], float]:
    """p_a by (annotator, principle), without the principles that count for nothing."""
    weights = {None: 1.0, **{p.id: p.weight for p in reader.run.constitution.principles}}
    return {key: p for key, p in combine_orders(labels).items() if weights.get(key[1])}


def _spread(read: dict[tuple[str, str | None], float]) -> float:
    return max(read.values(), default=0.5) - min(read.values(), default=0.5)


def _judged(reader: RunReader, row: Preference, pair: Comparison, labels: list[Label]) -> ComparisonExample:
    read = _counting(reader, labels)
    verdicts = [(principle or who.partition(":")[0], p) for (who, principle), p in read.items()]
    a, b = _text(reader, pair.a), _text(reader, pair.b)
    prompt = prompt_text(reader, pair.prompt_id)
    return ComparisonExample(pair.id, prompt, a, b, row.p_a, verdicts, _spread(read))
