"""`rlaif constitution executors`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli.arguments import ConstitutionFile, DrawnPairs, DrawSeed, JudgeSet, KeepLabels, RunTemplates
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, Progress, emit, say, tell

ASKED = 3  # clauses of which examples are printed
TEXTS = (("prompt", "prompt"), ("A", "a"), ("B", "b"))


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
    as_json: Json = False,
) -> None:
    """Find the clauses that judges, and people, read differently: agreement by principle, with the pairs that
    show it."""
    from rlaif.report.run_reader import plain
    from rlaif.workbench.reading import Sources, executors

    tell("loading …")
    how = Sources(
        (*(judges or ()), *(more or ())),
        tuple(runs or ()),
        labels,
        tuple(set_ or ()),
        templates,
        pairs,
        seed,
        keep,
    )
    found = executors(path, how, Progress)
    if as_json:
        emit(plain(found))
        return
    print_table(found)
    for line in lines(found):
        say(line)


def print_table(found: dict[str, Any]) -> None:
    """A line a clause, a column an executor: how far it agrees with the others beyond chance."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rlaif.errors import printable
    from rlaif.pages.page import ci, fixed

    def shown(text: str) -> str:
        return escape(printable(text))

    table = Table()
    table.add_column("clause", no_wrap=True)
    for name in ("kappa", *found["executors"]):
        table.add_column(shown(name))
    for row in [*found["clauses"], *([found["whole"]] if found["whole"] else [])]:
        kappa, cells = row["kappa"], []
        for who in found["executors"]:
            cell = row["executors"].get(who)
            says = (
                "–" if cell is None else "silent" if who in row["silent"] else fixed(cell["kappa"]["value"])
            )
            cells.append(says)
        table.add_row(shown(row["id"]), shown(f"{fixed(kappa['value'])} {ci(kappa['ci'])}"), *cells)
    Console(highlight=False).print(table)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The result in sentences: agreement over all, and the clauses that are read most differently."""
    whole = found["together"]
    if whole["agreement"]["n"]:
        yield (
            f"All principles together: {_rate(whole['agreement'])} of {whole['agreement']['n']} pairs of "
            f"verdicts are the same; kappa {_rate(whole['kappa'])}."
        )
    for row in found["clauses"]:
        for who in row["silent"]:
            yield f"{who} never decides under {row['id']}: it is left out of its kappa."
    for row in [row for row in found["clauses"] if row["kappa"]["value"] is not None][:ASKED]:
        yield from ("", f"{row['id']}: {row['text']}")
        yield (
            f"  the same verdict in {_rate(row['agreement'])} of {row['agreement']['n']}; where one decides, "
            f"the other does not in {_rate(row['one_sided'])}; where both decide, opposite in "
            f"{_rate(row['opposite'])}"
        )
        for example in row["examples"]:
            said = ", ".join(f"{who} {p:.2f}" for who, p in example["p_a"].items())
            yield f"  {example['comparison_id']}  P(A is better): {said}"
            yield from (f"    {name}: {' '.join(example[key].split())}" for name, key in TEXTS)
    for reason, n in found["left_out"].items():
        yield f"left out: {n} × {reason}"


def _rate(row: dict[str, Any]) -> str:
    from rlaif.pages.page import ci, fixed

    return f"{fixed(row['value'])} {ci(row['ci'])}".rstrip()
