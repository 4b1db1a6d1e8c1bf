"""`rlaif constitution coverage`."""

from __future__ import annotations

from typing import Any

from rlaif.cli.arguments import LabelsOf, PageFile
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, emit, page_at, say, tell


@constitution_app.command("coverage")
def constitution_coverage(
    run: LabelsOf,
    out: PageFile = None,
    as_json: Json = False,
) -> None:
    """Show what each principle does to a run's preferences, from its labels: no model is asked."""
    from rlaif.report.principles_shown import in_words, report_of, write_coverage
    from rlaif.report.run_reader import plain

    page = page_at(out) if out else None
    tell("reading the labels …")
    reader, figures = report_of(run)
    if page:
        write_coverage(reader, figures, page)
    if as_json:
        emit(plain(figures))
        return
    print_table(figures)
    for line in [*in_words(figures), *([page] if page else [])]:
        say(line)


def print_table(figures: dict[str, Any]) -> None:
    """A line a principle."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rlaif.errors import printable
    from rlaif.pages.page import ci, fixed
    from rlaif.report.principles_shown import COLUMNS

    def rate(row: dict[str, Any]) -> str:
        return escape(f"{fixed(row['value'])} {ci(row['ci'])}" if row["n"] else "–")

    table = Table()
    table.add_column("principle", no_wrap=True)
    columns = {name: what for name, what in COLUMNS.items() if name != "agrees with the preference"}
    for name in columns:
        table.add_column(name)
    for row in figures["principles"]:
        cells = (row["decides"], row["agreement_with_rest"], row["deciding"], row["without"]["undecided"])
        applies = fixed(row["applies"]["value"])
        table.add_row(escape(printable(row["id"])), applies, *map(rate, cells))
    Console(highlight=False).print(table)
    for name, what in columns.items():
        say(f"{name}: {what}")
    say("")
