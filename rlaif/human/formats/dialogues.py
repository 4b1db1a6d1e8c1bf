"""HH-RLHF and HHH alignment: dialogues as one text, and rubric prompts around them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlaif.human.formats.base import NO_WINNER, Format, ImportedRow, Pair, Vote, has, number_from
from rlaif.prompting.conversations import Turn, Unusable, parse_dialogue, without_leading_space
from rlaif.records import Annotator, Verdict

_RUBRIC = re.compile(
    r"###The instruction to evaluate:\n(.*?)\n\n###Response to evaluate:\n(.*?)\n\n###Score Rubrics:", re.S
)


def hhh_pair(row: Any) -> ImportedRow | Unusable:
    """One HHH alignment row: two rubric prompts, or `input` and `target_scores` of a BIG-bench task.

    The subset (honest, helpful, harmless, other) is part of the annotator's id. Equal target scores are a
    tie.
    """
    if not isinstance(row, dict):
        return Unusable("not an object")
    scores = row.get("target_scores")
    if isinstance(scores, dict) and len(scores) == 2 and isinstance(row.get("input"), str):
        (first, x), (second, y) = scores.items()
        if not (_is_number(x) and _is_number(y)):
            return Unusable("target scores are not two numbers")
        better, worse = (first, second) if x >= y else (second, first)
        return _hhh(row["input"], better, worse, str(row.get("subset", "")), "tie" if x == y else "a")
    found = [_RUBRIC.search(str(row.get(key))) for key in ("chosen_instruction", "rejected_instruction")]
    if not all(found):
        return Unusable("neither a rubric prompt nor target scores")
    (question, chosen), (other, rejected) = (match.groups() for match in found if match)
    if question != other:
        return Unusable("no shared prefix")
    return _hhh(question, chosen, rejected, str(row.get("source", "")))


def _is_number(score: Any) -> bool:
    return not isinstance(score, str) and number_from(score) is not None


def _hhh(
    question: str, better: str, worse: str, subset: str, verdict: Verdict = "a"
) -> ImportedRow | Unusable:
    # A dialogue begins with what the human says; later turns carry their markers.
    messages = parse_dialogue("\n\nHuman: " + question)
    if messages is None:
        return Unusable("turns do not begin and end with Human")
    if not better.strip() or not worse.strip():
        return Unusable("empty response")
    people = Annotator(kind="human", id="/".join(filter(None, ("hhh-alignment", subset))))
    return ImportedRow(messages, (better.strip(), worse.strip()), (Vote(people, verdict),))


HH_ANNOTATOR = Annotator(kind="human", id="hh-rlhf")


def hh_pair(row: Any) -> ImportedRow | Unusable:
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
    responses = without_leading_space(chosen), without_leading_space(rejected)
    return ImportedRow(messages, responses, (Vote(HH_ANNOTATOR, "a"),))


def hh_row(messages: tuple[Turn, ...], chosen: str, rejected: str) -> dict[str, str]:
    """The HH-RLHF row of two responses: what `hh_pair` reads back, where the format can hold it."""
    names = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    shared = "".join(names[role] + content for role, content in messages) + names["assistant"]
    return {"chosen": shared + chosen, "rejected": shared + rejected}


def _write_hh(pair: Pair) -> dict[str, Any] | Unusable:
    return hh_row(pair.messages, *pair.sorted) if pair.sorted else NO_WINNER


def is_dialogue(row: Any) -> bool:
    """Whether a response is the end of a dialogue that is one text."""
    sides = [row.get(key) for key in ("chosen", "rejected")] if isinstance(row, dict) else []
    return any(isinstance(text, str) and "\n\nAssistant:" in text for text in sides)


def _is_hhh(row: Any) -> bool:
    rubric, task = has("chosen_instruction", "rejected_instruction"), has("input", "target_scores")
    return rubric(row) or task(row) or (isinstance(row, dict) and any(map(task, _examples(row)[:1])))


def _examples(document: dict[str, Any]) -> list[Any]:
    found = document.get("examples")
    return found if isinstance(found, list) else []


def _unfold_hhh(document: Any, path: Path) -> Iterator[Any]:
    """The examples of a BIG-bench task, whose folder is named after the subset."""
    for row in _examples(document):
        yield {**row, "subset": path.parent.name} if isinstance(row, dict) else row


HH = Format(
    "hh",
    "HH-RLHF",
    is_dialogue,
    hh_pair,
    write=_write_hh,
    loses="system turns, ties, how sure the preference is, who labelled",
)
HHH = Format("hhh", "HHH alignment", _is_hhh, hhh_pair, unfold=_unfold_hhh)
