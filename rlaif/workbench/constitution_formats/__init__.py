"""Constitutions of other projects: one table of formats, each one object."""

from __future__ import annotations

from rlaif.errors import UserError, nearest
from rlaif.workbench.constitution_formats.anthropic import PAIRS, QUESTIONS
from rlaif.workbench.constitution_formats.document import Document
from rlaif.workbench.constitution_formats.format import Format
from rlaif.workbench.constitution_formats.llm_swarm import LLM_SWARM
from rlaif.workbench.constitution_formats.markdown import LIST, SPEC
from rlaif.workbench.constitution_formats.rubric import RUBRIC
from rlaif.workbench.constitution_formats.traits import TRAITS
from rlaif.workbench.constitution_formats.votes import VOTES

FORMATS = {f.name: f for f in (PAIRS, QUESTIONS, LLM_SWARM, TRAITS, RUBRIC, VOTES, SPEC, LIST)}


def format_named(name: str) -> Format:
    """The format of that name; raises UserError where there is none."""
    if name not in FORMATS:
        raise UserError(f'unknown format "{name}" — {nearest(name, list(FORMATS))}')
    return FORMATS[name]


def recognised(document: Document) -> Format:
    """The format that a file's content has; raises UserError where it is none, or could be two."""
    found = [format for format in FORMATS.values() if format.recognise(document)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise document.error_at(
            1,
            f"not recognised as principles in a known format (it looks like {document.kind})",
            f"one of {', '.join(FORMATS)}, which docs/constitution-formats.md shows",
            "name the format with --format: what does not fit it is then told with its line",
        )
    names = " or ".join(format.name for format in found)
    raise document.error_at(1, f"could be read as {names}", "the format by name", f"--format {found[0].name}")
