"""`rlaif data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from rlaif.cli.groups import data_app
from rlaif.cli.terminal import NO_LICENCE, Json, Progress, emit, say
from rlaif.errors import UserError


@data_app.command("import")
def data_import(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[FORMAT] FILE...",
            help="The files, with the name of their format in front where they do not show it.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for prompts, responses, comparisons and labels.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many rows.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag for every prompt; may be repeated.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="What a column of a table holds, e.g. first=answer_1; may be repeated."),
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(metavar="KIND:NAME", help="Who labelled, where the data does not say: ai:judge-1."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Import preference data in a format of docs/data-formats.md; say what was kept, what not and why."""
    from rlaif.human.importers import import_file

    format, paths = _format_and_files(files)
    made = _table(format, column) if column else format
    who = _annotator(annotator) if annotator else None
    counts = import_file(
        made, paths[0], out, limit, tags=tag or (), progress=Progress, beside=paths[1:], who=who
    )
    if as_json:
        emit(counts)
        return
    say(f"{counts['source']}, format {counts['format']}: {_kept(counts)}")
    say("\n".join([*_left_out(counts), f"{out}: {_numbers(counts['rows'])}"]))


@data_app.command("export")
def data_export(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN|FOLDER", help="A run or one of its label stages, or an imported folder."),
    ],
    format: Annotated[str, typer.Option(help="The format; docs/data-formats.md lists them.")],
    out: Annotated[
        Path, typer.Option(help="A .jsonl, .json, .csv or .parquet file, or a folder of datasets to make.")
    ],
    licence: Annotated[str, typer.Option("--license", help="The licence that the card names.")] = NO_LICENCE,
    as_json: Json = False,
) -> None:
    """Export comparisons and their labels, Parquet and `datasets` with a card; say what was left out."""
    from rlaif.report.cards import export_with_card, written_as

    counts = export_with_card(folder, format, out, licence)
    if as_json:
        emit(counts)
        return
    card = [f"card: {counts['card']}"] if "card" in counts else []
    first = f"{out}, format {format}: {_kept(counts)}{written_as(counts)}"
    say("\n".join([first, *_left_out(counts), *card]))


@data_app.command("lint")
def data_lint(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files, imported folders or runs.", exists=True)
    ],
    heldout: Annotated[
        list[Path] | None,
        typer.Option(help="Held-out data, whose prompts must not be in FILE; may be repeated.", exists=True),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for biases, duplicates, leaks and contradictions; exit code 1 where something was found."""
    from rlaif.human.linting import in_words, lint

    found = lint(files, heldout or ())
    if as_json:
        emit(found)
    else:
        say("\n".join(in_words(found)))
    if found["findings"]:
        raise typer.Exit(1)


def _kept(counts: dict[str, Any]) -> str:
    return f"{counts['kept']:,} of {counts['in']:,} rows kept"


def _left_out(counts: dict[str, Any]) -> list[str]:
    """What was dropped, and what is missing of rows that were kept, a line a reason."""
    kinds = {"dropped": "dropped", "left_out": "left out of rows that were kept"}
    return [
        f"{words}: {n:,} × {why}" for key, words in kinds.items() for why, n in counts.get(key, {}).items()
    ]


def _numbers(rows: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in rows.items())


def _table(format: str | None, columns: list[str]) -> Any:
    """The format of a table with these columns, each given as WHAT=NAME."""
    from rlaif.human.formats.tables import table_format

    if format not in (None, "table"):
        raise UserError(f"--column with the format {format}.", "the format table, or none", "leave it out")
    pairs = [word.partition("=") for word in columns]
    if wrong := [
        word for word, (_, equals, name) in zip(columns, pairs, strict=True) if not equals or not name
    ]:
        raise UserError(f'--column "{wrong[0]}".', "WHAT=NAME", "--column first=answer_1")
    return table_format({what: name for what, _, name in pairs})


def _annotator(word: str) -> Any:
    from rlaif.records import Annotator, AnnotatorKind

    kind, _, name = word.partition(":")
    if kind not in get_args(AnnotatorKind) or not name:
        raise UserError(
            f'--annotator "{word}": no kind and name of an annotator.',
            f"{', '.join(get_args(AnnotatorKind))}, a colon and a name",
            "--annotator ai:judge-1",
        )
    return Annotator.model_validate({"kind": kind, "id": name})


def _format_and_files(words: list[str]) -> tuple[str | None, list[Path]]:
    """The format, where the first of several words is the name of one or of no file."""
    from rlaif.human.formats import FORMATS

    first, *rest = words
    named = first in FORMATS or (Path(first).name == first and not Path(first).suffix)
    if rest and (first in FORMATS or (named and not Path(first).exists())):
        return first, [Path(word) for word in rest]
    if first in FORMATS and not Path(first).exists():
        raise UserError(f"rlaif data import {first}: a format, and no file.", "a file", f"{first} FILE")
    return None, [Path(word) for word in words]
