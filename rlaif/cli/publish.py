"""`rlaif publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import app
from rlaif.cli.terminal import NO_LICENCE, Json, RunDir, emit, say, tell
from rlaif.errors import UserError


@app.command("publish", rich_help_panel="Material")
def publish(
    run: RunDir,
    to: Annotated[
        str | None, typer.Option(metavar="HUB_ID", help="The repository to push to: OWNER/NAME.")
    ] = None,
    what: Annotated[
        str, typer.Option(help="policy (the last one), policy:NAME, reward_model or preferences.")
    ] = "policy",
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public; omitted = private.")
    ] = False,
    licence: Annotated[str, typer.Option("--license", help="The licence that the card names.")] = NO_LICENCE,
    out: Annotated[Path | None, typer.Option(help="Write what would be pushed to this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Write a card for a policy, a reward model or the preferences; push them to a hub with --to."""
    from contextlib import nullcontext

    from rlaif.report.publish import folder_to_push, prepare, push

    if to is None and out is None:
        raise UserError(
            "rlaif publish: neither --to nor --out.",
            "where to",
            f"rlaif publish {run} --out FOLDER writes it; --to OWNER/NAME pushes it",
        )
    with nullcontext(out) if out else folder_to_push(run) as folder:
        made = prepare(run, what, folder, licence, kept=out is not None)
        tell(f"{made['what']} {made['name']}: {', '.join(made['files'])}")
        if to is not None:
            made |= push(Path(made["folder"]), made["what"], to, public)
    if out is None:
        made.pop("folder")
    if as_json:
        emit(made)
    else:
        say(made.get("url", made.get("folder")))
