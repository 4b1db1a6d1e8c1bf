"""`rlaif constitution try`."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlaif.cli.arguments import (
    ConstitutionFile,
    FewShot,
    JudgeName,
    JudgeSet,
    TemplateSet,
    Trust,
    templates_of_model,
)
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Progress, say, tell, typed_lines
from rlaif.errors import UserError, nearest

if TYPE_CHECKING:
    from rlaif.constitution import Constitution
    from rlaif.records import Prompt
    from rlaif.workbench.judges import Named, PairSource
    from rlaif.workbench.probe import Probe, ProbePair
    from rlaif.workbench.trying import Trial

HELP = (
    "a line is a prompt · /pick [WORDS] lists prompts, /pick N takes one · /only ID … limits critiques to "
    "principles · /seed N · /again · /quit"
)
SHOWN = 10  # prompts that /pick lists

Policy = Annotated[
    str | None,
    typer.Option(
        help="RUN, RUN:POLICY or a model, whose responses are tried; omitted = that of --judge's config."
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompts", help="Prompts that the policy responds to; omitted = the config's."),
]
PairFile = Annotated[
    Path | None,
    typer.Option("--pairs", help="Pairs to watch, as rows with prompt, a and b; omitted = the policy's."),
]
NumPairs = Annotated[int, typer.Option("--num-pairs", min=1, help="How many pairs to watch, at most.")]
Seed = Annotated[int, typer.Option(help="Seed of the policy's responses and of the draw of prompts.")]


@constitution_app.command("try")
def constitution_try(
    path: ConstitutionFile,
    judge: JudgeName,
    policy: Policy = None,
    prompts: PromptFile = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Judge a fixed set of pairs again on each save, and print what changed."
        ),
    ] = False,
    pairs: PairFile = None,
    num_pairs: NumPairs = 40,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature of the policy.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a response.")] = 256,
    few_shot: FewShot = None,
    set_: JudgeSet = None,
    templates: TemplateSet = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --watch: a line of JSON a save.")] = False,
) -> None:
    """Try a constitution on a prompt: responses, each principle's critique and revision, verdicts in both
    orders."""
    from rlaif.constitution import Constitution
    from rlaif.workbench.judges import Named, PairSource, policy_named
    from rlaif.workbench.probe import Probe
    from rlaif.workbench.trying import Trial

    _require_use(watch, as_json, pairs)
    share_cores()
    constitution = Constitution.load(path)
    tell("loading …")
    named = Named.of(judge, set_ or [], path, templates_of_model(judge, templates)).with_prompts(prompts)
    wanted = policy_named(policy, trust) if policy else named.policy
    if watch:
        source = PairSource.of(named, pairs, wanted, number=num_pairs, seed=seed)
        found = pairs_told(named, constitution, source)
        probe = Probe(named.open(few_shot), found, named.config.feedback.place, Progress)
        _watch(path, probe, as_json)
        return
    if wanted is None:
        raise UserError(
            f"--judge {judge}: a model, and no policy whose responses could be tried.",
            "a config as --judge, or a policy",
            f"rlaif constitution try {path} --judge {judge} --policy RUN:POLICY",
        )
    from rlaif.engines import open_engine

    trial = Trial(
        open_engine(wanted),
        named.open(few_shot),
        named.critique,
        seed=seed,
        temperature=temperature,
        max_tokens=max_tokens,
        names=(wanted.place, named.config.feedback.place),
        progress=Progress,
    )
    Session(path, trial, named.prompts).run()


def _require_use(watch: bool, as_json: bool, pairs: Path | None) -> None:
    """UserError for an option that says nothing without --watch."""
    if not watch and (as_json or pairs):
        raise UserError(
            f"{'--json' if as_json else '--pairs'} without --watch: a typed prompt has no use for it.",
            "a fixed set of pairs, judged again on each save",
            "add --watch, or leave it out",
        )


def share_cores() -> None:
    """Let the judge's threads sleep where they wait for each other, before torch is loaded.

    By default they spin, which beside a run that uses the same cores made an answer ten times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pairs_told(named: Named, constitution: Constitution, source: PairSource) -> list[ProbePair]:
    """The pairs to watch; says whose responses they are, and what was left out."""
    from rlaif.workbench.judges import probe_pairs

    found, left_out = probe_pairs(named, constitution, source, Progress)
    tell(f"{len(found)} pairs: {source.in_words}")
    for reason, n in left_out.items():
        tell(f"{n} × no pair: {reason}")
    return found


