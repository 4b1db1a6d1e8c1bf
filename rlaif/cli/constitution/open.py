"""`rlaif constitution open`."""

from __future__ import annotations

from typing import Annotated

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
from rlaif.cli.constitution.try_ import (
    NumPairs,
    PairFile,
    Policy,
    PromptFile,
    Seed,
    pairs_told,
    share_cores,
)
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Progress, say, tell


@constitution_app.command("open")
def constitution_open(
    path: ConstitutionFile,
    judge: JudgeName,
    policy: Policy = None,
    prompts: PromptFile = None,
    pairs: PairFile = None,
    num_pairs: NumPairs = 40,
    seed: Seed = 0,
    few_shot: FewShot = None,
    set_: JudgeSet = None,
    templates: TemplateSet = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any free port.")] = 0,
    trust: Trust = False,
) -> None:
    """Edit a constitution in the browser and see which verdicts each save changes; on this machine only.
    A file that cannot be loaded is opened, too, and judged once it can be."""
    from rlaif.pages.server import PageServer
    from rlaif.workbench.editor import Editor, static_files
    from rlaif.workbench.judges import Named, PairSource, policy_named
    from rlaif.workbench.probe import Probe
    from rlaif.workbench.watching import Watch

    share_cores()
    static_files()  # what is missing is said before anything is asked
    tell("loading …")
    named = Named.of(judge, set_ or [], path, templates_of_model(judge, templates)).with_prompts(prompts)
    wanted = policy_named(policy, trust) if policy else named.policy
    source = PairSource.of(named, pairs, wanted, number=num_pairs, seed=seed)
    probe = Probe(named.open(few_shot), (), named.config.feedback.place, Progress)
    watch = Watch(path, probe, lambda rules: pairs_told(named, rules, source))
    editor = Editor(watch, judge, named.prompts, tell)
    editor.file()  # what is no text is refused, and what is no constitution is opened
    with Progress("verdicts", 1) as tick:
        watch.open()
        tick()
    for failed in watch.history:
        tell(f"It cannot be loaded yet, and is judged once it can be:\n{failed.error}")
    server = PageServer(editor.site(), port)
    editor.follow()
    say(f"{path} is open at {server.address}")
    tell("Whoever has this address can change the file. Ctrl-C ends.")
    server.run()
