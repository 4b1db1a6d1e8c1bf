"""`rlaif judge fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.arguments import JudgedBy, JudgeSet, TemplateSet, templates_of_model
from rlaif.cli.groups import judge_app
from rlaif.cli.terminal import Json, Progress, as_argument, emit, say, tell


@judge_app.command("fit")
def judge_fit(
    what: Annotated[
        str, typer.Argument(metavar="MODEL|CONFIG", help="A config file, or a model: a folder or a hub id.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write: name it as feedback.fit in a config.")],
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|FOLDER|RUN",
            help="People's labels, in any format of `rlaif data import`; may be repeated. "
            "Omitted = only what the order adds is removed, measured on pairs of the config's policy.",
        ),
    ] = None,
    pairs: Annotated[
        int, typer.Option("--num-pairs", min=1, help="Without labels: pairs of the policy's responses.")
    ] = 200,
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Train a LoRA adapter on the labels, with engine: transformers; from 50 labelled pairs, "
            "and much slower: six trainings.",
        ),
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Draws the folds; omitted = the config's.")] = None,
    set_: JudgeSet = None,
    constitution: JudgedBy = None,
    templates: TemplateSet = None,
    as_json: Json = False,
) -> None:
    """Fit the judge on a few labels of people, and refuse where held-out labels do not improve.

    From 50 labels a temperature, from 200 a linear head on its hidden states; the order's prior needs none.
    With --train an adapter (LoRA) is trained in their place.
    """
    from rlaif.audit.fit_page import fit_in_words, refused
    from rlaif.preflight.opening import audited
    from rlaif.workbench.judge_fitting import fit_judge

    asked = templates_of_model(what, templates, constitution)
    config, base, prompts = audited(what, set_ or [], constitution, asked)
    tell("loading …")
    report = fit_judge(
        config, base, prompts, labels or [], out=out, pairs=pairs, seed=seed, progress=Progress, train=train
    )
    if as_json:
        emit(report)
    else:
        say("\n".join(fit_in_words(report)))
    if not report["taken"]:
        raise refused(report)
    if not as_json:
        say(f"{out}: use it with -s feedback.fit={as_argument(out)}")
