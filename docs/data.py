"""Writes docs/data.md: every column of every file that a run leaves.

    python docs/data.py            # writes the page; a test fails where it is not up to date

What the fields of rows mean stands at the fields (`rlaif.records`); what the keys of the other files mean
stands here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data_columns import METRICS, OTHERS
from pydantic import BaseModel

from rlaif import records
from rlaif.human.annotating.actions import Action
from rlaif.human.routing import Routed
from rlaif.records import Record

PAGE = Path(__file__).with_name("data.md")
TOP = """# The files of a run, column by column

Made by `python docs/data.py` from the code; a test compares it with the files of runs.
Files ending in `.jsonl` have a JSON object a line. A key that a row has no value for is missing from it; in \
the other files it is
missing or null, as said. `a.b` is the key `b` of the object `a`, `a[]` the entries of a list, `<name>` \
stands for any
name. Intervals (`…_ci`, `ci`) are 95 %, pairs of a lower and an upper end; an end is null where nothing can \
be said of it and the other
a one-sided bound, and the whole is null where there is nothing to compute it from. A NaN stands where an \
interval needs more prompts
than there are. KL is in nats, probabilities and shares between 0 and 1, lengths in tokens, times in seconds.
JSON files that rlaif writes carry a `checksum`, the first 16 hex digits of the SHA-256 of the rest.
"""
ROWS: list[tuple[str, type[Record], str]] = [
    ("prompts.jsonl", records.Prompt, "a new run; `pair` with `imported`, in its folder"),
    (
        "responses.jsonl",
        records.Response,
        "`sample`, `critique`, `pair` with `imported`, `best_of_n`, `evaluate`",
    ),
    ("best.jsonl", records.Response, "`best_of_n`: the chosen response of each prompt"),
    ("revisions.jsonl", records.Revision, "`critique`"),
    ("comparisons.jsonl", records.Comparison, "`pair`"),
    ("labels.jsonl", records.Label, "`label`; `rlaif constitution diff --ask`, in the folder `asked`"),
    ("earlier_labels.jsonl", records.Label, "`label` with `labels_from`: labels that were not taken over"),
    ("preferences.jsonl", records.Preference, "`label`"),
    (
        "routed.jsonl",
        Routed,
        "`label` with `human.route`, in the order of the queue, where that goes by labels",
    ),
    (
        "rankings.jsonl",
        records.Ranking,
        "people, for `label.human`; `rlaif data import`, where the data has rankings",
    ),
    (
        "grades.jsonl",
        records.Grade,
        (
            "`best_of_n`, `rejection`, `label` with `human.route: reward`; `rlaif data import`, where the "
            "data has scores of single responses"
        ),
    ),
    ("evaluation.jsonl", records.Evaluation, "`evaluate`"),
    ("actions.jsonl", Action, "`rlaif annotate`, which makes `labels.jsonl` and `rankings.jsonl` of it"),
]
INSIDE = {"messages": "Message", "annotator": "Annotator"}  # objects inside rows
COPIES = """## Files without columns of their own

`config.yaml` is the config as given, `config.json` the resolved one, `constitution.json` and \
`templates.json` what the run used,
`report.html` and `judge_card.html` are for people (the ids on the report's cards are rows for `rlaif show \
RUN ROW`; "What to try next" stands there where a warning or an alarm points somewhere), `policy/`, \
`reward_model/` and `adapter/` are model folders as transformers and PEFT write them.
"""


def parsed(columns: str) -> list[tuple[str, str, str]]:
    """Key, type and meaning of each line."""
    cells = [line.split(" | ") for line in columns.strip().splitlines() if line.strip()]
    return [(key, kind, meaning) for key, (kind, meaning) in {key: rest for key, *rest in cells}.items()]


def fields(record: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Key, type and meaning of each field of a row."""

    def plain(annotation: Any) -> str:
        text = (
            annotation.__name__
            if isinstance(annotation, type) and "[" not in str(annotation)
            else str(annotation)
        )
        text = re.sub(r"rlaif\.[\w.]*\.|typing\.", "", text)
        return text.replace("str", "text").replace(" | None", "")

    return [
        (key, plain(field.annotation), " ".join((field.description or "").split()))
        for key, field in record.model_fields.items()
    ]


def table(columns: list[tuple[str, str, str]]) -> str:
    """A table of the page."""
    escaped = ((cell.replace("|", r"\|") for cell in row) for row in columns)
    lines = [f"| `{key}` | {kind} | {meaning} |" for key, kind, meaning in escaped]
    return "\n".join(["| key | type | meaning |", "|---|---|---|", *lines])


def page() -> str:
    """docs/data.md."""
    nested = [(name, fields(getattr(records, model))) for name, model in INSIDE.items()]
    parts = [TOP]
    parts += [f"## {name}\n\nWritten by {who}.\n\n{table(fields(record))}\n" for name, record, who in ROWS]
    parts += [f"## `{name}` in a row\n\n{table(columns)}\n" for name, columns in nested]
    parts += [
        f"## {name}\n\nWritten by {who}.\n\n{table(parsed(columns))}\n" for name, who, columns in OTHERS
    ]
    parts += [
        f"## `metrics` of {name}\n\n{table(parsed(columns))}\n"
        for name, columns in METRICS.items()
        if columns
    ]
    return "\n".join([*parts, COPIES])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
