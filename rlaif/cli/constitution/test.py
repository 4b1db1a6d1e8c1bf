"""`rlaif constitution test`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.arguments import ConstitutionFile, FewShot, JudgeName, JudgeSet, TemplateSet
from rlaif.cli.groups import constitution_app
from rlaif.cli.terminal import Json, emit, page_at, say, tell
from rlaif.records import TIE_MARGIN

if TYPE_CHECKING:
    from rlaif.workbench.example_tests import ExampleResult


@constitution_app.command("test")
def constitution_test(
    path: ConstitutionFile,
    judge: JudgeName,
    select: Annotated[
        str, typer.Option("-k", help='Parts of test ids and tags, as in "polite and not wording".')
    ] = "",
    failed_first: Annotated[
        bool, typer.Option("--failed-first", help="Ask what failed last time first.")
    ] = False,
    margin: Annotated[
        float,
        typer.Option(min=0.0, max=0.5, help="How far beyond ½ P(better) must be, both orders combined."),
    ] = TIE_MARGIN,
    few_shot: FewShot = None,
    set_: JudgeSet = None,
    templates: TemplateSet = "default",
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write JUnit XML.")] = None,
    as_json: Json = False,
) -> None:
    """Test principles by their examples: the judge must prefer the better response in both orders and under
    each wording. Exit code 1 where a test fails."""
    from rlaif.constitution import Constitution
    from rlaif.runs.storage import write_text
    from rlaif.workbench.example_report import TestReport, last_failed, remember
    from rlaif.workbench.example_tests import chosen, collect, run_tests, untested
    from rlaif.workbench.judges import Named

    xml = page_at(junit, "--junit", "tests.xml", (b"<?xml",)) if junit else None
    constitution, lines = Constitution.load_with_lines(path)
    tests = collect(constitution, lines)
    asked = chosen(tests, select, path) if select else tests
    tell("loading …")
    setting = Named.of(judge, set_ or [], path, templates).open(few_shot)
    if not as_json:
        say(f"{path}: {len(asked)} tests of {len(constitution.principles)} principles, judge {judge}")
    results: list[ExampleResult] = []
    started, first = time.monotonic(), last_failed(path) if failed_first else ()
    for result in run_tests(asked, constitution, setting, margin=margin, first=first):
        results.append(result)
        if not as_json:
            _dot(result, len(results), len(asked))
    order = {test.id: at for at, test in enumerate(asked)}
    ended = tuple(sorted(results, key=lambda result: order[result.test.id]))
    remember(path, ended, tests)
    report = TestReport(
        path,
        judge=setting.engine.fingerprint,
        results=ended,
        untested=() if select else tuple(untested(constitution)),
        left_out=len(tests) - len(asked),
        seconds=time.monotonic() - started,
    )
    if xml:
        write_text(xml, report.junit())
    if as_json:
        emit(report.as_dict())
    else:
        say("\n".join(report.lines()))
    if report.bad:
        raise typer.Exit(1)


def _dot(result: ExampleResult, done: int, total: int) -> None:
    """A mark a test, 60 a line, with how much is done."""
    from rlaif.workbench.example_report import MARKS

    print(MARKS[result.outcome], end="", flush=True)
    if done % 60 == 0 or done == total:
        print(f"{' ' * (-done % 60)}  [{100 * done // total:3}%]", flush=True)
