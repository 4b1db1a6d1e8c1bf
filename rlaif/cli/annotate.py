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

Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|FILE|FOLDER",
        help="A run or one of its label stages, a file of pairs, an imported folder.",
    ),
]
Name = Annotated[
    str, typer.Option("--annotator", help="Your name; omitted = the page asks each who opens it.")
]
QueueName = Annotated[
    str, typer.Option(help="Order: random, in-order, unsure, orders, principles, reward, judges.")
]
Rank = Annotated[bool, typer.Option("--rank", help="Rank all responses to a prompt, not pairs.")]
PerPrinciple = Annotated[
    bool, typer.Option("--per-principle", help="Ask under each principle, then on the whole.")
]
Reasons = Annotated[bool, typer.Option("--reasons", help="Ask for a reason before each choice.")]
Assist = Annotated[bool, typer.Option("--assist", help="Show the judge's verdict after each choice.")]
Most = Annotated[
    int | None, typer.Option("-n", "--limit", min=1, help="Only this many items, the queue's first.")
]
Overlap = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Share of items that every annotator gets; each other one goes to one of them."
    ),
]
Repeats = Annotated[float, typer.Option(min=0, max=1, help="Share of items that an annotator gets twice.")]
Blur = Annotated[
    list[str] | None, typer.Option(help="Tag of prompts whose texts are blurred at first; may be repeated.")
]
Rules = Annotated[
    Path | None, typer.Option(help="The constitution whose principles are shown; omitted = the run's.")
]
Labels = Annotated[
    list[Path] | None,
    typer.Option(help="More judges' labels on the same pairs: a run, folder or file; may be repeated."),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the labels; omitted = RUN/annotations, FILE-annotations.")
]
Seed = Annotated[int, typer.Option(help="Seed of the order of items and of responses.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 = any free port.")]


@app.command(rich_help_panel="The loop")
def annotate(
    path: Source,
    annotator: Name = "",
    queue: QueueName = "random",
    rank: Rank = False,
    per_principle: PerPrinciple = False,
    reasons: Reasons = False,
    assist: Assist = False,
    limit: Most = None,
    overlap: Overlap = 1.0,
    repeats: Repeats = 0.0,
    blur: Blur = None,
    constitution: Rules = None,
    labels: Labels = None,
    out: Out = None,
    seed: Seed = 0,
    port: Port = 0,
) -> None:
    """Label pairs or rank responses in the browser, on this machine only; runs read the labels. Several
    people open the address it prints, each under a name, or run the command one after another with
    --annotator; their labels go into one folder, and --overlap says how much all of them get."""
    from rlaif.constitution import Constitution
    from rlaif.human.annotating.desk import Settings
    from rlaif.human.annotating.grading import graded
    from rlaif.human.annotating.material import with_labels
    from rlaif.human.annotating.opening import open_material
    from rlaif.human.annotating.page import BLURRED, Session, folder_of
    from rlaif.runs.locking import locked

    if assist and (rank or repeats):
        # Nobody judged rankings, and who saw the verdict on a pair does not choose blind a second time.
        why = (
            "judges' verdicts are on pairs" if rank else "an item would come again once its verdict was seen"
        )
        raise UserError(
            f"--assist with {'--rank' if rank else '--repeats'}: {why}.",
            "pairs, each shown once",
            "leave one of the two out",
        )
    material = open_material(path, Constitution.load(constitution) if constitution else None, Progress)
    material = with_labels(material, labels) if labels else material
    blurred = frozenset(blur) if blur else BLURRED
    settings = Settings(
        queue,
        seed,
        overlap=overlap,
        repeats=repeats,
        per_principle=per_principle,
        assisted=assist,
        reasons=reasons,
        blurred=blurred,
    )
    folder = out or folder_of(material.path)
    with locked(folder):
        material = graded(material, folder, Progress) if queue == "reward" else material
        _serve(Session(material, folder, settings, ranking=rank, most=limit), annotator, port)


def _serve(session: Session, name: str, port: int) -> None:
    from rlaif.pages.server import PageServer

    server = PageServer(session.site(name, tell), port)
    for reason, number in (+session.material.left_out).items():
        tell(f"left out: {number} × {reason}")
    say(f"{len(session.desk.items)} items of {session.material.path}: {server.address}")
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
        said = [f"{done['items']} items", f"{done['skipped']} skipped"]
        if done["seconds_per_item"] is not None:
            said.append(f"{done['seconds_per_item']:.0f} s each")
        if done["repeated"]:
            said.append(f"{done['repeated_the_same']} of {done['repeated']} the same again")
        if done["opinions_seen"]:
            said.append(
                f"{done['changed_after']} of {done['opinions_seen']} changed after the judge's verdict"
            )
        say(f"{name}: {', '.join(said)}")
    say(f"labels: {session.out / 'labels.jsonl'}")
    waiting = session.material.waits_for
    if waiting and session.results.kept_away:
        tell(f"{waiting} holds labels that were not made here, and was left as it is.")
    elif waiting and waiting.exists():
        tell(f"{waiting} has them, too. Next: {resume_command(session.material.path)}")
