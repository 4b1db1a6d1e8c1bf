"""`rlaif runs`: list runs, remove one, rename one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rlaif.cli.groups import app
from rlaif.cli.terminal import Json, RunDir, emit, say, tell
from rlaif.errors import printable


class RunsGroup(TyperGroup):
    """`rlaif runs DIR` is `rlaif runs list DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the name of the command that lists."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


runs_app = typer.Typer(
    cls=RunsGroup, help="List the runs of a folder (rlaif runs [DIR]), remove or rename one."
)
app.add_typer(runs_app, name="runs", rich_help_panel="The loop")


@runs_app.command("list")
def list_command(
    folder: Annotated[Path, typer.Argument(help="A folder of runs.", metavar="[DIR]")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs: status, constitution, parent, headline figure, age and size."""
    from rlaif.runs.catalog import list_runs, where_runs_are

    rows = list_runs(folder)
    if as_json:
        emit(rows)
    else:
        print_runs(rows)
    if not rows:
        tell(where_runs_are(folder))


@runs_app.command("rm")
def remove_command(run: RunDir) -> None:
    """Delete a run; its forks stay whole."""
    from rlaif.runs.catalog import remove

    forks = remove(run)
    tell(f"{run}: removed" + (f"; its forks {', '.join(forks)} stay whole" if forks else ""))


@runs_app.command("rename")
def rename_command(run: RunDir, name: Annotated[str, typer.Argument(help="The folder's new name.")]) -> None:
    """Rename a run's folder, also where other runs beside it name it."""
    from rlaif.runs.catalog import rename

    say(rename(run, name))


def print_runs(rows: list[dict[str, Any]]) -> None:
    """Runs as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "status", "constitution", "parent", "headline", "age", "size")
    for row in rows:
        cells = [
            row["name"],
            row["status"],
            row["constitution"] or "",
            _parent(row["parent"]),
            f"{row['headline']['what']} {row['headline']['value']:.3f}" if row["headline"] else "",
            _age(row["created"]),
            _size(row["bytes"], row["shared_bytes"]),
        ]
        table.add_row(*(escape(printable(cell)) for cell in cells))
    Console(highlight=False).print(table if rows else "no runs")


def _parent(parent: dict[str, Any] | None) -> str:
    if not parent:
        return ""
    # Every part may be missing: manifests are files that people edit.
    name = parent.get("name") or f"{Path(str(parent.get('path', '?'))).name} (not here)"
    return f"{name} at {parent.get('at', '?')}"


def _age(created: str | None) -> str:
    try:
        begun = datetime.fromisoformat(created or "")
    except (TypeError, ValueError):
        return ""
    seconds = (datetime.now(UTC) - (begun if begun.tzinfo else begun.replace(tzinfo=UTC))).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _size(total: int, shared: int) -> str:
    megabytes = f"{total / 1e6:,.1f} MB"
    return f"{megabytes}, {shared / 1e6:,.1f} shared" if shared else megabytes
