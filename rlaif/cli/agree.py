"""`rlaif agree`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.arguments import PageFile
from rlaif.cli.groups import app
from rlaif.cli.terminal import Json, emit, page_at, say, tell


@app.command(rich_help_panel="The loop")
def agree(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|RUN...", help="Labels, rankings, imported folders, runs, other data."),
    ],
    out: PageFile = None,
    epsilon: Annotated[
        float,
        typer.Option(min=0, max=1, help="How much worse than a person a judge may be, as it costs less."),
    ] = 0.1,
    as_json: Json = False,
) -> None:
    """Measure how far people and judges agree, and whether a judge may stand in for people."""
    from rlaif.human.agree import agree as agreement
    from rlaif.human.agree_page import in_words, write_agreement
    from rlaif.human.annotated import read_annotated
    from rlaif.report.run_reader import plain

    page = page_at(out) if out else None
    tell("reading the labels …")
    data = plain(agreement(read_annotated(files), epsilon))
    if page:
        write_agreement(page, data)
    if as_json:
        emit(data)
    else:
        say("\n".join(in_words(data)))
        if page:
            say(page)
