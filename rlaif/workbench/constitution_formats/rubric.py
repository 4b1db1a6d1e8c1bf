"""The rubric file of verifiers: criteria with weights and the answers that a judge may give."""

from __future__ import annotations

import math
from typing import Any

from rlaif.constitution import Constitution, Principle
from rlaif.workbench.constitution_formats.document import Document, Ids, as_json, kind_of
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

CHOICES = ["no", "yes"]
KEYS = ("name", "text", "weight", "choices")


def _criteria(value: Any) -> Any:
    return value.get("criteria") if isinstance(value, dict) else value


def _is_rubric(document: Document) -> bool:
    rows = _criteria(document.value)
    return isinstance(rows, list) and any(
        isinstance(row, dict) and {"name", "text"} <= set(row) for row in rows
    )


def _read(document: Document) -> Read:
    read, ids = Read(), Ids()
    value = document.value
    above: tuple[str, ...] = ("criteria",) if isinstance(value, dict) else ()
    names: set[str] = set()
    for index, row in enumerate(document.lists(above, _criteria(value))):
        loc = (*above, index)
        row = document.objects(loc, row)
        name, text = (document.required(loc, row, key) for key in ("name", "text"))
        if unknown := [key for key in row if key not in KEYS]:
            raise document.error(
                (*loc, unknown[0]), f'unknown key "{unknown[0]}" in {name}', f"one of {', '.join(KEYS)}"
            )
        if name in names:
            raise document.error((*loc, "name"), f'the name "{name}" stands twice', "a name for each")
        names.add(name)
        if not text.strip():
            read.drop("an empty text")
            continue
        read.add(_principle(document, loc, row, ids.take(name)))
    if isinstance(value, dict):
        read.not_kept += [f"{key}: verifiers does not read it" for key in value if key != "criteria"]
    return read


def _principle(document: Document, loc: tuple[str | int, ...], row: dict[str, Any], id: str) -> Principle:
    weight, choices = row.get("weight", 1.0), row.get("choices", CHOICES)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise document.error((*loc, "weight"), f"the weight is {kind_of(weight)}", "a number")
    if not 0 <= weight < math.inf:
        raise document.error((*loc, "weight"), f"the weight is {weight}", "a number from 0 on")
    if len(texts_in(choices)) < 2:
        raise document.error((*loc, "choices"), "fewer than two choices", "a list of two texts or more")
    kept = {"name": row["name"]} if row["name"] != id else {}
    kept |= {"choices": choices} if choices != CHOICES else {}
    return document.principle(
        document.line((*loc, "name")),
        id=id,
        text=row["text"],
        weight=weight,
        source=source(document, "verifiers-rubric", "/".join(map(str, ("", *loc))), kept=kept),
    )


def _write(constitution: Constitution) -> str:
    return "\n".join(_criterion(principle) for principle in constitution.principles)


def _criterion(principle: Principle) -> str:
    kept = kept_by(principle, "verifiers-rubric")
    name, choices = named_as(principle, kept.get("name")), texts_in(kept.get("choices"))
    lines = [f"name = {as_json(name)}", f"text = {as_json(principle.text)}"]
    lines += [f"weight = {principle.weight!r}"] if principle.weight != 1.0 else []
    lines += [f"choices = [{', '.join(map(as_json, choices))}]"] if len(choices) > 1 else []
    return "[[criteria]]\n" + "".join(f"{line}\n" for line in lines)


RUBRIC = Format(
    name="verifiers-rubric",
    is_what="the criteria of a rubric of verifiers (TOML; JSON is read, too)",
    suffix=".toml",
    recognise=_is_rubric,
    read=_read,
    write=_write,
    cannot_keep=without("id", "text", "weight"),
    loses=loses(),
    note="choices other than no and yes are kept in `source`: here a principle is judged by comparing",
)
