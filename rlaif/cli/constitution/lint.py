"""`rlaif constitution lint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import say


@constitution_app.command("lint")
def constitution_lint(
    path: Annotated[Path, typer.Argument(help="A constitution file.")],
    prompts: Annotated[Path | None, typer.Option(help="A prompt file, to check tags against.")] = None,
    gold: Annotated[
        str | None, typer.Option(help="A config's gold scorer: which principles can it check?")
    ] = None,
) -> None:
    """Check a constitution: errors with file and line, and warnings."""
    from rlaif.constitution import Constitution, lint
    from rlaif.feedback.gold import load_gold, no_gold, ungraded
    from rlaif.prompting.prompt_files import load_prompts

    constitution = Constitution.load(path)
    asked = load_prompts(prompts) if prompts else []
    scorer = load_gold(gold, constitution)
    for warning in [*lint(path, asked), *no_gold(ungraded(scorer, constitution, asked), gold)]:
        say(f"warning: {warning}")
    say(f"{path}: {len(constitution.principles)} principles, hash {constitution.hash}")
