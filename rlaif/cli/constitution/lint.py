"""`rlaif constitution lint`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, emit, say, tell
from rlaif.errors import UserError

Names = list[str] | None


class FailOn(StrEnum):
    """From which level on findings make the exit code 1."""

    error = "error"
    warning = "warning"
    note = "note"
    never = "never"


@constitution_app.command("lint")
def constitution_lint(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE…", help="Constitution files; with --config optional.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A prompt file, to check tags against.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A config: its constitution, prompts, templates, judge and gold.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|CONFIG",
            help="Check that the longest questions fit its context; no weights are loaded.",
        ),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(help="Check a template set: that it shows all texts and uses no unknown names."),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(help="Check which principles a gold scorer, named as in a config, can score."),
    ] = None,
    select: Annotated[Names, typer.Option(help="Only this rule; may be repeated.")] = None,
    ignore: Annotated[Names, typer.Option(help="Not this rule; may be repeated.")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit code 1 from this level on.")] = FailOn.warning,
    list_rules: Annotated[bool, typer.Option("--rules", help="List the rules and why they matter.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="A SARIF 2.1.0 log, for code hosts.")] = False,
    as_json: Json = False,
) -> None:
    """Check constitutions for likely mistakes: where each is, why it matters, and how to silence it."""
    from rlaif.workbench.lint.files import Use, lint_files

    if list_rules:
        _rules(as_json)
        return
    use = Use.of(config, prompts, gold=gold, judge=judge, templates=templates)
    files = paths or ([use.constitution] if use.constitution else [])
    if not files:
        raise UserError("no constitution file.", "one or more, or --config", "rlaif constitution lint FILE")
    result = lint_files(files, use, select=select or (), ignore=ignore or (), tell=tell)
    if sarif:
        from rlaif import __version__
        from rlaif.workbench.lint.sarif import sarif as log

        emit(log(result.findings, __version__))
    elif as_json:
        emit([finding.as_dict() for finding in result.findings])
    else:
        for path, constitution in result.loaded.items():
            for finding in (f for f in result.findings if f.path == path):
                say(f"{finding}\n    {finding.why}. To silence it, {finding.silence}")
            say(f"{path}: {len(constitution.principles)} principles, hash {constitution.hash}")
    if result.errors:
        raise result.errors[0] if len(result.errors) == 1 else UserError("\n".join(map(str, result.errors)))
    if fail_on != FailOn.never and result.at_least(fail_on.value):
        raise typer.Exit(1)


def _rules(as_json: bool) -> None:
    from rlaif.workbench.lint import RULES

    rows = [{"name": r.name, "level": r.level, "why": r.why, "finds": r.finds} for r in RULES.values()]
    if as_json:
        emit(rows)
        return
    for row in rows:
        say(f"{row['name']} ({row['level']})\n    {row['finds']}\n    why: {row['why']}")
