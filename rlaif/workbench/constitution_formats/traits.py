"""The trait files of OpenCharacterTraining: a trait in the first person, and questions that show it."""

from __future__ import annotations

from rlaif.constitution import Constitution
from rlaif.workbench.constitution_formats.document import Document, Ids, as_json
from rlaif.workbench.constitution_formats.format import (
    Format,
    Read,
    kept_by,
    loses,
    source,
    texts_in,
    without,
)


def _is_traits(document: Document) -> bool:
    value = document.value
    return isinstance(value, list) and any(isinstance(row, dict) and "trait" in row for row in value)


def _read(document: Document) -> Read:
    read, ids = Read(), Ids()
    for index, row in enumerate(document.lists((), document.value)):
        row = document.objects((index,), row)
        trait = document.required((index,), row, "trait")
        for number, text in enumerate(document.lists((index, "questions"), row.get("questions", []))):
            document.texts((index, "questions", number), text)
        if not trait.strip():
            read.drop("an empty trait")
            continue
        kept = {name: value for name, value in row.items() if name != "trait"}
        read.add(
            document.principle(
                document.line((index,)),
                id=ids.made(trait),
                text=trait,
                source=source(document, "character", f"/{index}", kept=kept),
            )
        )
    return read


def _write(constitution: Constitution) -> str:
    rows = []
    for principle in constitution.principles:
        kept = kept_by(principle, "character")
        more = {name: value for name, value in kept.items() if name not in ("trait", "questions")}
        rows.append({"trait": principle.text, "questions": texts_in(kept.get("questions")), **more})
    return as_json(rows) + "\n"


TRAITS = Format(
    name="character",
    is_what="traits with questions, as in OpenCharacterTraining (JSON, also in .txt)",
    suffix=".txt",
    recognise=_is_traits,
    read=_read,
    write=_write,
    cannot_keep=without("text", id="the format has none; on the way in, ids are made of the texts"),
    loses=loses(),
    note="questions are kept in `source`, which no model reads; --prompts writes them as a prompt file",
)
