"""Pairs of responses with the labels that are stored about them, wherever they lie (`rlaif.human.labelled`);
and a judge's verdicts on them, stored ones first."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlaif.audit.card import judge_of
from rlaif.config import find, names_config
from rlaif.constitution import Constitution, Principle
from rlaif.errors import UserError
from rlaif.feedback.judge import Judge, JudgeQuestion, slot_of
from rlaif.human.labelled import NO_PROMPT, RunLabels, folder_labels, form_of, grouped, run_labels
from rlaif.options import LabelOptions
from rlaif.preflight.opening import audited
from rlaif.prompting.templates import Templates
from rlaif.records import Comparison, Label, Prompt, content_hash
from rlaif.runs.folder import Run, silent_progress
from rlaif.runs.rows import RowFile, require_rows

NAMED = "constitutions/general.yaml"


@dataclass
class LabelledPairs:
    """Comparisons by id, with prompts, a way to their texts, and the labels stored about them."""

    source: str
    comparisons: dict[str, Comparison]
    prompts: dict[str, Prompt]
    text: Callable[[str], str]  # of a response, by its id
    labels: dict[str, list[Label]]
    held: RunLabels | None = None  # by a run, where it is one
    left_out: Counter[str] = field(default_factory=Counter)

    def prompt(self, pair: str) -> Prompt:
        """The prompt of a comparison."""
        return self.prompts[self.comparisons[pair].prompt_id]

    def texts(self, pair: str) -> tuple[str, str]:
        """Both responses of a comparison."""
        row = self.comparisons[pair]
        return self.text(row.a), self.text(row.b)

    def question(self, pair: str, principles: Sequence[Principle]) -> JudgeQuestion:
        """The comparison as a judge is asked about it, under those of the principles that apply."""
        prompt = self.prompt(pair)
        own = tuple(p for p in principles if p.applies(prompt.tags))
        return JudgeQuestion(self.comparisons[pair], prompt, *self.texts(pair), own)

    @property
    def run(self) -> Run | None:
        """The run, where it is one."""
        return self.held.run if self.held else None

    @property
    def templates(self) -> Templates | None:
        """The templates of the run, where it is one."""
        return self.held.run.templates if self.held else None

    def options(self) -> LabelOptions | None:
        """How the run's last label stage made preferences of its labels."""
        options = self.held.stages[-1].options if self.held else None
        return options if isinstance(options, LabelOptions) else None


def read_pairs(path: Path) -> LabelledPairs:
    """What a path holds, of a run the labels that it only keeps, too; raises UserError where it is nothing
    that holds labels."""
    if form_of(path) == "run":
        return _run(path)
    with TemporaryDirectory() as place:
        held = folder_labels(path, Path(place) / "rows")
    rows = held.rows
    texts = {name: row.text for name, row in rows.responses.items()}
    return LabelledPairs(
        str(path),
        rows.comparisons,
        rows.prompts,
        texts.__getitem__,
        held.labels,
        left_out=held.all_left_out + rows.left_out,
    )


def _run(path: Path) -> LabelledPairs:
    held = run_labels(path)
    prompts = {
        row.prompt_id: prompt
        for row in held.comparisons.values()
        if (prompt := held.prompts.get(row.prompt_id)) is not None
    }
    kept = {name: row for name, row in held.comparisons.items() if row.prompt_id in prompts}
    labels = held.labels_and_stored
    found = LabelledPairs(
        str(path),
        kept,
        prompts,
        lambda name: held.responses[name].text,
        {name: rows for name, rows in labels.items() if name in kept},
        held,
        left_out=held.strays,
    )
    found.left_out[NO_PROMPT] += len(held.comparisons) - len(kept)
    return found


def drawn(pairs: Sequence[str], count: int, seed: int) -> list[str]:
    """At most `count` comparisons, drawn by the seed, in the order given; 0 = all."""
    if not count or len(pairs) <= count:
        return list(pairs)
    chosen = set(random.Random(seed).sample(sorted(pairs), count))
    return [pair for pair in pairs if pair in chosen]


def open_judge(
    what: str,
    overrides: Sequence[str],
    constitution: Constitution | None,
    templates: str | None = None,
    pairs: LabelledPairs | None = None,
) -> Judge:
    """The judge that a config or a model's name stands for, by this constitution.

    A model is asked by the named templates, by default by those of the run that the pairs are of.
    """
    # A config names a constitution; which one the judge reads is said by the argument alone.
    config, base, _ = audited(what, list(overrides), find(NAMED), templates or "default")
    rules = constitution or Constitution.load(find(NAMED))
    judge = judge_of(config, base, rules)
    own = None if templates or pairs is None or names_config(what) else pairs.templates
    return replace(judge, templates=own) if own else judge


def judge_labels(
    judge: Judge,
    questions: Sequence[JudgeQuestion],
    stored: Iterable[Label] = (),
    keep: Path | None = None,
    progress: Any = silent_progress,
) -> dict[str, list[Label]]:
    """The judge's labels by comparison: those stored that it would give, the rest asked for.

    What is asked is appended to `keep` as it comes, and taken from there by a command that goes on. Raises
    UserError where `keep` is a file of people's labels or of a run's stage, which would be mixed with these.
    """
    if keep:
        require_rows(keep, Label)
    file = RowFile(keep, Label) if keep else None
    kept = list(file or ())
    if keep and ((keep.parent / "stage.json").exists() or any(row.annotator.kind != "ai" for row in kept)):
        raise UserError(
            f"{keep}: holds other labels than this command's, and these would be mixed with them.",
            "a file of its own for what the judge is asked",
            "--keep with a new name",
        )
    expected = judge.expected_slots(questions)
    known = [*stored, *kept]
    given = {
        slot: row for row in known if (slot := slot_of(row)) in expected and row.reason != Label.NUMBERLESS
    }
    labels = list(given.values())
    with progress("verdicts", len(expected) - len(given)) as tick:
        for rows in judge.compare([q for q in questions if q.principles], (), given.keys()):
            if file:
                file.write(rows)
            labels += rows
            tick(len(rows))
    return grouped(sorted(labels, key=lambda row: row.id))


def of_this_wording(label: Label, principle: Principle, templates: Templates | None) -> bool:
    """Whether a stored label is under the principle as it is worded here; a label that does not say how its
    principle was worded is taken by the principle's id."""
    worded = label.judge.get("principle")
    if worded is None or templates is None:
        return label.principle_id == principle.id
    return label.principle_id == principle.id and worded in {
        content_hash(templates.comparison_suffix(principle, cot)) for cot in (False, True)
    }
