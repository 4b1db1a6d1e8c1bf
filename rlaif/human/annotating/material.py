"""Comparisons with what is known of them: what people annotate, and what their queues go by."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.human.folder import labels_by_content, read_beside, read_folder
from rlaif.human.labelled import Form, Labels, form_of, grouped, judge_of, run_labels
from rlaif.records import Comparison, Grade, Label, Prompt, Response, Revision
from rlaif.runs.folder import Stage
from rlaif.runs.lookup import Lookup
from rlaif.runs.rows import RowFile

Scores = Mapping[str, float]  # by source of reward


@dataclass(frozen=True)
class Material:
    """Comparisons with what is known of them; texts are read when they are asked for.

    `labels` gives the labels of a comparison, `grades` and `critique` what a reward model and a critic said
    of a response (nothing where they did not); `waits_for` is the file of labels that a run waits for.
    """

    path: Path
    comparisons: Sequence[Comparison]
    prompt: Callable[[str], Prompt]
    response: Callable[[str], Response]
    labels: Callable[[str], Sequence[Label]] = lambda id: ()
    grades: Callable[[str], Scores] = lambda id: {}
    critique: Callable[[str], str] = lambda id: ""
    constitution: Constitution | None = None
    waits_for: Path | None = None
    left_out: Counter[str] = field(default_factory=Counter)


def with_labels(material: Material, paths: Sequence[Path]) -> Material:
    """The material with the labels of further runs, folders or labels files on its comparisons, too;
    `left_out` counts those on others."""
    ids, left_out = {pair.id for pair in material.comparisons}, Counter(material.left_out)
    files, others = list[Path](), list[Labels]()
    for path in paths:
        form = form_of(path)
        if form == "run":
            own = run_labels(path).stored
            files += own
            strays = sum(row.comparison_id not in ids for file in own for row in RowFile(file, Label))
        else:
            others.append(_labels_of(path, form, left_out))
            strays = sum(len(rows) for pair, rows in others[-1].items() if pair not in ids)
        left_out[f"label of {path} on no pair of {material.path}"] += strays
    further = Lookup(files, Label, "comparison_id")

    def labels(id: str) -> list[Label]:
        found = [*material.labels(id), *further.all(id), *(row for own in others for row in own.get(id, ()))]
        return list({row.id: row for row in found}.values())

    return replace(material, labels=labels, left_out=left_out)


def _labels_of(path: Path, form: Form, left_out: Counter[str]) -> Labels:
    """The labels of a folder or a file; `left_out` counts why some of a folder are not taken."""
    if form == "rows":
        folder = read_folder(path)
        labels = folder.labels()
        left_out.update(folder.left_out)
        return labels
    if path.is_dir():
        raise UserError(f"{path}: holds no labels.", "a run, a folder of rows or a file of labels")
    return grouped(labels_by_content(path, read_beside(path)))


def of_stage(stage: Stage, pairs: Sequence[Comparison]) -> Material:
    """Comparisons of a label stage with what its run holds of them."""
    run = stage.run
    prompts, responses = Lookup(stage.files("prompts"), Prompt), Lookup(stage.files("responses"), Response)
    own, earlier = (
        Lookup([stage.dir / f"{name}.jsonl"], Label, "comparison_id") for name in ("labels", "earlier_labels")
    )
    said = {row.from_id: row.critique for file in stage.files("revisions") for row in RowFile(file, Revision)}
    grades = grades_in([each.dir / "grades.jsonl" for each in run.stages])

    def labels(id: str) -> list[Label]:
        """The stage's labels, and those of other judges that an earlier run had; not what the same judge said
        when a principle was worded otherwise."""
        mine = own.all(id)
        judges = {judge_of(label) for label in mine if label.annotator.kind == "ai"}
        return [*mine, *(label for label in earlier.all(id) if judge_of(label) not in judges)]

    return Material(
        run.path,
        pairs,
        prompts.__getitem__,
        responses.__getitem__,
        labels,
        lambda id: grades.get(id, {}),
        lambda id: said.get(id, ""),
        run.constitution,
    )


def grades_in(files: Sequence[Path]) -> Mapping[str, Scores]:
    """Scores by response id."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for path in files:
        for row in RowFile(path, Grade):
            found[row.response_id].update(row.scores)
    return found
