"""`rlaif constitution diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.arguments import PageFile, Trust
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, Progress, emit, page_at, say, tell


@constitution_app.command("diff")
def constitution_diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The old file, or a run: its constitution.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The edited file.")],
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run labelled by OLD: which verdicts change?"),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the run's feedback model for the stale labels, and keep them.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", help="With --ask: the budget, e.g. budget.calls=500; may be repeated."),
    ] = None,
    out: PageFile = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Show what an edit does: stale labels and their cost; with a run, which preferences change."""
    from rlaif.cli.run import running
    from rlaif.workbench.diff import diff
    from rlaif.workbench.edit_page import write_edit
    from rlaif.workbench.edit_text import in_words

    page = page_at(out) if out else None
    with running("rlaif constitution diff"):
        data = diff(old, new, run, ask=ask, trust=trust, progress=Progress, tell=tell, overrides=set_ or [])
    if page:
        write_edit(page, data)
    if as_json:
        emit(data)
    else:
        say("\n".join([*in_words(data), *([str(page)] if page else [])]))
