"""`rlaif constitution induce`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rlaif.cli.arguments import (
    DrawnPairs,
    DrawSeed,
    JudgeSet,
    KeepLabels,
    RunTemplates,
    refuse_beside_config,
)
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, Progress, emit, page_at, say, tell

WHAT = "A run or one of its label stages, an imported folder, a labels.jsonl beside its pairs, or other data."


@constitution_app.command("induce")
def constitution_induce(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help=WHAT)],
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A constitution file of candidate principles.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|CONFIG",
            help="The judge: asked for verdicts that are not stored, and for proposals.",
        ),
    ] = None,
    propose: Annotated[
        int,
        typer.Option(min=0, help="Without candidates: pairs from which the judge's model proposes some."),
    ] = 64,
    most: Annotated[int, typer.Option(min=1, help="Proposed candidates to keep.")] = 24,
    by: Annotated[
        Literal["human", "ai", "simulated"] | None,
        typer.Option(help="Whose labels to explain; omitted = people's, if any."),
    ] = None,
    pairs: DrawnPairs = 0,
    seed: DrawSeed = 0,
    set_: JudgeSet = None,
    templates: RunTemplates = None,
    keep: KeepLabels = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was found as a constitution file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the principles that explain labels: weights, held-out agreement, and a constitution of them."""
    from rlaif.report.run_reader import plain
    from rlaif.runs.storage import write_text
    from rlaif.workbench.induce import MARK, CandidateSources, induce

    if judge:
        refuse_beside_config(judge, templates)
    path = page_at(out, example="found.yaml", begins=(MARK.lower().encode(),)) if out else None
    tell("reading the labels …")
    sources = CandidateSources(
        candidates,
        judge,
        overrides=tuple(set_ or ()),
        templates=templates,
        propose=propose,
        most=most,
        keep=keep,
    )
    found = induce(labels, sources, by, most_pairs=pairs, seed=seed, progress=Progress)
    if path:
        write_text(path, found.constitution_text())
    if as_json:
        emit(plain(found.figures))
        return
    for line in lines(found.figures):
        say(line)
    if path:
        say(path)


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """The result in sentences: held-out agreement, the chosen principles, and what says the same as these."""
    from rlaif.pages.page import ci, fixed, signed

    held, rows = figures["held_out"], figures["candidates"]
    yield (
        f"{figures['labels']} labels ({figures['target']}), {figures['groups']} {figures['over']}; "
        f"{len(rows)} candidates."
    )
    for reason, n in figures["left_out"].items():
        yield f"left out: {n} × {reason}"
    chosen = sorted((row for row in rows if row["chosen"]), key=lambda row: row["chosen"])
    for row in chosen:
        own, decides = row["agreement"], fixed(row["decides"]["value"])
        yield (
            f"{row['chosen']}. {row['id']}: weight {fixed(row['weight'])} {ci(row['weight_ci'])}, beside "
            f"length {fixed(row['weight_beside_length'])}; decides {decides}, then right in "
            f"{fixed(own['value'])} {ci(own['ci'])} of {own['n']}; "
            f"chosen in {row['chosen_in_folds']} of {held['folds']} folds. {row['text']}"
        )
    if not chosen:
        yield "No candidate explains the labels."
    for row in rows:
        if not row["chosen"] and row["alike"] and row["alike"]["r"] >= 0.5:
            r = fixed(row["alike"]["r"])
            yield f"{row['id']} is left out: its verdicts are like those of {row['alike']['id']} (r {r})."
    yield (
        f"held-out agreement: {fixed(held['agreement']['value'], 3)} {ci(held['agreement']['ci'], 3)} of "
        f"{held['agreement']['n']}; over chance {signed(held['over_chance']['value'], 3)} "
        f"{ci(held['over_chance']['ci'], 3)}; length alone {fixed(held['length']['value'], 3)} "
        f"{ci(held['length']['ci'], 3)}, over it {signed(held['over_length']['value'], 3)} "
        f"{ci(held['over_length']['ci'], 3)}"
    )
