"""What a path holds: its pairs of responses, and the labels on them. Every command that reads labels goes by
this rule.

A run holds what its label stages hold, all that have labelled, oldest first: the comparisons that each was
given, its labels.jsonl, its preferences.jsonl. What stands in two of them is one row, the later stage's. The
folder of one label stage (runs/mine/07_label) holds that stage's alone. A folder with comparisons.jsonl holds
its own rows, a file of labels or rankings beside a comparisons.jsonl its labels on those pairs. Any other
file or folder is preference data in another project's format, which is imported first.

A run keeps labels that it does not use, too: those of an earlier run under other words, and those that
`rlaif constitution diff --ask` asked for. They are no labels of the run; where a verdict under some principle
is looked for, they save asking (`RunLabels.stored`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from rlaif.errors import UserError
from rlaif.human.folder import ImportFolder, import_record, read_folder
from rlaif.human.importers import import_file
from rlaif.human.rankings import load_human_labels
from rlaif.prompting.tables import require_kept
from rlaif.records import Comparison, Label, Prompt, Ranking, Record, Response
from rlaif.runs.catalog import is_run
from rlaif.runs.commands import resume_command
from rlaif.runs.folder import Run, Stage, silent_progress, stored_labels
from rlaif.runs.lookup import Lookup
from rlaif.runs.rows import RowFile

R = TypeVar("R", bound=Record)
Form = Literal["run", "rows", "labels", "data"]
Labels = dict[str, list[Label]]  # by comparison id
LABELS = ("labels.jsonl", "rankings.jsonl")
STRAY_OF_RUN = "label on no comparison of the run or stage"
NO_PROMPT = "comparison whose prompt is not stored"
FORMS = (
    "a run, or the folder of one of its label stages; a folder written by `rlaif data import`; a file of "
    "labels; or preference data to import"
)


def form_of(path: Path) -> Form:
    """Which of these a path is: a run or a label stage's folder, a folder of rows, a file of labels (the
    comparisons that they are on belong beside it), or data to import; raises UserError where there is
    nothing."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.", FORMS)
    require_kept(path)
    if is_run(path) or _run_around(path):
        return "run"
    if path.is_dir():
        ours = (path / "comparisons.jsonl").is_file() or any(own_rows(path / name) for name in LABELS)
        return "rows" if ours else "data"
    pairs = path.with_name("comparisons.jsonl")
    beside = path.suffix == ".jsonl" and path != pairs and pairs.is_file()
    return "labels" if beside or own_rows(path) else "data"


def own_rows(path: Path) -> type[Label] | type[Ranking] | None:
    """What the rows of a JSONL file of labels or rankings are, None where it is none."""
    if not path.is_file() or path.suffix != ".jsonl":
        return None
    try:
        with path.open("rb") as file:
            keys = json.loads(next(filter(bytes.strip, file), b"{}")).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    if {"comparison_id", "annotator", "verdict"} <= keys:
        return Label
    return Ranking if {"ranks", "response_ids"} <= keys else None


def _run_around(path: Path) -> Run | None:
    """The run of which the folder is a label stage's, None where it is none."""
    around = path.resolve().parent
    if not (path.is_dir() and is_run(around)):
        return None
    run = Run.load(around)
    return run if any(stage.dir.name == path.resolve().name for stage in labelling(run)) else None


def labelling(run: Run) -> list[Stage[Any]]:
    """The label stages of a run, begun or not."""
    return [stage for stage in run.stages if "labels" in stage.options.makes]


def label_stages(path: Path) -> tuple[Run, list[Stage[Any]]]:
    """A run with its label stages, begun or not; of a label stage's folder that one alone."""
    if run := _run_around(path):
        return run, [stage for stage in labelling(run) if stage.dir.name == path.resolve().name]
    run = Run.load(path)
    return run, labelling(run)


