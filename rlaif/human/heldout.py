"""Labelled pairs from elsewhere that a reward model is measured on and never trained on."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from rlaif.human.formats import format_of
from rlaif.human.importers import import_file
from rlaif.preferences import opinions
from rlaif.records import Comparison, Label, Prompt, Response, by_id
from rlaif.runfolder import read_rows
from rlaif.storage import read_json


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


def load_heldout(path: Path, imported: Path) -> HeldoutSet:
    """A folder written by `rlaif data import`, or a file that it can read, which is first imported to `imported`.

    Raises UserError where the file cannot be read or holds no usable pair.
    """
    if not path.is_dir():
        import_file(format_of(path), path, imported)
        return load_heldout(imported, imported)
    record = path / "import.json"
    dropped = Counter(read_json(record)["dropped"] if record.exists() else {})
    texts = by_id(read_rows(path / "responses.jsonl", Response))
    said: defaultdict[str, list[Label]] = defaultdict(list)
    for label in read_rows(path / "labels.jsonl", Label):
        said[label.comparison_id] += [label] if label.p_a is not None else []
    pairs: list[LabelledPair] = []
    for row in read_rows(path / "comparisons.jsonl", Comparison):
        labels = said[row.id]
        if labels:
            p_a = fmean(opinions(labels).values())
            who = ", ".join(sorted({label.annotator.id for label in labels}))
            pairs.append(LabelledPair(texts[row.a], texts[row.b], p_a, who))
        else:
            dropped["no readable label"] += 1
    return HeldoutSet(pairs, by_id(read_rows(path / "prompts.jsonl", Prompt)), dropped)
