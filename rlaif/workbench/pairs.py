"""Pairs of responses with the labels that are stored about them, wherever they lie; and a judge's verdicts on
them, stored ones first.

A run, a folder written by `rlaif data import`, a file of labels beside its comparisons.jsonl, or a file of
preference data in a format that can be imported.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
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
from rlaif.human.folder import ImportFolder, read_folder
from rlaif.human.importers import import_file
from rlaif.human.rankings import load_human_labels
from rlaif.options import LabelOptions
from rlaif.preflight.opening import audited
from rlaif.prompting.templates import Templates
from rlaif.records import Comparison, Label, Prompt, content_hash
from rlaif.report.run_reader import RunReader
from rlaif.runs.catalog import is_run
from rlaif.runs.folder import label_files, silent_progress
from rlaif.runs.rows import RowFile

NAMED = "constitutions/general.yaml"
FORMS = "a run, a folder written by `rlaif data import`, a file of labels, or preference data to import"


@dataclass
class LabelledPairs:
    """Comparisons by id, with prompts, a way to their texts, and the labels stored about them."""

    source: str
    comparisons: dict[str, Comparison]
    prompts: dict[str, Prompt]
    text: Callable[[str], str]  # of a response, by its id
    labels: dict[str, list[Label]]
    templates: Templates | None = None  # of the run, where it is one
    run: RunReader | None = None
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

    def options(self) -> LabelOptions | None:
        """How the run's last label stage made preferences of its labels."""
        stage = self.run.last("label") if self.run else None
        return stage.options if stage is not None and isinstance(stage.options, LabelOptions) else None


def read_pairs(path: Path) -> LabelledPairs:
    """What a path holds; raises UserError where it is none of what `FORMS` names."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.", FORMS)
    if is_run(path):
        return _run(path)
    if path.is_dir():
        return _folder(path, read_folder(path))
    if path.suffix == ".jsonl" and path.with_name("comparisons.jsonl").is_file():
        found = _folder(path, read_folder(path.parent))
        found.labels = grouped(load_human_labels(path, found.comparisons.values(), found.left_out))
        return found
    with TemporaryDirectory() as folder:
        counts = import_file(None, path, Path(folder))
        found = _folder(path, read_folder(Path(folder)))
    found.left_out.update(counts["dropped"])
    return found


def grouped(labels: Iterable[Label]) -> dict[str, list[Label]]:
    """Labels by comparison id."""
    found: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        found[label.comparison_id].append(label)
    return dict(found)


def _folder(path: Path, held: ImportFolder) -> LabelledPairs:
    texts = {name: row.text for name, row in held.responses.items()}
    there = (held.path / "labels.jsonl").is_file()
    labels = held.labels() if there else {}
    return LabelledPairs(
        str(path), held.comparisons, held.prompts, texts.__getitem__, labels, left_out=Counter(held.counts)
    )


def _run(path: Path) -> LabelledPairs:
    reader = RunReader(path)
    rows = [pair for stage in reader.stages for pair in reader.each(stage, "comparisons", Comparison)]
    if not rows:
        raise UserError(f"{path}: no comparisons.", "a run whose pair stage is done", f"rlaif resume {path}")
    pairs = {row.id: row for row in rows}
    labels = {row.id: row for file in label_files(path) for row in RowFile(file, Label)}
    prompts = {
        row.prompt_id: reader.prompts[row.prompt_id] for row in rows if row.prompt_id in reader.prompts
    }
    kept = {name: row for name, row in pairs.items() if row.prompt_id in prompts}
    found = LabelledPairs(
        str(path),
        kept,
        prompts,
        lambda name: reader.responses[name].text,
        grouped(row for row in labels.values() if row.comparison_id in kept),
        reader.run.templates,
        reader,
    )
    found.left_out["comparison whose prompt is not stored"] += len(pairs) - len(kept)
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

    What is asked is appended to `keep` as it comes, and taken from there by a command that goes on.
    """
    file = RowFile(keep, Label) if keep else None
    expected = judge.expected_slots(questions)
    known = [*stored, *(file or ())]
    given = {
        slot: row for row in known if (slot := slot_of(row)) in expected and row.reason != "not a number"
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
