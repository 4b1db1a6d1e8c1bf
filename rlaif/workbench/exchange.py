"""Constitutions of other projects read, and ours written for them; what is lost on the way is said.

What an export cannot keep is found by reading back what was written, and what an import cannot by writing it
again: no report is typed in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlaif.constitution import Constitution, Principle, Source
from rlaif.errors import UserError
from rlaif.records import Message, Prompt
from rlaif.workbench.constitution_formats import FORMATS, format_named, recognised
from rlaif.workbench.constitution_formats.document import Document, Ids, as_json, slug
from rlaif.workbench.constitution_formats.format import Format, Read, differing, differing_names, texts_in


@dataclass(frozen=True)
class Imported:
    """One file, and what became of it: entries = principles + all of dropped."""

    file: str
    format: str
    entries: int
    principles: int
    dropped: dict[str, int]
    not_kept: list[str]
    note: str
    renamed: dict[str, str] = field(default_factory=dict)  # ids that an earlier file has, and the new ones


@dataclass(frozen=True)
class Exported:
    """A text in another format, and what of the constitution does not come back from it.

    `not_kept` has the ids of principles by field, with the reason; `lost` the constitution's own fields.
    """

    format: str
    text: str
    principles: int
    not_kept: dict[str, dict[str, Any]]
    lost: dict[str, str]


def import_files(
    paths: Sequence[Path], format: str | None = None, name: str | None = None
) -> tuple[Constitution, list[Imported]]:
    """The principles of some files as one constitution, and a report for each file.

    Without `format` each file's is recognised. Raises UserError, with file and line, for what cannot be read.
    """
    chosen = format_named(format) if format else None
    principles, reports, ids = list[Principle](), list[Imported](), Ids()
    read: list[Constitution] = []
    for path in paths:
        constitution, report = _import_file(path, chosen)
        for principle in constitution.principles:
            id = ids.take(principle.id)
            if id != principle.id:
                report.renamed[principle.id] = id
            principles.append(principle.model_copy(update={"id": id}))
        read.append(constitution)
        reports.append(report)
    if len(read) == 1:
        return read[0].model_copy(update={"name": name or read[0].name}), reports
    kept = {c.source.link: c.source.kept for c in read if c.source and c.source.kept}
    return (
        Constitution(
            name=name or "+".join(c.name for c in read),
            description="\n\n".join(c.description for c in read if c.description),
            principles=tuple(principles),
            source=Source(link=", ".join(path.name for path in paths), kept=kept),
        ),
        reports,
    )


def _import_file(path: Path, chosen: Format | None) -> tuple[Constitution, Imported]:
    _refuse_ours(path)
    document = Document.load(path)
    format = chosen or recognised(document)
    read = format.read(document)
    constitution = read.constitution(document, format.name)
    report = Imported(
        str(path),
        format.name,
        read.entries,
        len(read.principles),
        dict(read.dropped),
        [*read.not_kept, *_changed(document, format, read, constitution)],
        format.note,
    )
    return constitution, report


def _refuse_ours(path: Path) -> None:
    if path.suffix.lower() in (".yaml", ".yml"):
        raise UserError(
            f"{path}:1: YAML, which is what an import writes.",
            f"a file in one of the formats {', '.join(FORMATS)}",
            f"rlaif constitution lint {path}, or export {path} --format …",
        )


def _changed(document: Document, format: Format, read: Read, constitution: Constitution) -> list[str]:
    """What of a JSON file would be written otherwise than it stands there, by place."""
    if document.kind != "json" or format.suffix == ".toml" or read.dropped:
        return []
    with TemporaryDirectory() as folder:
        again = Path(folder) / f"{slug(document.path.stem)}{format.suffix}"
        again.write_text(format.write(constitution), encoding="utf-8")
        return list(_differences(document.value, Document.load(again).value, ""))


def _differences(before: Any, after: Any, place: str) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        absent = object()
        return [
            line
            for key in keys
            for line in _differences(before.get(key, absent), after.get(key, absent), f"{place}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        if before != after and sorted(map(as_json, before)) == sorted(map(as_json, after)):
            return [f"{place}: the order"]
        pairs = enumerate(zip(before, after, strict=True))
        return [line for i, (b, a) in pairs for line in _differences(b, a, f"{place}/{i}")]
    return [] if before == after else [f"{place or '/'}: not as it stands there"]


def export(constitution: Constitution, format: str) -> Exported:
    """A constitution in another format, with what is read back otherwise than it is."""
    chosen = format_named(format)
    text = chosen.write(constitution)
    back = read_back(text, chosen, constitution.name)
    not_kept: dict[str, dict[str, Any]] = {}
    for before, after in zip(constitution.principles, back.principles, strict=True):
        for name in differing(before, after):
            reason = chosen.cannot_keep.get(name, "read back otherwise")
            not_kept.setdefault(name, {"reason": reason, "principles": []})["principles"].append(before.id)
    lost = {
        name: chosen.loses.get(name, "read back otherwise") for name in differing_names(constitution, back)
    }
    return Exported(chosen.name, text, len(constitution.principles), not_kept, lost)


def read_back(text: str, format: Format, name: str) -> Constitution:
    """The constitution that a text in a format holds, as if read from a file named as the constitution."""
    with TemporaryDirectory() as folder:
        stem = name if re.fullmatch(r"[\w-]{1,100}", name, re.ASCII) else slug(name)
        path = Path(folder) / f"{stem}{format.suffix}"
        path.write_text(text, encoding="utf-8")
        document = Document.load(path)
        return format.read(document).constitution(document, format.name)


def questions(constitution: Constitution) -> list[Prompt]:
    """The questions that came with principles as prompts, tagged with the ids they show."""
    found: dict[tuple[Any, ...], Prompt] = {}
    for principle in constitution.principles:
        kept = principle.source.kept if principle.source else {}
        for text in texts_in(kept.get("questions")):
            if not text.strip():
                continue
            link = principle.source.link if principle.source else ""
            row = Prompt(messages=(Message(role="user", content=text),), tags=(principle.id,), source=link)
            known = found.get(row.identity(), row)
            tags = tuple(dict.fromkeys((*known.tags, *row.tags)))
            found[row.identity()] = known.model_copy(update={"tags": tags})
    return list(found.values())
