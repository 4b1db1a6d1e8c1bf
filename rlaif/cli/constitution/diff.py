"""`rlaif constitution diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, Progress, emit, page_at, say, tell


@constitution_app.command("diff")
def constitution_diff(
    old: Annotated[Path, typer.Argument(help="The old file, or a run: its constitution.")],
    new: Annotated[Path, typer.Argument(help="The edited file.")],
    run: Annotated[
        Path | None, typer.Option(help="A run labelled by the old one: what turns in its verdicts?")
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the run's feedback model for the stale labels, and keep them.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write a page.", metavar="FILE.html")] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="With --ask: allow the endpoints and functions of the run's config."),
    ] = False,
    as_json: Json = False,
) -> None:
    """What an edit does: stale labels and their cost; with a run, turned verdicts and changed preferences."""
    from rlaif.cli.run import running
    from rlaif.workbench.diff import diff
    from rlaif.workbench.edit_page import write_edit
    from rlaif.workbench.edit_text import in_words

    page = page_at(out) if out else None
    with running():
        data = diff(old, new, run, ask, trust, Progress, tell)
    if page:
        write_edit(page, data)
    if as_json:
        emit(data)
    else:
        say("\n".join([*in_words(data), *([str(page)] if page else [])]))
