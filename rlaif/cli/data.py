"""`rlaif data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import data_app
from rlaif.cli.terminal import Progress, emit


@data_app.command("import")
def data_import(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[FORMAT] FILE...",
            help="The files, with the name of their format in front where they do not show it.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for prompts, responses, comparisons and labels.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many rows.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag for every prompt; may be repeated.")] = None,
) -> None:
    """Import preference data; says how many rows were kept and why others were not."""
    from rlaif.human.importers import import_file

    format, paths = _format_and_files(files)
    emit(import_file(format, paths[0], out, limit, tag or (), Progress, beside=paths[1:]))


@data_app.command("export")
def data_export(
    folder: Annotated[Path, typer.Argument(help="A folder written by rlaif data import.")],
    format: Annotated[str, typer.Option(help="The format, e.g. hh.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Export comparisons and their labels; says how many were kept and why others were not."""
    from rlaif.human.exporters import export_file

    emit(export_file(folder, format, out))


def _format_and_files(words: list[str]) -> tuple[str | None, list[Path]]:
    """The format, where the first of several words is the name of one or of no file."""
    from rlaif.human.formats import FORMATS

    first = words[0]
    if len(words) > 1 and (first in FORMATS or not Path(first).exists()):
        return first, [Path(word) for word in words[1:]]
    return None, [Path(word) for word in words]
