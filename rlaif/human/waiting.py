"""People in a run: what they are to label, what a run that waits for them tells them, and their labels."""

from __future__ import annotations

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.config import find
from rlaif.errors import Paused
from rlaif.feedback.judge import JudgeQuestion
from rlaif.human.rankings import load_human_labels, simulate_labels
from rlaif.human.routing import for_people, goes_by_labels, in_words
from rlaif.records import Comparison, Label, Prompt, Response
from rlaif.runs.commands import resume_command
from rlaif.runs.folder import Stage
from rlaif.runs.lookup import Lookup
from rlaif.runs.rows import RowFile
from rlaif.runs.storage import write_text


def awaited(stage: Stage) -> Path | None:
    """The file of people's labels that a stage needs and that is not there yet."""
    human = getattr(stage.options, "human", None)
    path = Path(human.file) if human and human.file else None
    return path if path and not path.exists() else None


@dataclass(frozen=True)
class People:
    """How many comparisons people were asked about, and what they said, by comparison id: unlike a judge's
    labels, few enough to hold."""

    asked: int
    labels: Mapping[str, Sequence[Label]]


def people_of(stage: Stage, questions: Iterable[JudgeQuestion]) -> People:
    """People's labels from the file or the annotator that the stage's options name, on those comparisons that
    they get."""
    human = stage.options.human
    pairs = list(RowFile(stage.input("comparisons"), Comparison))
    chosen = {pair.id for pair in for_people(stage, pairs)}
    if human.file:
        left_out: Counter[str] = Counter()
        labels = load_human_labels(find(human.file, stage.run.base), pairs, left_out)
        known = {None, *stage.constitution.ids}
        left_out["label under a principle that the constitution lacks: it says nothing"] += sum(
            label.principle_id not in known for label in labels
        )
        left_out["label on a pair that people are not asked about (share, num_pairs, tags, route)"] += sum(
            label.comparison_id not in chosen for label in labels
        )
        stage.notes += [f"{human.file}: {n} × {reason}" for reason, n in left_out.items() if n]
    else:
        labels = simulate_labels(
            human.annotator, human.options, list(questions), stage.constitution, stage.seed
        )
    found: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        if label.comparison_id in chosen:
            found[label.comparison_id].append(label)
    stage.notes.append(f"people get {len(chosen)} of {len(pairs)} comparisons: {in_words(human)}")
    return People(len(chosen), found)


def pause(stage: Stage, judged: bool = False) -> Paused | None:
    """What to tell people before a stage that waits for them, None where it does not, or where the judge's
    labels on all comparisons, which say what people get, are not there yet; the comparisons are written out
    with their texts.
    """
    path = awaited(stage)
    if path is None or (goes_by_labels(stage) and not judged):
        return None
    pairs = for_people(stage, RowFile(stage.input("comparisons"), Comparison))
    sheet = stage.run.path / f"{stage.dir.name}_pairs.jsonl"
    _write_sheet(stage, pairs, sheet)
    example = {
        "comparison_id": pairs[0].id if pairs else "…",
        "annotator": {"kind": "human", "id": "your name"},
        "verdict": "a",
    }
    return Paused(
        f"{stage.dir.name}: waits for people's labels in {path}, which is not there yet.",
        f"a row of JSON for each judgement of one of the {len(pairs)} comparisons in {sheet}\n"
        f"({in_words(stage.options.human)}):\n"
        f"  {json.dumps(example, ensure_ascii=False)}\n"
        'verdict is "a" or "b" (the better response), "tie", or "abstain"; not every comparison needs one',
        f"rlaif annotate {shlex.quote(str(stage.run.path))}, or write that file; "
        f"then {resume_command(stage.run.path)}",
    )


def _write_sheet(stage: Stage, pairs: Sequence[Comparison], sheet: Path) -> None:
    """The comparisons with their texts."""
    prompts, texts = Lookup(stage.files("prompts"), Prompt), Lookup(stage.files("responses"), Response)
    rows = [
        {
            "comparison_id": p.id,
            "prompt": prompts[p.prompt_id].chat,
            "a": texts[p.a].text,
            "b": texts[p.b].text,
        }
        for p in pairs
    ]
    write_text(sheet, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
