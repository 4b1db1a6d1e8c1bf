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
    config: Annotated[
        Path | None, typer.Argument(help="A config file, e.g. configs/quickstart.yaml; with --from optional.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<name>.")] = None,
    set_: Set = None,
    until: Until = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A run to fork: its finished stages before --at are shared.", metavar="RUN"
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="The first stage that the fork runs itself; default: the first that differs."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and count calls; run nothing.")
    ] = False,
) -> None:
    """Run the loop, continue an interrupted run, or fork another one."""
    from rlaif import pipeline

    if dry_run:
        emit(pipeline.dry_run(config, set_ or [], source, at, out))
        return
    with running():
        this = pipeline.run(config, out, set_ or [], until, Progress, tell, source, at)
    say(this.path / "report.html")
