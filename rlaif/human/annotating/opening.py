"""What people can be asked to annotate: the pairs of a run, of a folder of rows, or of a file."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.human.annotating.material import Material, Scores, grades_in, of_stage
from rlaif.human.files import raw_rows
from rlaif.human.folder import ImportFolder, read_folder
from rlaif.human.formats import FORMATS
from rlaif.human.importers import import_file
from rlaif.human.routing import for_people, people_are_in
from rlaif.prompting.conversations import Unusable, turns_of
from rlaif.records import Comparison, Label, Prompt, Response
from rlaif.runs.catalog import is_run
from rlaif.runs.folder import Run, Stage, silent_progress
from rlaif.runs.rows import RowFile


def open_material(
    path: Path, constitution: Constitution | None = None, progress: Any = silent_progress
) -> Material:
    """The comparisons of a run, of a folder with comparisons.jsonl, or of a file.

    A file is in a format that `rlaif data import` reads, or has rows {"prompt", "responses"} or {"prompt",
    "a", "b"} without a verdict. Raises UserError where there is nothing to compare.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.", "a run, a folder of rows or a file")
    if is_run(path):
        found = _of_run(path, constitution)
    elif (path / "comparisons.jsonl").is_file():
        rows = read_folder(path)
        labels = rows.labels() if (path / "labels.jsonl").exists() else {}
        found = _of_rows(path, rows, labels, constitution, grades_in([path / "grades.jsonl"]))
    elif path.is_dir() and not any(path.glob("*.arrow")) and not (path / "dataset_dict.json").is_file():
        raise UserError(
            f"{path}: neither a run nor a folder of rows (manifest.json and comparisons.jsonl are missing).",
            "a folder made by `rlaif run` or `rlaif data import`, or a file of pairs",
        )
    elif _is_unlabelled(path):
        found = _of_unlabelled(path, constitution)
    else:
        with tempfile.TemporaryDirectory() as place:
            counts = import_file(None, path, Path(place) / "rows", progress=progress)
            rows = read_folder(Path(place) / "rows")
            grades = grades_in([Path(place) / "rows" / "grades.jsonl"])
            found = _of_rows(path, rows, rows.labels(), constitution, grades)
            found.left_out.update(counts["dropped"])
    if not found.comparisons:
        raise UserError(f"{path}: holds no pair to compare.", "two responses to one prompt")
    return found


def _of_rows(
    path: Path,
    rows: ImportFolder,
    labels: Mapping[str, list[Label]],
    constitution: Constitution | None,
    grades: Mapping[str, Scores],
) -> Material:
    return Material(
        path,
        list(rows.comparisons.values()),
        rows.prompts.__getitem__,
        rows.responses.__getitem__,
        lambda id: labels.get(id, ()),
        lambda id: grades.get(id, {}),
        constitution=constitution,
        left_out=rows.counts,
    )


def _of_run(path: Path, constitution: Constitution | None) -> Material:
    """The pairs that the last begun label stage is about, or those that the next one will be."""
    run = Run.load(path)
    stage = _label_stage(run)
    pairs = list(RowFile(stage.input("comparisons"), Comparison))
    human = getattr(stage.options, "human", None)
    waits_for = None
    if human is not None and human.file:
        pairs = for_people(stage, pairs)
        waits_for = None if people_are_in(stage) else Path(human.file)
    found = of_stage(stage, pairs)
    return replace(found, constitution=constitution or run.constitution, waits_for=waits_for)


def _label_stage(run: Run) -> Stage:
    labelling = [stage for stage in run.stages if "labels" in stage.options.makes]
    begun = [stage for stage in labelling if stage.summary]
    for stage in [*reversed(begun), *labelling]:
        if stage.input("comparisons").exists():
            return stage
    raise UserError(
        f"{run.path}: no comparisons yet.", "a run whose pair stage is done", f"rlaif resume {run.path}"
    )


def _is_unlabelled(path: Path) -> bool:
    """Whether the first row has a prompt and responses and is in no format that says which is better."""
    row = next(iter(islice(raw_rows(path), 1)), None)
    named = isinstance(row, dict) and "prompt" in row and ("responses" in row or {"a", "b"} <= row.keys())
    return named and not any(format.fits(row) for format in FORMATS.values())


def _of_unlabelled(path: Path, constitution: Constitution | None) -> Material:
    """Every two responses of each row as a comparison."""
    rows, left_out = ImportFolder(path), Counter[str]()
    for raw in raw_rows(path):
        made = _prompt_and_responses(raw)
        if isinstance(made, Unusable):
            left_out[made] += 1
            continue
        prompt, responses = made
        rows.prompts.setdefault(prompt.id, prompt)
        rows.responses.update({response.id: response for response in responses})
        for a, b in combinations(responses, 2):
            pair = Comparison(prompt_id=prompt.id, a=a.id, b=b.id, origin="import")
            rows.comparisons.setdefault(pair.id, pair)
    found = _of_rows(path, rows, {}, constitution, {})
    found.left_out.update(left_out)
    return found


def _prompt_and_responses(raw: Any) -> tuple[Prompt, list[Response]] | Unusable:
    if isinstance(raw, Unusable) or not isinstance(raw, dict):
        return raw if isinstance(raw, Unusable) else Unusable("no JSON object")
    turns = turns_of(raw.get("prompt"))
    if isinstance(turns, Unusable):
        return turns
    texts = raw.get("responses", [raw.get("a"), raw.get("b")])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return Unusable("responses that are not texts")
    texts = list(dict.fromkeys(texts))
    if len(texts) < 2:
        return Unusable("fewer than two different responses")
    tags = raw.get("tags", [])
    kept = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    try:
        messages = [{"role": role, "content": content} for role, content in turns]
        prompt = Prompt.model_validate({"messages": messages, "tags": kept})
        return prompt, [Response(prompt_id=prompt.id, text=text) for text in texts]
    except ValueError:
        return Unusable("not valid Unicode text")
