"""The command line's groups, to which the other files of this folder add their commands."""

from __future__ import annotations

from typing import Annotated

import typer

from rlaif.cli.terminal import say

app = typer.Typer(name="rlaif", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
judge_app = typer.Typer(no_args_is_help=True, help="Examine the feedback model as a judge.")
constitution_app = typer.Typer(
    no_args_is_help=True, help="Check, test, edit and measure constitutions; import and export them."
)
data_app = typer.Typer(no_args_is_help=True, help="Import, export and check preference data.")
prompts_app = typer.Typer(no_args_is_help=True, help="Write prompts for a run.")
playground_app = typer.Typer(
    no_args_is_help=True, help="Build the small world with a known truth; sample from it."
)
app.add_typer(judge_app, name="judge", rich_help_panel="The loop")
app.add_typer(constitution_app, name="constitution", rich_help_panel="Material")
app.add_typer(data_app, name="data", rich_help_panel="Material")
app.add_typer(prompts_app, name="prompts", rich_help_panel="Material")
app.add_typer(playground_app, name="playground", rich_help_panel="Material")


def _version(asked: bool) -> None:
    if asked:
        from rlaif import __version__

        say(f"rlaif {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a constitution file to an aligned language model, and the evidence that it worked."""
