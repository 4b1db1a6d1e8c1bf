"""`rlaif options`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.groups import app
from rlaif.cli.terminal import Json, emit, say
from rlaif.errors import UserError

if TYPE_CHECKING:
    from rlaif.preflight.explained import Explained


@app.command(rich_help_panel="Material")
def options(
    stage: Annotated[
        str | None, typer.Argument(help="A stage such as ppo, or a key of the config such as policy.")
    ] = None,
    option: Annotated[str | None, typer.Argument(help="One of its options: everything about it.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON Schema of a config file, for editors.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Explain the options of a config: meaning, type, default, range, source, and what goes with them."""
    from rlaif.preflight import explained

    if schema and stage:
        raise UserError(f"--schema with {stage}.", "the schema of a whole config", "rlaif options --schema")
    if schema:
        emit(explained.schema())
        return
    meant = explained.chosen(stage, option)
    if as_json:
        emit([one.as_dict() for one in meant])
    elif stage is None:
        for section, inside in explained.explained().items():
            say(f"{section} ({len(inside)} options): {explained.purpose(section)}")
        say("\nrlaif options STAGE lists a stage's options, rlaif options STAGE OPTION tells all of one.")
    elif len(meant) == 1:
        say("\n".join(in_full(meant[0])))
    else:
        say("\n".join(line for one in meant for line in one_line(one)))


def one_line(one: Explained) -> list[str]:
    """An option in two lines."""
    limits = f", {one.range}" if one.range else ""
    return [f"{one.key}: {one.default_text} ({one.type}{limits})", f"    {one.meaning}"]


def in_full(one: Explained) -> list[str]:
    """All that is known of an option, a line each."""
    facts = {
        "meaning": one.meaning,
        "type": one.type,
        "names": one.names,
        "default": one.default_text,
        "range": one.range,
        "source": one.source,
        "results": "" if one.affects_results else "not changed by it, but for rounding",
    }
    lines = [*facts.items(), *(("warned of", said) for said in one.goes_with)]
    return [one.key, *(f"  {name}: {value}" for name, value in lines if value)]
