"""`rlaif compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.arguments import Trust
from rlaif.cli.groups import app
from rlaif.cli.terminal import Json, Progress, emit, page_at, say, tell


@app.command(rich_help_panel="The loop")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page; omitted = compare.html.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|CONFIG",
            help="Who decides win rates: best a judge that trained none of the runs; omitted = a run's own.",
        ),
    ] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Compare runs on the same held-out prompts: two or more, several seeds of one config as one arm."""
    from rlaif.preflight.opening import feedback_of
    from rlaif.report.compare import compare as compare_runs
    from rlaif.report.comparison_text import in_words
    from rlaif.report.run_reader import require_trust, untrusted_references

    if not trust and sys.stdin.isatty() and (found := untrusted_references(runs, judge is not None)):
        tell("Comparing these runs executes or reaches what their configs name:\n  " + "\n  ".join(found))
        trust = typer.confirm("Is all of that yours, or trusted?", err=True)
    require_trust(runs, trust, "add --trust", judge is not None)
    page = page_at(out or Path("compare.html"))
    tell("reading the runs …")
    data = compare_runs(
        runs, out=page, judge=feedback_of(judge) if judge is not None else None, progress=Progress
    )
    if as_json:
        emit(data)
    else:
        say("\n".join(in_words(data)))
        say(page)