def _watch(path: Path, probe: Probe, as_json: bool) -> None:
    from rlaif.workbench.trying_text import saved_in_words
    from rlaif.workbench.watching import Watch

    watch = Watch(path, probe)
    with Progress(f"verdicts on {len(probe.pairs)} pairs", 1) as tick:
        first = watch.start()
        tick()
    tell(
        f"{path}: {len(probe.pairs)} pairs, {len(first.cells)} verdicts, {first.asked} questions asked in "
        f"{first.seconds:.1f} s. Save the file to see what changes; Ctrl-C ends."
    )
    for saved in watch.saves():
        if as_json:
            print(json.dumps(saved.as_dict()), flush=True)
        else:
            say("\n".join(saved_in_words(saved, probe.pairs)))
            sys.stdout.flush()


class Session:
    """What is typed, one prompt after the other; the constitution is read anew for each."""

    def __init__(self, path: Path, trial: Trial, prompts: list[Prompt]) -> None:
        self.path, self.trial, self.prompts = path, trial, prompts
        self.listed: list[Prompt] = []
        self.only: list[str] = []
        self.last: Prompt | None = None

    def run(self) -> None:
        """Answer lines until there are no more."""
        if sys.stdin.isatty():
            tell(HELP)
        for line in typed_lines():
            if line.split()[:1] in (["/quit"], ["/exit"]):
                return
            try:
                self._answer(line)
            except UserError as error:  # a save half done, or an unknown id: the next line may do
                tell(f"Error: {error}")

    def _answer(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word == "/pick":
            self._pick(rest.strip())
        elif word == "/again" and self.last:
            self._try(self.last)
        elif word == "/seed" and rest.strip().isdecimal():
            self.trial.seed = int(rest)
            tell(f"The seed is {self.trial.seed}.")
        elif word == "/only":
            self._limit(rest.split())
        elif word.startswith("/"):
            tell(HELP)
        elif word:
            self._try(_prompt(line.strip()))

    def _pick(self, words: str) -> None:
        if words.isdecimal() and 1 <= int(words) <= len(self.listed):
            self._try(self.listed[int(words) - 1])
            return
        found = [p for p in self.prompts if words.casefold() in p.messages[-1].content.casefold()]
        if not found:
            tell(
                f'No prompt has "{words}" in it.' if self.prompts else "There are no prompts: name --prompts."
            )
            return
        drawn = random.Random(f"{self.trial.seed} {words}").sample(found, min(SHOWN, len(found)))
        self.listed = drawn
        for number, prompt in enumerate(drawn, 1):
            tags = f"  [{', '.join(prompt.tags)}]" if prompt.tags else ""
            say(f"{number:>3}  {' '.join(prompt.messages[-1].content.split())[:100]}{tags}")
        if len(found) > SHOWN:
            say(f"     {len(found) - SHOWN} more: /pick WORDS narrows it down")

    def _limit(self, ids: list[str]) -> None:
        known = self._constitution().ids
        for one in ids:
            if one not in known:
                raise UserError(f'/only: no principle "{one}" in {self.path} — {nearest(one, known)}')
        self.only = ids
        tell(f"Critiques by {', '.join(ids)}." if ids else "Critiques by every principle that applies.")

    def _constitution(self) -> Constitution:
        from rlaif.constitution import Constitution

        return Constitution.load(self.path)

    def _try(self, prompt: Prompt) -> None:
        from rlaif.workbench.trying_text import indented, revised_in_words, verdicts_in_words

        constitution = self._constitution()
        self.last = prompt
        samples = self.trial.respond(prompt)
        for name, sample in zip("ab", samples, strict=True):
            say(
                f"{name}\n{indented(sample.text)}"
                if sample.why is None
                else f"{name}: no response: {sample.why}"
            )
        a, b = samples
        if a.why is None:
            chosen: list[Any] = constitution.applicable(prompt.tags)
            chosen = [p for p in chosen if not self.only or p.id in self.only]
            say("\n".join(revised_in_words(self.trial.revise(prompt, a.text, chosen))))
        if a.why is not None or b.why is not None:
            return
        if a.text == b.text:
            say("verdicts: none, both responses are the same; /seed N gives others")
            return
        say("\n".join(verdicts_in_words(self.trial.judge(prompt, a.text, b.text, constitution))))


def _prompt(text: str) -> Prompt:
    from rlaif.records import Message, Prompt

    return Prompt(messages=(Message(role="user", content=text),))
