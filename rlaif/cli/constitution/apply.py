"""`rlaif constitution apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.arguments import Trust
from rlaif.cli.groups import constitution_app
from rlaif.cli.run import Set, running
from rlaif.cli.terminal import Json, Progress, RunDir, emit, say, tell


@constitution_app.command("apply")
def constitution_apply(
    run: RunDir,
    file: Annotated[Path, typer.Argument(metavar="NEW_FILE", help="The edited constitution.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the new run; omitted = beside RUN, by the edit's hash.")
    ] = None,
    at: Annotated[
        str, typer.Option(help="The first stage that is run again; those before it are shared with RUN.")
    ] = "label",
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Train PPO from the reference policy; omitted = from the run's policy."),
    ] = False,
    set_: Set = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Carry an edit through to the policy: ask for the stale labels only, train, compare the policies."""
    from rlaif.workbench.apply import apply
    from rlaif.workbench.edit_text import in_words

    with running("rlaif constitution apply"):
        data = apply(
            run,
            file,
            out,
            at=at,
            anew=anew,
            overrides=set_ or [],
            trust=trust,
            progress=Progress,
            tell=tell,
        )
    if as_json:
        emit(data)
    else:
        say("\n".join([*in_words(data), str(Path(data["fork"]) / "edit.html")]))
