"""`rlaif resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from rlaif.cli.groups import app
from rlaif.cli.run import Set, Until, running
from rlaif.cli.terminal import Progress, RunDir, say, tell

Check = Annotated[
    bool,
    typer.Option("--check/--no-check", help="Ask models and endpoints first whether they respond."),
]


@app.command(rich_help_panel="The loop")
def resume(run: RunDir, set_: Set = None, until: Until = None, check: Check = True) -> None:
    """Continue a run with the options that it was started with."""
    from rlaif import pipeline

    with running("rlaif resume"):
        this = pipeline.resume(run, set_ or [], until=until, progress=Progress, tell=tell, check=check)
    say(this.path / "report.html")
