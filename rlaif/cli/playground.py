"""`rlaif playground`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.groups import playground_app
from rlaif.cli.terminal import emit, tell


@playground_app.command("build")
def playground_build(
    out: Annotated[Path, typer.Argument(help="Folder for the two models.")],
    seed: Annotated[int, typer.Option(help="Everything follows from it.")] = 0,
    scale: Annotated[
        float, typer.Option(help="Share of the full training; below 1 the floors are not met.")
    ] = 1.0,
) -> None:
    """Train the playground's policy and feedback model from scratch and print what they can do."""
    from rlaif.playground.builder import build

    emit(build(out, seed=seed, scale=scale, progress=tell))


@playground_app.command("sample")
def playground_sample(
    count: Annotated[int, typer.Option("-n", help="How many.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed, the same sample.")] = 0,
) -> None:
    """Print prompts and responses of the small world with the gold scorer's verdicts."""
    from rlaif.playground.world import show_samples

    for line in show_samples(count, seed):
        print(line)


@playground_app.command("text")
def playground_text(
    out: Annotated[Path, typer.Argument(help="Folder for text.jsonl and demonstrations.jsonl.")],
    texts: Annotated[int, typer.Option(min=1, help="Texts to pretrain on.")] = 100000,
    demonstrations: Annotated[int, typer.Option(min=1, help="Questions with a response.")] = 30000,
    seed: Annotated[int, typer.Option(help="Everything follows from it.")] = 0,
) -> None:
    """Write the playground's corpus, from which configs/pretrain.yaml makes a policy of random weights."""
    from rlaif.playground.texts import write_texts

    emit(write_texts(out, texts, demonstrations, seed))
