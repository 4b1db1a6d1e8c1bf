"""`rlaif prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.arguments import ConfigSet, ConstitutionFile
from rlaif.cli.groups import prompts_app
from rlaif.cli.run import running
from rlaif.cli.terminal import Json, Progress, emit, say, tell

if TYPE_CHECKING:
    from rlaif.workbench.generate_prompts import Generated


@prompts_app.command("generate")
def prompts_generate(
    constitution: ConstitutionFile,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL|CONFIG",
            help="The model that writes: a config's feedback model, a folder or a hub id.",
        ),
    ],
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, help="Prompts for each principle and kind.")
    ] = 5,
    out: Annotated[Path, typer.Option(help="The prompt file; one that exists is continued.")] = Path(
        "generated.jsonl"
    ),
    kind: Annotated[
        list[str] | None, typer.Option(help="applies, tempts, seems_risky, conflicts; omitted = all four.")
    ] = None,
    existing: Annotated[
        list[Path] | None,
        typer.Option(help="A prompt file; prompts nearly the same as one of its are dropped."),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(help="Template set, or a folder with prompts.j2; omitted = the config's, or default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw of subjects and of sampling.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature.")] = 0.8,
    set_: ConfigSet = None,
    as_json: Json = False,
) -> None:
    """Write prompts that bring each principle into play, tempt to break it, look risky and are not, or set
    two principles against each other."""
    from rlaif.constitution import Constitution
    from rlaif.engines import open_engine
    from rlaif.preflight.opening import config_or_model
    from rlaif.prompting.templates import Templates
    from rlaif.runs.locking import locked_file
    from rlaif.runs.spending import Account, Ledger
    from rlaif.workbench.generate_prompts import KINDS, Wanted, generate

    rules = Constitution.load(constitution)
    tell("loading …")
    config, _ = config_or_model(model, set_ or [], constitution, templates or "default")
    asked = Templates.load_part(templates or config.templates, "prompts")
    wanted = Wanted(number, tuple(kind or KINDS), seed, temperature)
    with running("rlaif prompts generate"), locked_file(out):
        ledger = Ledger(out.with_suffix(".spending.jsonl"), config)
        engine = open_engine(config.feedback, account=Account(ledger, "prompts"))
        made = generate(rules, engine, asked, out, wanted=wanted, existing=existing or (), progress=Progress)
    if as_json:
        emit({"out": str(out), **made.as_dict()})
    else:
        _say(out, made)


def _say(out: Path, made: Generated) -> None:
    if made.first:
        tell(f"The first instruction:\n{made.first['asked']}\n\nWhat was written:\n{made.first['written']}\n")
    by_kind = ", ".join(f"{kind} {count}" for kind, count in made.by_kind.items())
    say(f"{out}: {made.kept} of {made.wanted} prompts ({by_kind or 'none'})")
    for reason, count in made.dropped.most_common():
        say(f"dropped: {count} × {reason}")
    if any(reason.endswith("the model's context") for reason in made.dropped):
        say("the instruction is too long for this model: name a shorter one (--templates) or another model")
    if made.earlier:
        say(f"{made.earlier} more rows were made for other texts, templates, seeds or models")
    if made.missing:
        few = ", ".join(f"{slot} {count}" for slot, count in list(made.missing.items())[:6])
        say(f"not got: {few}{' …' if len(made.missing) > 6 else ''}; another seed or model may write more")
