"""`rlaif annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.groups import app
from rlaif.cli.terminal import Progress, say, tell
from rlaif.errors import UserError

if TYPE_CHECKING:
    from rlaif.human.annotating.page import Session


@app.command(rich_help_panel="The loop")
def annotate(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE|FOLDER", help="A run, a file of pairs, or an imported folder."),
    ],
    name: Annotated[str, typer.Option("--annotator", help="Your name; omitted = the page asks.")] = "",
    queue: Annotated[
        str, typer.Option(help="random, in-order, unsure, orders, principles, reward or judges.")
    ] = "random",
    ranking: Annotated[
        bool, typer.Option("--rank", help="Rank all responses to a prompt instead of choosing from two.")
    ] = False,
    per_principle: Annotated[
        bool, typer.Option("--per-principle", help="Ask under each principle, then on the whole.")
    ] = False,
    reasons: Annotated[bool, typer.Option("--reasons", help="Ask for a reason before each choice.")] = False,
    assist: Annotated[
        bool, typer.Option("--assist", help="Show the judge's verdict after each choice.")
    ] = False,
    most: Annotated[
        int | None, typer.Option("-n", "--num", min=1, help="Only the first so many items of the queue.")
    ] = None,
    overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Share of items that every annotator gets.")
    ] = 1.0,
    repeats: Annotated[
        float, typer.Option(min=0, max=1, help="Share of items that an annotator gets twice.")
    ] = 0.0,
    blur: Annotated[
        list[str] | None,
        typer.Option(help="Tag of prompts whose texts are blurred at first; may be repeated."),
    ] = None,
    constitution: Annotated[
        Path | None, typer.Option(help="The principles to show; omitted = the run's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the labels; omitted = RUN/annotations, FILE-annotations.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of items and responses.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any free one.")] = 0,
) -> None:
    """Choose or rank responses in the browser; labels as runs and `agree` read them; on this machine
    alone."""
    from rlaif.constitution import Constitution
    from rlaif.human.annotating.desk import Settings
    from rlaif.human.annotating.material import open_material
    from rlaif.human.annotating.page import BLURRED, Session, folder_of
    from rlaif.pages.server import PageServer
    from rlaif.runs.locking import locked

    if assist and (ranking or repeats):
        raise UserError(
            f"--assist with {'--rank' if ranking else '--repeats'}: not possible.",
            "pairs, each shown once",
            "leave one of the two out",
        )
    rules = Constitution.load(constitution) if constitution else None
    material = open_material(path, rules, Progress)
    blurred = frozenset(blur) if blur else BLURRED
    settings = Settings(queue, seed, overlap, repeats, per_principle, assist, reasons, blurred)
    folder = out or folder_of(path)
    with locked(folder):
        session = Session(material, folder, settings, ranking, most)
        server = PageServer(session.site(name, tell), port)
        for reason, number in material.left_out.items():
            tell(f"left out: {number} × {reason}")
        say(f"{len(session.desk.items)} items of {path}, {queue}: {server.address}")
        tell("Whoever has this address can answer, under any name. Ctrl-C ends; nothing is lost.")
        try:
            server.run()
        finally:
            session.write()
            _tell_results(session)


def _tell_results(session: Session) -> None:
    """What each annotator did, where the labels are, and what they are good for."""
    from rlaif.runs.commands import resume_command

    for name, done in session.results.summary().items():
        seconds = f", {done['seconds_per_item']:.0f} s each" if done["seconds_per_item"] is not None else ""
        same = (
            f", {done['repeated_the_same']} of {done['repeated']} the same again" if done["repeated"] else ""
        )
        changed = (
            f", {done['changed_after']} of {done['opinions_seen']} changed after the judge's verdict"
            if done["opinions_seen"]
            else ""
        )
        say(f"{name}: {done['items']} items, {done['skipped']} skipped{seconds}{same}{changed}")
    say(f"labels: {session.out / 'labels.jsonl'}")
    waiting = session.material.waits_for
    if waiting and session.results.kept_away:
        tell(f"{waiting} holds labels that were not made here, and was left as it is.")
    elif waiting and waiting.exists():
        tell(f"{waiting} has them, too. Next: {resume_command(session.material.path)}")
