"""The preferences of a run with the texts that they are about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rlaif.errors import UserError
from rlaif.records import Comparison, Preference, Prompt, Record, Response
from rlaif.runs.lookup import Lookup
from rlaif.runs.rows import RowFile

if TYPE_CHECKING:
    from rlaif.runs.folder import Run, Stage

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Preferred:
    """A preference with the comparison that it is of, the prompt and both responses."""

    row: Preference
    pair: Comparison
    prompt: Prompt
    a: Response
    b: Response


def preferred(stage: Stage[Any]) -> Iterator[Preferred]:
    """The preferences of a label stage, read as they are asked for; UserError names the line of one whose
    texts the run does not have."""
    pairs = Lookup([stage.input("comparisons")], Comparison)
    prompts, texts = Lookup(stage.files("prompts"), Prompt), Lookup(stage.files("responses"), Response)
    file = stage.dir / "preferences.jsonl"
    for line, row in enumerate(RowFile(file, Preference), 1):
        where = f"{file}:{line}"
        pair = _held(pairs, row.comparison_id, where)
        a, b = (_held(texts, id, where) for id in (pair.a, pair.b))
        yield Preferred(row, pair, _held(prompts, pair.prompt_id, where), a, b)


def _held(rows: Lookup[R], id: str, where: str) -> R:
    """The row with that id, which a preference names."""
    row = rows.get(id)
    if row is None:
        kind = rows.record.__name__.lower()
        raise UserError(
            f'{where}: a preference of the {kind} "{id}", which the run does not have.',
            "rows as they were written",
            "remove the line, or restore the files from a copy",
        )
    return row


def preference_table(run: Run) -> Any:
    """What `Run.preferences` gives."""
    from datasets import Dataset

    rows = [
        _as_columns(found, stage.dir.name)
        for stage in run.stages
        if "preferences" in stage.options.makes and stage.summary
        for found in preferred(stage)
    ]
    if not rows:
        raise UserError(f"{run.path}: no preferences.", "a run whose label stage has begun")
    return Dataset.from_list(rows)


def _as_columns(found: Preferred, stage: str) -> dict[str, Any]:
    row = found.row
    chosen, rejected = (found.a, found.b) if row.p_a >= 0.5 else (found.b, found.a)
    return {
        "prompt": found.prompt.chat,
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
        "p_chosen": max(row.p_a, 1 - row.p_a),
        "deciding_principle": row.deciding_principle,
        "sources": list(row.sources),
        "weight": row.weight,
        "comparison_id": row.comparison_id,
        "stage": stage,
    }
