"""Labelled pairs from elsewhere that a reward model is measured on and never trained on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.errors import UserError
from rlaif.feedback.preferences import opinions
from rlaif.human.folder import import_record, read_folder
from rlaif.human.importers import import_file
from rlaif.human.labelled import form_of
from rlaif.records import Prompt, Response
from rlaif.runs.folder import silent_progress


@dataclass(frozen=True)
class LabelledPair:
    """Two responses to a prompt, the mean of the annotators' opinions that a is better, and who says so."""

    a: Response
    b: Response
    p_a: float
    annotator: str


@dataclass(frozen=True)
class HeldoutSet:
    """The usable pairs of a set, their prompts by id, and why others are left out."""

    pairs: list[LabelledPair]
    prompts: dict[str, Prompt]
    dropped: Counter[str] = field(default_factory=Counter)


def load_heldout(path: Path, imported: Path, progress: Any = silent_progress) -> HeldoutSet:
    """A folder written by `rlaif data import`, or a file or data set that it can read, which then is
    first imported to `imported`.

    Raises UserError where the file cannot be read or holds no usable pair.
    """
    form = form_of(path)
    if form == "run":
        raise UserError(
            f"{path}: a run, and its labels are opinions under principles.",
            "pairs whose labels say which response is better",
            f"rlaif data export {path} --format trl --out FILE.jsonl, and name that file",
        )
    if form == "data":
        import_file(None, path, imported, progress=progress)
        return load_heldout(imported, imported)
    folder = read_folder(path)
    said = folder.labels()
    pairs: list[LabelledPair] = []
    dropped = Counter(import_record(path).get("dropped", {}))
    for row in folder.comparisons.values():
        labels = [label for label in said.get(row.id, ()) if label.p_a is not None]
        if labels:
            p_a = fmean(opinions(labels).values())
            who = ", ".join(sorted({label.annotator.id for label in labels}))
            pairs.append(LabelledPair(folder.responses[row.a], folder.responses[row.b], p_a, who))
        else:
            dropped["no readable label"] += 1
    dropped += folder.left_out
    dropped["pair that stands twice"] += folder.repeated
    return HeldoutSet(pairs, folder.prompts, +dropped)
