"""`rlaif run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli.groups import app
from rlaif.cli.terminal import Json, Progress, emit, say, tell
from rlaif.runs import stopping
from rlaif.runs.processes import is_rank0

Set = Annotated[list[str] | None, typer.Option("-s", "--set", help="stage.option=value; may be repeated.")]
Check = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Ask models and endpoints first whether they respond; --dry-run: measure models.",
    ),
]
Until = Annotated[str | None, typer.Option(help="Stop after this stage.")]


@contextmanager
def running(command: str, kept: str = "every finished row is kept") -> Iterator[None]:
    """Ctrl-C ends what runs inside in order, and what takes long outside of every bar has one; `kept` is what
    an interruption leaves."""
    try:
        with Progress(command, None) if is_rank0() else nullcontext():
            yield
    except KeyboardInterrupt as error:
        tell(f"\nInterrupted; {kept}. Run the same command again to continue.")
        for note in getattr(error, "__notes__", ()):
            tell(note)
        raise SystemExit(stopping.code()) from None


@app.command("run", rich_help_panel="The loop")
def run_command(
    config: Annotated[
        Path | None, typer.Argument(help="A config file, e.g. configs/quickstart.yaml; with --from optional.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; omitted = runs/<name>.")] = None,
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
        typer.Option(help="The first stage that the fork runs itself; omitted = the first that differs."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the config and its files; count rows, calls, time and memory; run nothing.",
        ),
    ] = False,
    check: Check = True,
    as_json: Json = False,
) -> None:
    """Run the loop, continue an interrupted run, or fork another one."""
    from rlaif import pipeline

    if dry_run:
        with running("rlaif run --dry-run", "models that were measured are kept"):
            plan = pipeline.dry_run(
                config, set_ or [], source=source, at=at, out=out, until=until, measure=check, tell=tell
            )
        emit(plan) if as_json else print_plan(plan)
        if plan["problems"]:
            raise typer.Exit(2)
        return
    with running("rlaif run"):
        this = pipeline.run(
            config,
            out,
            set_ or [],
            until=until,
            progress=Progress,
            tell=tell,
            source=source,
            at=at,
            check=check,
        )
    page = this.path / "report.html"
    emit({"run": str(this.path), "report": str(page)}) if as_json else say(page)


def print_plan(plan: dict[str, Any]) -> None:
    """What a run would do as a table, a row a stage, and what is doubtful about it."""
    from rich.console import Console
    from rich.table import Table

    from rlaif.feedback.gold import no_gold
    from rlaif.preflight.estimate import budget_warnings, estimated_rows, taken_over_in_words

    counts = ", ".join(f"{plan['prompts'][split]} {split}" for split in ("train", "heldout", "wordings"))
    say(f"{plan['config']['name']}: {plan['principles']} principles; prompts: {counts}")
    if plan.get("shared"):
        say(f"shared with the run that is forked: {', '.join(plan['shared'])}")
    columns = ["stage", "rows ≤", "calls ≤", "tokens read ≤", "written ≤", "seconds", "MB"]
    table = Table(*columns, *(["money ≤"] if plan["money"] is not None else []))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in [*estimated_rows(plan), ("all", plan)]:
        numbers = [row.get(key) for key in ("rows", "calls", "prompt_tokens", "tokens", "seconds", "memory")]
        cells = ["–" if n is None else f"{n:,.0f}" if n < 1e6 else f"{n / 1e6:,.1f} M" for n in numbers]
        if plan["money"] is not None:
            cells.append(f"{row['money'] or 0:,.2f}")
        is_stage = "rows" in row
        table.add_row(name, *(cells if is_stage else ["", *cells[1:5], "", *cells[6:]]))
    Console(highlight=False).print(table)
    for line in taken_over_in_words(plan):
        say(line)
    for warning in plan["warnings"]:
        say(f"warning: {warning}")
    for problem in plan["problems"]:
        say(f"problem: {problem}")
    for line in [*budget_warnings(plan), *no_gold(plan["no_gold"], plan["config"]["gold"])]:
        say(line.strip())
