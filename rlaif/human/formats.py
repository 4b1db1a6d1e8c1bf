"""Preference data in other projects' formats: one reader a format, from a file to `ImportedPair`s.

A reader yields one item for each row of the input: the pair it holds, or the reason why it cannot be used.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.errors import UserError
from rlaif.prompting.conversations import Turn, Unusable, parse_dialogue, without_leading_space
from rlaif.records import Annotator, Verdict


@dataclass(frozen=True)
class ImportedPair:
    """Two responses to one conversation and an annotator's verdict on (first, second)."""

    messages: tuple[Turn, ...]
    first: str
    second: str
    verdict: Verdict
    annotator: Annotator


Reader = Callable[[Path], Iterator[ImportedPair | Unusable]]


def read_hh(path: Path) -> Iterator[ImportedPair | Unusable]:
    """HH-RLHF: rows `{"chosen": dialogue, "rejected": dialogue}` that share everything but the last
    answer."""
    for row in json_lines(path):
        yield row if isinstance(row, Unusable) else hh_pair(row)


def read_hhh(path: Path) -> Iterator[ImportedPair | Unusable]:
    """HHH alignment: a JSON array of rubric prompts, or BIG-bench tasks of `input` and `target_scores`.

    The subset (honest, helpful, harmless, other) is part of the annotator's id. Equal target scores are a
    tie.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}).", "the JSON of HHH alignment", "check the path"
        ) from None
    task = isinstance(data, dict)
    rows = data.get("examples") if task else data
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: no list of rows.",
            'an array of rubric prompts, or an object with an array "examples"',
            "check that this is a file of HHH alignment",
        )
    for row in rows:
        yield hhh_pair(row, path.parent.name if task else "")


READERS: dict[str, Reader] = {"hh": read_hh, "hhh": read_hhh}


def format_of(path: Path) -> str:
    """The format a file's name stands for: one JSON document is HHH alignment, JSON lines are HH-RLHF."""
    return "hhh" if path.suffix == ".json" else "hh"


_RUBRIC = re.compile(
    r"###The instruction to evaluate:\n(.*?)\n\n###Response to evaluate:\n(.*?)\n\n###Score Rubrics:", re.S
)


def hhh_pair(row: Any, subset: str) -> ImportedPair | Unusable:
    """One HHH alignment row of either shape."""
    if not isinstance(row, dict):
        return Unusable("not an object")
    scores = row.get("target_scores")
    if isinstance(scores, dict) and len(scores) == 2 and isinstance(row.get("input"), str):
        (first, x), (second, y) = scores.items()
        if not (_is_number(x) and _is_number(y)):
            return Unusable("target scores are not two numbers")
        better, worse = (first, second) if x >= y else (second, first)
        return _hhh(row["input"], better, worse, subset, "tie" if x == y else "a")
    found = [_RUBRIC.search(str(row.get(key))) for key in ("chosen_instruction", "rejected_instruction")]
    if not all(found):
        return Unusable("neither a rubric prompt nor target scores")
    (question, chosen), (other, rejected) = (match.groups() for match in found if match)
    if question != other:
        return Unusable("no shared prefix")
    return _hhh(question, chosen, rejected, str(row.get("source", "")))


def _is_number(score: Any) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)


def _hhh(
    question: str, better: str, worse: str, subset: str, verdict: Verdict = "a"
) -> ImportedPair | Unusable:
    # A dialogue begins with what the human says; later turns carry their markers.
    messages = parse_dialogue("\n\nHuman: " + question)
    if messages is None:
        return Unusable("turns do not begin and end with Human")
    if not better.strip() or not worse.strip():
        return Unusable("empty response")
    try:
        annotator = Annotator(kind="human", id="/".join(filter(None, ("hhh-alignment", subset))))
    except ValidationError:
        return Unusable("not valid Unicode text")
    return ImportedPair(messages, better.strip(), worse.strip(), verdict, annotator)


HH_ANNOTATOR = Annotator(kind="human", id="hh-rlhf")


def hh_pair(row: Any) -> ImportedPair | Unusable:
    """One HH-RLHF row; the first reason that fits is the one that counts."""
    texts = [row.get(key) for key in ("chosen", "rejected")] if isinstance(row, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        return Unusable("chosen or rejected is not text")
    (shared, _, chosen), (other, _, rejected) = (str(text).rpartition("\n\nAssistant:") for text in texts)
    if not chosen.strip():
        return Unusable("empty chosen response")
    if not rejected.strip():
        return Unusable("empty rejected response")
    if shared != other:
        return Unusable("no shared prefix")
    messages = parse_dialogue(shared)
    if messages is None:
        return Unusable("turns do not begin and end with Human")
    return ImportedPair(
        messages, without_leading_space(chosen), without_leading_space(rejected), "a", HH_ANNOTATOR
    )


def hh_row(messages: tuple[Turn, ...], chosen: str, rejected: str) -> dict[str, str]:
    """The HH-RLHF row of two responses: what `hh_pair` reads back, where the format can hold it."""
    names = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    shared = "".join(names[role] + content for role, content in messages) + names["assistant"]
    return {"chosen": shared + chosen, "rejected": shared + rejected}


def json_lines(path: Path) -> Iterator[Any]:
    """Rows of a `.jsonl` file, gzipped or not, one at a time; `Unusable` for a line that is not JSON."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        opener: Any = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
            yield from (_json(line) for line in lines if line.strip())
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}).",
            "a whole .jsonl or .jsonl.gz file of UTF-8 text",
            "check the path, or fetch the file again",
        ) from None


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Unusable("not JSON")
