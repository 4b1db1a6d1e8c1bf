"""The whole of `rlaif constitution induce`: labels, candidates and their verdicts from files or a model, then
the fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.records import AnnotatorKind, Label
from rlaif.runs.folder import silent_progress
from rlaif.workbench.pairs import LabelledPairs, drawn, judge_labels, open_judge, read_pairs
from rlaif.workbench.principle_evidence import constitution_of, evidence, induced, stored_verdicts, target
from rlaif.workbench.proposals import proposed
from rlaif.workbench.yaml_text import to_yaml

MARK = (
    "# Written by rlaif constitution induce, which may write it anew."  # no config or constitution of people
)


@dataclass(frozen=True)
class CandidateSources:
    """Where candidates and their verdicts come from: a file, or a judge who proposes `most` candidates from
    `propose` pairs; whose labels are kept in `keep`."""

    candidates: Path | None = None
    judge: str | None = None
    overrides: tuple[str, ...] = ()
    templates: str | None = None
    propose: int = 64
    most: int = 24
    keep: Path | None = None


@dataclass(frozen=True)
class Induced:
    """The figures, and the candidates that they are about."""

    figures: dict[str, Any]
    candidates: Constitution
    source: str

    def constitution_text(self) -> str:
        """What explains the labels as a constitution file; raises UserError where nothing does."""
        return MARK + "\n" + to_yaml(constitution_of(self.figures, self.candidates, Path(self.source).name))


def induce(
    path: Path,
    how: CandidateSources,
    by: AnnotatorKind | None = None,
    most_pairs: int = 0,
    seed: int = 0,
    progress: Any = silent_progress,
) -> Induced:
    """Which principles explain the labels of `path`.

    Raises UserError where there are no labels, no candidates, or no verdicts under these.
    """
    pairs = read_pairs(path)
    goal = target(pairs, by)
    chosen = drawn(list(goal.p), most_pairs, seed)
    said = {pair: goal.p[pair] for pair in chosen}
    candidates, times, left_out = _candidates(pairs, said, how, seed, progress)
    verdicts, other = stored_verdicts(pairs, candidates)
    left_out += pairs.left_out + goal.left_out + Counter({"comparison not drawn": len(goal.p) - len(said)})
    if how.judge:
        stored = [row for rows in verdicts.values() for row in rows]
        verdicts = _asked(pairs, candidates, how, chosen, stored, progress)
    else:
        left_out += other
    found = evidence(pairs, said, verdicts, candidates.ids)
    if not found.read_NJ.any():
        asked = "the judge gave no verdict that can be read" if how.judge else "no verdict is stored"
        worded = f" ({other.total()} are under other wordings)" if other.total() and not how.judge else ""
        raise UserError(
            f"{pairs.source}: {asked} under a candidate{worded}.",
            "verdicts under the candidates",
            "name another --judge: a model or a config",
        )
    figures = induced(found, candidates)
    for row, n in zip(figures["candidates"], times, strict=False):
        row["proposed"] = n
    return Induced({"target": goal.of, "left_out": dict(+left_out), **figures}, candidates, pairs.source)


def _candidates(
    pairs: LabelledPairs, said: dict[str, float], how: CandidateSources, seed: int, progress: Any
) -> tuple[Constitution, list[int], Counter[str]]:
    """The candidates, how often each was proposed (nothing for those of a file), and what was dropped."""
    if how.candidates:
        return Constitution.load(how.candidates), [], Counter()
    if how.judge:
        engine = open_judge(how.judge, how.overrides, None, how.templates, pairs).engine
        found = proposed(engine, pairs, said, drawn(list(said), how.propose, seed), how.most, progress)
        return found.candidates, found.times, found.dropped
    if pairs.run:
        return pairs.run.constitution, [], Counter()
    raise UserError(
        f"{pairs.source}: no candidates.",
        "principles that may explain the labels",
        "add --candidates FILE, or --judge MODEL whose model proposes some",
    )


def _asked(
    pairs: LabelledPairs,
    candidates: Constitution,
    how: CandidateSources,
    chosen: list[str],
    stored: list[Label],
    progress: Any,
) -> dict[str, list[Label]]:
    """The judge's verdicts under every candidate, stored ones first."""
    assert how.judge is not None
    judge = open_judge(how.judge, how.overrides, candidates, how.templates, pairs)
    questions = [pairs.question(pair, candidates.principles) for pair in chosen]
    return judge_labels(judge, questions, stored, how.keep, progress)
