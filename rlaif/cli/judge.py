"""`rlaif judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.arguments import JudgedBy, JudgeSet, TemplateSet, templates_of_model
from rlaif.cli.groups import judge_app
from rlaif.cli.terminal import Json, Progress, emit, page_at, say, tell


@judge_app.command("audit")
def judge_audit(
    what: Annotated[
        str, typer.Argument(metavar="MODEL|CONFIG", help="A config file, or a model: a folder or a hub id.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page; omitted = judge_card.html.")
    ] = None,
    pairs: Annotated[
        int,
        typer.Option(
            "--num-pairs",
            min=0,
            help="Pairs of the policy's responses, 0 = the examples alone; of --labels, 0 = all.",
        ),
    ] = 200,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="People's labels: their pairs are asked about, they are the truth."
        ),
    ] = None,
    set_: JudgeSet = None,
    constitution: JudgedBy = None,
    templates: TemplateSet = None,
    as_json: Json = False,
) -> None:
    """Make the judge card: accuracy, calibration, biases, consistency, and which attacks flip verdicts."""
    from rlaif.audit import card
    from rlaif.audit.page import card_warnings, in_words, write_card
    from rlaif.preflight.opening import audited

    page = page_at(out or Path("judge_card.html"))
    tell("loading …")
    asked = templates_of_model(what, templates, constitution)
    config, base, prompts = audited(what, set_ or [], constitution, asked)
    if labels:
        from rlaif.workbench.people_truth import card_on_labels

        data = card_on_labels(config, base, labels, pairs, progress=Progress)
    else:
        data = card.judge_card(config, base, prompts, pairs, progress=Progress)
    write_card(page, data)
    if as_json:
        emit(data)
    else:
        say("\n".join([*in_words(data), *(f"Read with care: {warning}" for warning in card_warnings(data))]))
        say(page)
