"""`rlaif chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.arguments import Trust
from rlaif.cli.groups import app
from rlaif.cli.terminal import Progress, say, tell, typed_lines

if TYPE_CHECKING:
    from rlaif.chat import ChatResponse, Conversation

HELP = (
    "/reset forgets the turns · /system TEXT sets the system prompt (alone: none) and forgets the turns · "
    "/seed N · /quit"
)


@app.command(rich_help_panel="The loop")
def chat(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="RUN, RUN:POLICY (as `rlaif show` names them), or a model; several side by side."
        ),
    ],
    judge: Annotated[
        bool, typer.Option("--judge", help="Show each principle's verdict of the first run's judge.")
    ] = False,
    system: Annotated[str, typer.Option(help="The system prompt.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed and turns, the same responses.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 = the likeliest token.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a response.")] = 256,
    trust: Trust = False,
) -> None:
    """Talk to a policy, or to several side by side; each line is a turn, from a terminal or a pipe."""
    from rlaif.chat import open_conversation

    tell("loading …")
    talk = open_conversation(
        policies, judge, seed=seed, temperature=temperature, max_tokens=max_tokens, trust=trust
    )
    talk.system, talk.progress = system, Progress
    if sys.stdin.isatty():
        tell(HELP)
    for line in typed_lines():
        if line.startswith("/"):
            if line.split()[0] in ("/quit", "/exit"):
                return
            tell(_run_command(talk, line))
        elif line.strip():
            for said in talk.ask(line):
                say(_as_text(said))


def _run_command(talk: Conversation, line: str) -> str:
    """Do what a line that begins with / asks for; what to say of it."""
    command, _, value = line.partition(" ")
    value = value.strip()
    if command == "/reset":
        talk.reset()
        return "The turns are forgotten."
    if command == "/system":
        talk.system = value
        talk.reset()
        return "The system prompt is set." if value else "There is no system prompt now."
    if command == "/seed" and value.removeprefix("-").isdecimal():
        talk.seed = int(value)
        return f"The seed is {talk.seed}."
    return HELP


def _as_text(said: ChatResponse) -> str:
    """A response with its policy; its further lines are set in, so that none looks like another policy's."""
    if said.text is None:
        return f"{said.name}: (no response: {said.why})"
    lines = [f"{said.name}: {said.text}".replace("\n", "\n    ")]
    lines += [f"    ({said.why})"] if said.why else []
    lines += [f"    {principle}: {_verdict(kept)}" for principle, kept in said.verdicts.items()]
    return "\n".join(lines)


def _verdict(kept: float | None) -> str:
    """The judge's probability that a principle is kept, in a word."""
    return "no verdict" if kept is None else f"{'kept' if kept >= 0.5 else 'broken'}, {kept:.2f}"
