"""`rlaif constitution test`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.arguments import (
    ConstitutionFile,
    FewShot,
    JudgeName,
    JudgeSet,
    TemplateSet,
    templates_of_model,
)
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, emit, page_at, say, tell
from rlaif.records import TIE_MARGIN

if TYPE_CHECKING:
    from rlaif.workbench.example_tests import ExampleResult

FailedFirst = Annotated[
    bool,
    typer.Option("--failed-first", "--ff", help="Ask first what did not pass last time, then the others."),
]
LastFailed = Annotated[
    bool,
    typer.Option(
        "--last-failed", "--lf", help="Ask only what did not pass last time; all where everything passed."
    ),
]


@constitution_app.command("test")
def constitution_test(
    path: ConstitutionFile,
    judge: JudgeName,
    select: Annotated[
        str, typer.Option("-k", help='Parts of test ids and tags, as in "polite and not wording".')
    ] = "",
    failed_first: FailedFirst = False,
    last_failed: LastFailed = False,
    margin: Annotated[
        float,
        typer.Option(min=0.0, max=0.5, help="How far beyond ½ P(better) must be, both orders combined."),
    ] = TIE_MARGIN,
    few_shot: FewShot = None,
    set_: JudgeSet = None,
    templates: TemplateSet = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write JUnit XML.")] = None,
    as_json: Json = False,
) -> None:
    """Test principles by their examples: the judge must prefer the better response in both orders and under
    each wording. Exit code 1 where a test fails."""
    from rlaif.constitution import Constitution
    from rlaif.runs.storage import write_text
    from rlaif.workbench import example_report as report
    from rlaif.workbench.example_tests import collect, run_tests, untested
    from rlaif.workbench.judges import Named

    asked_with = templates_of_model(judge, templates)
    xml = page_at(junit, "--junit", "tests.xml", (b"<?xml",)) if junit else None
    constitution, lines = Constitution.load_with_lines(path)
    tests = collect(constitution, lines)
    chosen = report.Chosen.of(tests, path, select, last_failed)
    if chosen.note:
        tell(chosen.note)
    tell("loading …")
    setting = Named.of(judge, set_ or [], path, asked_with).open(few_shot)
    if not as_json:
        say(f"{path}: tests: {len(chosen.tests)}, principles: {len(constitution.principles)}, judge: {judge}")
    started, first = time.monotonic(), report.last_failed(path) if failed_first else ()
    asked = run_tests(chosen.tests, constitution, setting, margin=margin, first=first)
    results = asked if as_json else _dotted(asked, len(chosen.tests))
    order = {test.id: at for at, test in enumerate(chosen.tests)}
    ended = tuple(sorted(results, key=lambda result: order[result.test.id]))
    report.remember(path, ended, tests)
    told = report.TestReport(
        path,
        judge=setting.engine.fingerprint,
        results=ended,
        untested=() if select or chosen.left_out else tuple(untested(constitution)),
        left_out=chosen.left_out,
        seconds=time.monotonic() - started,
    )
    if xml:
        write_text(xml, told.junit())
    if as_json:
        emit(told.as_dict())
    else:
        say("\n".join(told.lines()))
    if told.bad:
        raise typer.Exit(1)


def _dotted(results: Iterable[ExampleResult], total: int) -> Iterator[ExampleResult]:
    """The results, each printed as a mark, 60 a line, with how much is done."""
    from rlaif.workbench.example_report import MARKS

    for done, result in enumerate(results, start=1):
        print(MARKS[result.outcome], end="", flush=True)
        if done % 60 == 0 or done == total:
            print(f"{' ' * (-done % 60)}  [{100 * done // total:3}%]", flush=True)
        yield result