@dataclass(frozen=True)
class RunLabels:
    """The label stages of a run that have labelled, or the one that was named."""

    path: Path
    run: Run
    stages: tuple[Stage[Any], ...]

    def each_comparison(self) -> Iterator[Comparison]:
        """The comparisons that the stages were given, each once."""
        files = dict.fromkeys(stage.input("comparisons") for stage in self.stages)
        return _each_once((RowFile(file, Comparison) for file in files), len(files))

    def each_label(self) -> Iterator[Label]:
        """Their labels, each once."""
        return _each_once((RowFile(file, Label) for file in self.files), len(self.files))

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """The comparisons by id."""
        return {row.id: row for row in self.each_comparison()}

    @property
    def files(self) -> list[Path]:
        """The files of their labels, the latest stage's first: its row counts where two are the same."""
        return [stage.dir / "labels.jsonl" for stage in reversed(self.stages)]

    @property
    def stored(self) -> list[Path]:
        """The same with the files of labels that the run keeps and does not use."""
        return stored_labels(self.run, list(self.stages))

    @cached_property
    def labels(self) -> Labels:
        """Their labels by comparison."""
        return grouped(self.each_label())

    @cached_property
    def labels_and_stored(self) -> Labels:
        """The same with labels that are only stored, of equal ones the last that was asked for."""
        rows = {row.id: row for file in self.stored for row in RowFile(file, Label)}
        return grouped(rows.values())

    def labels_of(self, comparison: str) -> list[Label]:
        """The labels of one comparison; they stay on disk until they are asked for."""
        return list({row.id: row for row in reversed(self._lookup.all(comparison))}.values())[::-1]

    @cached_property
    def _lookup(self) -> Lookup[Label]:
        return Lookup(self.files, Label, "comparison_id")

    @property
    def strays(self) -> Counter[str]:
        """How many labels are on none of the comparisons, as a reason with its count."""
        ids = {row.id for row in self.each_comparison()}
        return +Counter({STRAY_OF_RUN: sum(row.comparison_id not in ids for row in self.each_label())})

    @cached_property
    def prompts(self) -> Lookup[Prompt]:
        """Every prompt that the comparisons can name."""
        return Lookup(self.stages[-1].files("prompts"), Prompt)

    @cached_property
    def responses(self) -> Lookup[Response]:
        """Every response that the comparisons can name."""
        return Lookup(self.stages[-1].files("responses"), Response)


def run_labels(path: Path) -> RunLabels:
    """What a run, or the folder of one of its label stages, holds; raises UserError where nothing is labelled
    yet, or a file of a finished stage is damaged."""
    run, stages = label_stages(path)
    run.verify(small=True)
    begun = tuple(stage for stage in stages if (stage.dir / "labels.jsonl").exists())
    if not begun:
        raise UserError(
            f"{path}: holds no labels.",
            "a run whose label stage has begun",
            f"{resume_command(run.path)} --until label" if stages else "a config with a label stage",
        )
    return RunLabels(path, run, begun)


@dataclass
class FolderLabels:
    """Rows from elsewhere: of a folder, of a file of labels with the comparisons beside it, or imported.

    `left_out` counts why labels of a file were not taken, by reason; `imported` is what import.json says of
    the import that made the rows, now or earlier.
    """

    rows: ImportFolder
    labels: Labels
    left_out: Counter[str] = field(default_factory=Counter)
    imported: dict[str, Any] = field(default_factory=dict)

    @property
    def all_left_out(self) -> Counter[str]:
        """The same with what the import dropped, and what it left out of rows that it kept."""
        return sum((Counter(self.imported.get(kind, {})) for kind in ("dropped", "left_out")), self.left_out)


def folder_labels(path: Path, place: Path, progress: Any = silent_progress) -> FolderLabels:
    """What a path that is no run holds; data to import is imported into the folder `place`.

    Raises UserError where it cannot be read.
    """
    form = form_of(path)
    if form == "labels":
        found = FolderLabels(read_folder(path.parent), {})
        labels = load_human_labels(path, found.rows.comparisons.values(), found.left_out)
        found.labels = grouped(labels)
        return found
    if form == "rows":
        rows, imported = read_folder(path), import_record(path)
    else:
        imported = import_file(None, path, place, progress=progress)
        rows = read_folder(place)
    labels = rows.labels() if (rows.path / "labels.jsonl").exists() else {}
    return FolderLabels(rows, labels, imported=imported)


def _each_once(files: Iterable[Iterable[R]], several: int) -> Iterator[R]:
    seen: set[str] = set()
    for file in files:
        for row in file:
            if several < 2:  # the rows of one file are different
                yield row
            elif row.id not in seen:
                seen.add(row.id)
                yield row


def judge_of(label: Label) -> tuple[str, ...]:
    """Who gave a judge's label: the model, and how it was asked."""
    return label.annotator.id, *(label.judge.get(part, "") for part in ("template", "decoding", "fit"))


def grouped(labels: Iterable[Label]) -> Labels:
    """Labels by comparison id."""
    found: defaultdict[str, list[Label]] = defaultdict(list)
    for label in labels:
        found[label.comparison_id].append(label)
    return dict(found)
