"""`rlaif constitution executors`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli.arguments import (
    ConstitutionFile,
    DrawnPairs,
    DrawSeed,
    JudgeSet,
    KeepLabels,
    PageFile,
    RunTemplates,
    refuse_beside_config,
)
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, Progress, emit, page_at, say, tell

MoreJudges = Annotated[
    list[str] | None, typer.Argument(metavar="[JUDGE]...", help="More judges.", show_default=False)
]
Runs = Annotated[
    list[Path] | None,
    typer.Option(
        "--run", "--runs", metavar="RUN", help="A run, or a folder of pairs, with labels; may be repeated."
    ),
]


@constitution_app.command("executors")
def constitution_executors(
    path: ConstitutionFile,
    more: MoreJudges = None,
    judges: Annotated[
        list[str] | None,
        typer.Option(
            "--judge", "--judges", metavar="MODEL|CONFIG", help="A judge to ask; others may follow."
        ),
    ] = None,
    runs: Runs = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="People's labels, beside their comparisons.jsonl.")
    ] = None,
    pairs: DrawnPairs = 200,
    seed: DrawSeed = 0,
    set_: JudgeSet = None,
    templates: RunTemplates = None,
    keep: KeepLabels = None,
    out: PageFile = None,
    as_json: Json = False,
) -> None:
    """Find the principles that judges, and people, read differently, with the pairs that show it. The table
    has agreement beyond chance: of all (kappa), and of each executor (a judge, or people) with the others."""
    from rlaif.config import names_config
    from rlaif.report.run_reader import plain
    from rlaif.workbench.executors import Sources, executors
    from rlaif.workbench.executors_page import in_words, write_executors

    asked = (*(judges or ()), *(more or ()))
    if asked and all(map(names_config, asked)):
        refuse_beside_config(asked[0], templates)
    page = page_at(out) if out else None
    tell("loading …")
    how = Sources(
        judges=asked,
        runs=tuple(runs or ()),
        labels=labels,
        overrides=tuple(set_ or ()),
        templates=templates,
        pairs=pairs,
        seed=seed,
        keep=keep,
    )
    found = plain(executors(path, how, Progress))
    if page:
        write_executors(page, found, path.name)
    if as_json:
        emit(found)
        return
    print_table(found)
    for line in [*in_words(found), *([page] if page else [])]:
        say(line)


def print_table(found: dict[str, Any]) -> None:
    """A line a principle, a column an executor: how far it agrees with the others beyond chance."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rlaif.errors import printable
    from rlaif.pages.page import ci, fixed
    from rlaif.workbench.executors_page import LEGEND, says

    def shown(text: str) -> str:
        return escape(printable(text))

    table = Table()
    table.add_column("principle", no_wrap=True)
    for name in ("kappa", *found["executors"]):
        table.add_column(shown(name))
    for row in [*found["principles"], *([found["whole"]] if found["whole"] else [])]:
        kappa, cells = row["kappa"], [says(row, who) for who in found["executors"]]
        table.add_row(shown(row["id"]), shown(f"{fixed(kappa['value'])} {ci(kappa['ci'])}"), *cells)
    Console(highlight=False).print(table)
    for line in LEGEND:
        say(line)
    say("")
