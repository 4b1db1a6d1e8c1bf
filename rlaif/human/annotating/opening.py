"""What people can be asked to annotate: the pairs of a run, of a folder of rows, or of a file."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.human.annotating.material import Material, Scores, grades_in, of_stage
from rlaif.human.files import raw_rows
from rlaif.human.folder import ImportFolder
from rlaif.human.formats import FORMATS
from rlaif.human.labelled import folder_labels, form_of, label_stages
from rlaif.human.routing import for_people, people_are_in
from rlaif.prompting.conversations import Unusable, turns_of
from rlaif.records import Comparison, Label, Prompt, Response
from rlaif.runs.commands import resume_command
from rlaif.runs.folder import Run, Stage, silent_progress
from rlaif.runs.rows import RowFile


def open_material(
    path: Path, constitution: Constitution | None = None, progress: Any = silent_progress
) -> Material:
    """The comparisons of a run, of a folder with comparisons.jsonl, or of a file.

    A file is in a format that `rlaif data import` reads, or has rows {"prompt", "responses"} or {"prompt",
    "a", "b"} without a verdict. Raises UserError where there is nothing to compare.
    """
    form = form_of(path)
    if form == "run":
        found = _of_run(path, constitution)
    elif form == "data" and path.is_file() and _is_unlabelled(path):
        found = _of_unlabelled(path, constitution)
    else:
        with tempfile.TemporaryDirectory() as place:
            held = folder_labels(path, Path(place) / "rows", progress)
            given = grades_in([held.rows.path / "grades.jsonl"])
        grades = {held.rows.id_of("responses", id): scores for id, scores in given.items()}
        found = _of_rows(path, held.rows, held.labels, constitution, grades)
        found.left_out.update(held.all_left_out)
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
        left_out=rows.left_out,
    )


def _of_run(path: Path, constitution: Constitution | None) -> Material:
    """The pairs of the label stage that waits for people, else those of all that have labelled, else those
    that the next one will have."""
    run, stages = label_stages(path)
    parts = [(stage, of_stage(stage, _pairs(stage))) for stage in _for_people(run, stages)]
    last, found = parts[-1]
    pairs = {pair.id: pair for _, part in parts for pair in part.comparisons}

    def labels(id: str) -> list[Label]:
        return list({row.id: row for _, part in parts for row in part.labels(id)}.values())

    return replace(
        found,
        comparisons=list(pairs.values()),
        labels=labels,
        constitution=constitution or run.constitution,
        waits_for=None if people_are_in(last) else _people_file(last),
    )


def _people_file(stage: Stage[Any]) -> Path | None:
    """The file of people's labels that a stage is to have."""
    human = getattr(stage.options, "human", None)
    return Path(human.file) if human is not None and human.file else None


def _pairs(stage: Stage[Any]) -> list[Comparison]:
    pairs = RowFile(stage.input("comparisons"), Comparison)
    return for_people(stage, pairs) if _people_file(stage) else list(pairs)


def _for_people(run: Run, stages: Sequence[Stage[Any]]) -> list[Stage[Any]]:
    there = [stage for stage in stages if stage.input("comparisons").exists()]
    waiting = [stage for stage in there if _people_file(stage) and not people_are_in(stage)]
    begun = [stage for stage in there if (stage.dir / "labels.jsonl").exists()]
    if not there:
        raise UserError(
            f"{run.path}: no comparisons yet.", "a run whose pair stage is done", resume_command(run.path)
        )
    return waiting[:1] or begun or there[:1]


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
