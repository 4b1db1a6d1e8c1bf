"""`rlaif data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import data_app
from rlaif.cli.terminal import Progress, emit


@data_app.command("import")
def data_import(
    format: Annotated[str, typer.Argument(help="The format, e.g. hh.")],
    file: Annotated[Path, typer.Argument(help="The file, .jsonl or .jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder for prompts, responses, comparisons and labels.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many rows.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag for every prompt; may be repeated.")] = None,
) -> None:
    """Import preference data; says how many rows were kept and why others were not."""
    from rlaif.human.importers import import_file

    emit(import_file(format, file, out, limit, tag or (), Progress))
