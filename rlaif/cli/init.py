"""`rlaif init`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rlaif.cli.groups import app
from rlaif.cli.terminal import as_argument, say
from rlaif.errors import UserError

MODEL = "a folder, a hub id or a GGUF file; playground = the small models that come with rlaif"


@app.command(rich_help_panel="The loop")
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to write; made if need be.")
    ] = Path(),
    policy: Annotated[str | None, typer.Option(help=f"The model to train: {MODEL}.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="The feedback model: as the policy, or an endpoint's URL.")
    ] = None,
    judge_name: Annotated[str | None, typer.Option(help="The model that the endpoint serves.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="A file of prompts (docs/prompts.md); omitted = one to edit is written."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of --prompts that holds them.")] = None,
    constitution: Annotated[
        str | None,
        typer.Option(
            help="A constitution file, or the name of a shipped one, to edit a copy; omitted = one to edit."
        ),
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="cpu or gpu: how large the stages are.")] = None,
    from_data: Annotated[
        Path | None, typer.Option(help="People's labelled pairs, as rlaif data import takes them.")
    ] = None,
) -> None:
    """Write a config, a constitution to edit and a prompt file; on a terminal, ask for what is not given."""
    from rlaif.preflight.starting import PLAYGROUND, Wanted, write_project

    given: dict[str, Any] = {
        "policy": policy,
        "judge": judge,
        "judge_name": judge_name,
        "prompts": prompts,
        "column": column,
        "constitution": constitution,
        "hardware": hardware,
        "from_data": from_data,
    }
    if sys.stdin.isatty():
        given = _asked(given)
    given["policy"] = given["policy"] or PLAYGROUND
    given["judge"] = given["judge"] or given["policy"]
    given["hardware"] = given["hardware"] or "cpu"
    if given["hardware"] not in ("cpu", "gpu"):
        raise UserError(f"--hardware {given['hardware']}.", "cpu or gpu")
    written = write_project(folder, Wanted(**given))
    say("\n".join(map(str, written)))
    config = shlex.quote(as_argument(folder / "config.yaml"))
    say(f"Next: rlaif run {config} --dry-run, then rlaif run {config}")


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """The same with what is missing asked for; an empty line keeps what stands in brackets."""

    def ask(key: str, question: str, default: str) -> None:
        if given[key] is None:
            given[key] = typer.prompt(question, default=default) or None

    ask("policy", f"Policy ({MODEL})", "playground")
    ask("judge", "Judge (the same, or an endpoint's URL)", given["policy"])
    if given["judge"].startswith(("http://", "https://")):
        ask("judge_name", "Model that the endpoint serves", "")
    if given["from_data"] is None:
        ask("prompts", "Prompt file (empty: one to edit is written)", "")
    ask("constitution", "Constitution file (empty: one to edit is written)", "")
    ask("hardware", "Hardware (cpu or gpu)", "cpu")
    return given
