"""`rlaif show`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli.groups import app
from rlaif.cli.terminal import Json, RunDir, emit, say
from rlaif.errors import UserError, printable


@app.command(rich_help_panel="The loop")
def show(
    run: RunDir,
    row_id: Annotated[str | None, typer.Argument(help="A row's id: shows everything that led to it.")] = None,
    following: Annotated[
        bool,
        typer.Option("--follow", help="Print what the run does until it ends; Ctrl-C stops the printing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run's summary, or one row with everything that led to it."""
    from rlaif.report.lineage import lineage
    from rlaif.report.story import story
    from rlaif.report.summary import summarise

    if following and (row_id or as_json):
        raise UserError(
            "--follow: with a row or --json.", "a run alone", f"rlaif show {shlex.quote(str(run))} --follow"
        )
    if following:
        print_as_it_goes(run)
    elif row_id and as_json:
        emit(lineage(run, row_id))
    elif row_id:
        say("\n".join(story(run, row_id)))
    elif as_json:
        emit(summarise(run))
    else:
        print_summary(summarise(run))


def print_as_it_goes(run: Path) -> None:
    """The run's stages, on a terminal in place, else each line when it has changed."""
    from rich.live import Live
    from rich.text import Text

    from rlaif.report.following import follow

    if not sys.stdout.isatty():
        before: list[str] = []
        for lines in follow(run, every=10.0):
            say("\n".join(line for line in lines if line not in before))
            before = lines
        return
    with Live(refresh_per_second=2) as live:
        for lines in follow(run):
            live.update(Text(printable("\n".join(lines))))


def print_summary(data: dict[str, Any]) -> None:
    """A run's summary as tables."""
    from rich.console import Console
    from rich.table import Table

    from rlaif.metrics import METRICS

    console = Console(highlight=False)
    data = _shown(data)
    console.print(f"{data.get('name', 'run')}: {data['status']}")
    if parent := data.get("parent"):
        console.print(f"forked from {parent['path']} at {parent['at']}")
    stages = Table("stage", "status", "seconds", "in", "kept", "dropped")
    given = [{"name": "prompts", "status": "read", "seconds": 0.0, **data["prompt_rows"]}]
    for s in [*(given if data.get("prompt_rows") else []), *data["stages"]]:
        why = ", ".join(f"{n} × {reason}" for reason, n in s["dropped"].items() if n)
        counts = ("" if s.get(key) is None else str(s[key]) for key in ("in", "kept"))
        stages.add_row(s["name"], s["status"], f"{s['seconds']:.1f}", *counts, why)
    console.print(stages)
    for s in data["stages"]:
        if s["error"]:
            console.print(f"{s['name']} {s['status']}: {s['error']}", soft_wrap=True)
    if data["next"]:
        console.print(f"Next: {data['next']}", soft_wrap=True)
    if data.get("policies"):
        names = list(data["policies"])
        table = Table("", *names)
        for group in ("gold", "compliance"):
            for key in data["policies"][names[-1]].get(group) or {}:
                cells = [data["policies"][n].get(group, {}).get(key) for n in names]
                table.add_row(f"{group} {key}", *("" if c is None else f"{c:.3f}" for c in cells))
        on_wordings = [data["policies"][n].get("wordings", {}).get("gold", {}).get("all") for n in names]
        if any(value is not None for value in on_wordings):
            table.add_row("gold all, wordings", *("" if c is None else f"{c:.3f}" for c in on_wordings))
        left_out = [data["policies"][n].get("kl_left_out") for n in names]
        for metric in METRICS:
            cells = [data["policies"][n].get(metric.key) for n in names]
            if all(c is None for c in cells) and metric.key != "kl":  # no prompt is of the kind
                continue
            table.add_row(metric.key, *("" if c is None else f"{c:.{metric.digits}f}" for c in cells))
            if metric.key == "kl" and any(left_out):
                table.add_row("kl_left_out", *("" if n is None else str(n) for n in left_out))
        console.print(table)
    others = ("name", "status", "parent", "prompt_rows", "stages", "policies", "spent", "next", "rows")
    for part, figures in ((key, value) for key, value in data.items() if key not in others):
        numbers = {k: v for k, v in figures.items() if isinstance(v, (int, float))}
        line = ", ".join(f"{k} {_figure(v)}" for k, v in numbers.items())
        if line:
            console.print(f"{part}: {line}")
    for what, command in data["rows"].items():
        console.print(f"{what}: {command}", soft_wrap=True)


def _figure(value: float) -> str:
    """A count in full, a measure with four digits."""
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1e4 else f"{value:.4g}"


def _shown(data: Any) -> Any:
    """The same data with all its words as `printable` leaves them, and no markup of rich's."""
    from rich.markup import escape

    if isinstance(data, dict):
        return {_shown(key): _shown(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_shown(value) for value in data]
    return escape(printable(data)) if isinstance(data, str) else data
