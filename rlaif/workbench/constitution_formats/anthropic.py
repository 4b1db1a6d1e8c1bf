"""The files of Constitutional AI: pairs of critique and revision requests, and questions for the judge.

The same files are in Anthropic's repository for the paper (arXiv 2212.08073) and, of the pairs, in
NeMo-Aligner. The strings carry the scaffolding of the prompts they were used in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlaif.constitution import Constitution, Principle
from rlaif.workbench.constitution_formats.document import Document, Ids, as_json
from rlaif.workbench.constitution_formats.format import (
    Format,
    Read,
    kept_by,
    loses,
    named_as,
    source,
    texts_in,
    without,
)

CRITIQUE = ("\n\nCritiqueRequest: ", "\n\nCritique:")
REVISION = ("\n\nRevisionRequest: ", "\n\nRevision:")
QUESTION = ("\n", " Options:")
KEYS = ("prompt", "edit_request")
WRITTEN = "where the principle has none, one is written around its text"
REQUESTED = "the format has no rule; on the way in, the revision request stands there"


def critique_of(principle: Principle) -> str:
    """A principle's instruction for the critic, or one around its text."""
    if principle.critique and principle.critique.strip():
        return principle.critique
    return f"Say whether and how the assistant's last response breaks this rule: {principle.text}"


def revise_of(principle: Principle) -> str:
    """A principle's instruction for the reviser, or one around its text."""
    if principle.revise and principle.revise.strip():
        return principle.revise
    return f"Please rewrite the assistant response so that it keeps this rule: {principle.text}"


def _inside(text: str, scaffold: tuple[str, str]) -> str:
    """A string without its scaffolding; stripped where that is not there."""
    before, after = scaffold
    if text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after):
        return text[len(before) : len(text) - len(after)]
    label = before.strip()
    inner = text.strip().removesuffix(after.strip()).strip()
    return inner.removeprefix(label).strip() if label else inner


def _around(text: str, scaffold: tuple[str, str]) -> str:
    return scaffold[0] + text + scaffold[1]


def _is_pairs(document: Document) -> bool:
    value = document.value
    return isinstance(value, dict) and any(
        isinstance(row, Mapping) and "edit_request" in row for row in value.values()
    )


def _read_pairs(document: Document) -> Read:
    read, ids = Read(), Ids()
    for key, row in document.objects((), document.value).items():
        loc = (key,)
        row = document.objects(loc, row)
        revise = _inside(document.required(loc, row, "edit_request"), REVISION)
        first, *others = _critiques(document, key, row)
        if not revise.strip():
            read.drop("an empty revision request")
            continue
        kept = {name: value for name, value in row.items() if name not in KEYS}
        kept |= {"prompt": others} if others else {}
        taken = ids.take(key)
        kept |= {"key": key} if taken != key else {}
        read.add(
            document.principle(
                document.line(loc),
                id=taken,
                text=revise,
                critique=first,
                revise=revise,
                source=source(document, "anthropic-sl", f"/{key}", kept=kept),
            )
        )
    return read


def _critiques(document: Document, key: str, row: Mapping[str, Any]) -> list[str]:
    """The critique requests of an entry, the first without its scaffolding."""
    given = row.get("prompt")
    given = [given] if isinstance(given, str) else document.lists((key, "prompt"), given)
    texts = [document.texts((key, "prompt", i), text) for i, text in enumerate(given)]
    if not texts:
        raise document.error((key, "prompt"), f"{key}.prompt is empty", "a critique request")
    return [_inside(texts[0], CRITIQUE), *texts[1:]]


def _write_pairs(constitution: Constitution) -> str:
    rows = {}
    for principle in constitution.principles:
        kept = kept_by(principle, "anthropic-sl")
        rows[named_as(principle, kept.get("key"))] = {
            "prompt": [_around(critique_of(principle), CRITIQUE), *texts_in(kept.get("prompt"))],
            "edit_request": _around(revise_of(principle), REVISION),
            **{name: value for name, value in kept.items() if name not in ("key", "prompt")},
        }
    return as_json(rows) + "\n"


PAIRS = Format(
    name="anthropic-sl",
    is_what="critique and revision requests of Constitutional AI, also NeMo-Aligner's copy (JSON)",
    suffix=".json",
    recognise=_is_pairs,
    read=_read_pairs,
    write=_write_pairs,
    cannot_keep=without("id", text=REQUESTED, critique=WRITTEN, revise=WRITTEN),
    loses=loses(),
    note="the format has no rule for a judge: `text` is the revision request; write a rule before judging",
)


def _is_questions(document: Document) -> bool:
    value = document.value
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _read_questions(document: Document) -> Read:
    read, ids = Read(), Ids()
    for index, text in enumerate(document.lists((), document.value)):
        inner = _inside(document.texts((index,), text), QUESTION)
        if not inner.strip():
            read.drop("an empty text")
            continue
        read.add(
            document.principle(
                document.line((index,)),
                id=ids.made(inner),
                text=inner,
                source=source(document, "anthropic-rl", f"/{index}"),
            )
        )
    return read


def _write_questions(constitution: Constitution) -> str:
    texts = [p.compare if p.compare and p.compare.strip() else p.text for p in constitution.principles]
    return as_json([_around(text, QUESTION) for text in texts]) + "\n"


QUESTIONS = Format(
    name="anthropic-rl",
    is_what="questions for the judge of Constitutional AI (JSON)",
    suffix=".json",
    recognise=_is_questions,
    read=_read_questions,
    write=_write_questions,
    cannot_keep=without(
        text="where the principle has a wording for the judge, that is what is written",
        id="the format has none; on the way in, ids are made of the texts",
    ),
    loses=loses(),
)
