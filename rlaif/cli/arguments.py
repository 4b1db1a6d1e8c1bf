"""Arguments and options that several commands have: spelt and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.errors import UserError

JUDGE = "A config, whose feedback model judges as its label stage says, or a model: a folder or a hub id."

ConstitutionFile = Annotated[Path, typer.Argument(metavar="FILE", help="A constitution file.")]
JudgeName = Annotated[str, typer.Option("--judge", metavar="MODEL|CONFIG", help=JUDGE)]
JudgeSet = Annotated[
    list[str] | None, typer.Option("-s", "--set", help="key=value of the judge's config; may be repeated.")
]
ConfigSet = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", help="key=value of the config, e.g. budget.calls=500; may be repeated."),
]
TemplateSet = Annotated[
    str | None, typer.Option("--templates", help="With a model: the template set; omitted = default.")
]
RunTemplates = Annotated[
    str | None,
    typer.Option("--templates", help="With a model: the template set; omitted = the run's, else default."),
]
FewShot = Annotated[
    int | None,
    typer.Option(
        "--few-shot", min=0, help="Solved examples shown before each question; omitted = the config's."
    ),
]
DrawnPairs = Annotated[
    int, typer.Option("--num-pairs", min=0, help="Comparisons of each source, drawn by --seed; 0 = all.")
]
DrawSeed = Annotated[int, typer.Option("--seed", help="Seed of the draw of comparisons.")]
JudgedBy = Annotated[
    Path | None, typer.Option("--constitution", help="With a model: the constitution to judge by.")
]
KEPT = "Where judges' labels are kept; a later call goes on from there."
KeepLabels = Annotated[Path | None, typer.Option("--keep", metavar="FILE", help=KEPT)]
PageFile = Annotated[Path | None, typer.Option("--out", metavar="FILE.html", help="Also write a page.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Allow the functions and endpoints that a run's config names.")
]
LabelsOf = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run, or the folder of one of its label stages.")
]


def templates_of_model(what: str, templates: str | None, constitution: Path | None = None) -> str:
    """The template set that a model is asked with; UserError as of `refuse_beside_config`."""
    refuse_beside_config(what, templates, constitution)
    return templates or "default"


def refuse_beside_config(what: str, templates: str | None, constitution: Path | None = None) -> None:
    """UserError where a config is named, which says itself by which templates and constitution it judges."""
    from rlaif.config import names_config

    for key, value in (("templates", templates), ("constitution", constitution)):
        if value is not None and names_config(what):
            raise UserError(
                f"--{key} {value}: {what} is a config, which names its own.",
                f"a model with --{key}, or a config alone",
                f"-s {key}={value}",
            )
