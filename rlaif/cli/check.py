"""`rlaif check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli.groups import app
from rlaif.cli.run import Set, running
from rlaif.cli.terminal import Json, emit, say, tell


@app.command(rich_help_panel="Material")
def check(
    config: Annotated[Path | None, typer.Argument(help="A config file, to ask its models.")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Print versions and devices; with a config, whether a run of it could begin (exit code 2 if not).

    Tokenizers and chat templates are loaded, and every endpoint is asked one test question.
    """
    from rlaif import pipeline
    from rlaif.preflight.provenance import environment

    data: dict[str, Any] = environment()
    with running("rlaif check", "models that were measured are kept"):
        found = pipeline.check(config, set_ or [], tell) if config else None
    if found:
        data |= {"models": found.found, "warnings": found.warnings, "problems": found.problems}
    if as_json:
        emit(data)
    else:
        for line in in_words(data):
            say(line)
    if found and found.problems:
        raise typer.Exit(2)


def in_words(data: dict[str, Any]) -> list[str]:
    """What was found, a line a thing; problems last."""
    plain = {key: value for key, value in data.items() if key not in ("models", "warnings", "problems")}
    lines = [
        "\n  ".join([f"{key}:", *(f"{name}: {state}" for name, state in value.items())])
        if isinstance(value, dict)
        else f"{key}: {value}"
        for key, value in plain.items()
    ]
    lines += [f"{name}: {state}" for name, state in data.get("models", {}).items()]
    lines += [f"warning: {warning}" for warning in data.get("warnings", [])]
    return lines + [f"problem: {problem}" for problem in data.get("problems", [])]
