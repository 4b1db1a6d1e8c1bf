"""`rlaif judge compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli.arguments import KEPT, DrawSeed, FewShot, JudgeSet
from rlaif.cli.groups import judge_app
from rlaif.cli.terminal import Json, Progress, emit, page_at, say, tell

Judges = Annotated[
    list[str], typer.Argument(metavar="MODEL|CONFIG...", help="Config files, or models: folders, hub ids.")
]
Labels = Annotated[
    Path | None, typer.Option(metavar="FILE", help="People's labels: what the judges are measured by.")
]
Runs = Annotated[
    list[Path] | None, typer.Option("--run", metavar="RUN", help="A run's pairs; may be repeated.")
]
Rules = Annotated[
    Path | None,
    typer.Option(help="What all of them judge by; omitted = the run's, else the first config's."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(help="A template set every judge is asked with; may be repeated; omitted = its own."),
]
Most = Annotated[
    int | None,
    typer.Option(
        "--num-pairs",
        min=0,
        help="At most so many pairs of each source, drawn by --seed; beside --labels labelled ones alone. "
        "0 = all, those of --run without a label, too; omitted = all labelled ones, else 200 of a run.",
    ),
]
Bar = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Say of each judge whether it is right in at least this share."),
]
Keep = Annotated[Path | None, typer.Option("--keep", metavar="FOLDER", help=KEPT)]
Page = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="The page; omitted = judge_compare.html.")
]


@judge_app.command("compare")
def judge_compare(
    judges: Judges,
    labels: Labels = None,
    runs: Runs = None,
    constitution: Rules = None,
    templates: Sets = None,
    few_shot: FewShot = None,
    pairs: Most = None,
    seed: DrawSeed = 0,
    bar: Bar = None,
    set_: JudgeSet = None,
    keep: Keep = None,
    out: Page = None,
    as_json: Json = False,
) -> None:
    """Put the same pairs to several judges: accuracy, calibration, flips, agreement, cost, side by side.
    Without --keep their labels are kept beside the page."""
    from rlaif.report.run_reader import plain
    from rlaif.workbench.judge_comparison import JudgesAsked, compare_judges
    from rlaif.workbench.judge_comparison_page import in_words, write_judge_comparison

    page = page_at(out or Path("judge_compare.html"))
    tell("loading …")
    how = JudgesAsked(
        tuple(judges),
        labels=labels,
        runs=tuple(runs or ()),
        constitution=constitution,
        templates=tuple(templates or ()),
        overrides=tuple(set_ or ()),
        few_shot=few_shot,
        pairs=pairs,
        seed=seed,
        bar=bar,
        keep=keep or page.with_name(page.stem if page.suffix else f"{page.name}.verdicts"),
    )
    data = plain(compare_judges(how, Progress, tell))
    write_judge_comparison(page, data)
    if as_json:
        emit(data)
    else:
        print_table(data)
        say("\n".join([*in_words(data), str(page)]))
    if data["failed"]:
        raise typer.Exit(data["failed"][0]["code"])


def print_table(data: dict[str, Any]) -> None:
    """A line a judge."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rlaif.errors import printable
    from rlaif.workbench.judge_comparison_page import table_rows

    columns, rows = table_rows(data)
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    Console(highlight=False).print(table)
