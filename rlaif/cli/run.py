"""`rlaif run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import app
from rlaif.cli.terminal import Progress, emit, say, stderr, tell
from rlaif.runs import stopping

Set = Annotated[list[str] | None, typer.Option("-s", "--set", help="stage.option=value, repeatable.")]
Until = Annotated[str | None, typer.Option(help="Stop after this stage.")]


@contextmanager
def running() -> Iterator[None]:
    """Ctrl-C ends what runs inside in order."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print("\nInterrupted; every finished row is kept. Run the same command again to continue.")
        raise SystemExit(stopping.code()) from None


@app.command("run", rich_help_panel="The loop")
def run_command(
    config: Annotated[Path, typer.Argument(help="A config file, e.g. configs/quickstart.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<name>.")] = None,
    set_: Set = None,
    until: Until = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and count calls; run nothing.")
    ] = False,
) -> None:
    """Run the loop, or continue an interrupted run."""
    from rlaif import pipeline

    if dry_run:
        emit(pipeline.dry_run(config, set_ or []))
        return
    with running():
        this = pipeline.run(config, out, set_ or [], until, Progress, tell)
    say(this.path / "report.html")
