"""The results of a constitution's tests: as text in pytest's manner, as JUnit XML, and what failed last
time."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rlaif.engines.gguf import cache_folder
from rlaif.errors import printable
from rlaif.records import content_hash
from rlaif.runs.storage import write_text
from rlaif.workbench.example_tests import ExampleResult, ExampleTest, chosen

MARKS = {"passed": ".", "failed": "F", "error": "E"}
WIDTH = 78
_NOT_XML = re.compile("[\ufffe\uffff]")  # what printable lets through and XML does not


@dataclass(frozen=True)
class TestReport:
    """All results of one file, in the order of the file; `left_out` counts the tests that were not asked, by
    the option that left them out."""

    __test__ = False  # no test of pytest's
    path: Path
    judge: str
    results: tuple[ExampleResult, ...]
    untested: tuple[str, ...]
    left_out: Mapping[str, int]
    seconds: float

    @property
    def counts(self) -> Counter[str]:
        """How many passed, failed, and could not be read."""
        return Counter(result.outcome for result in self.results)

    @property
    def bad(self) -> list[ExampleResult]:
        """The results that did not pass."""
        return [result for result in self.results if result.outcome != "passed"]

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "file": str(self.path),
            "judge": self.judge,
            "summary": {name: self.counts[name] for name in MARKS}
            | {"left_out": sum(self.left_out.values())},
            "untested": list(self.untested),
            "tests": [result.as_dict() for result in self.results],
        }

    def lines(self) -> Iterator[str]:
        """What follows the dots."""
        if self.bad:
            yield ruled("FAILURES")
        for result in self.bad:
            yield from _told(result, self.path)
        if self.bad:
            yield ruled("short test summary")
        for result in self.bad:
            kind = "FAILED" if result.outcome == "failed" else "ERROR"
            yield f"{kind} {self.path}:{result.test.line} {result.test.id} - {result.why}"
        for principle in self.untested:
            yield f"UNTESTED {principle} - it has no example"
        yield ruled(self._summary())

    def _summary(self) -> str:
        words = {"failed": "failed", "error": "not readable", "passed": "passed"}
        parts = [f"{self.counts[name]} {said}" for name, said in words.items() if self.counts[name]]
        parts += [f"principles without an example: {len(self.untested)}"] if self.untested else []
        parts += [f"{n} left out by {option}" for option, n in self.left_out.items()]
        return f"{', '.join(parts)} in {self.seconds:.1f} s"

    def junit(self) -> str:
        """JUnit XML: a test case a test, in a class a principle."""
        suite = ElementTree.Element(
            "testsuite",
            name=_xml(str(self.path)),
            tests=str(len(self.results) + len(self.untested)),
            failures=str(self.counts["failed"]),
            errors=str(self.counts["error"]),
            skipped=str(len(self.untested)),
            time=f"{self.seconds:.3f}",
        )
        for result in self.results:
            case = _case(suite, result.test.principle.id, result.test.id.partition("::")[2], self.path)
            case.set("line", str(result.test.line))
            if result.outcome != "passed":
                kind = {"failed": "failure", "error": "error"}[result.outcome]
                found = ElementTree.SubElement(case, kind, message=_xml(result.why))
                found.text = _xml("\n".join(_told(result, self.path)))
        for principle in self.untested:
            ElementTree.SubElement(
                _case(suite, principle, "examples", self.path), "skipped", message="no example"
            )
        suites = ElementTree.Element("testsuites")
        suites.append(suite)
        ElementTree.indent(suites)
        return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, principle: str, name: str, path: Path) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=principle, name=name, file=_xml(str(path)))


def _told(result: ExampleResult, path: Path) -> Iterator[str]:
    """A result that did not pass, with its texts."""
    test, asked = result.test, result.test.asked
    yield f"{test.id} ({path}:{test.line})"
    for name, text in (
        ("wording", asked.compare or asked.text),
        ("prompt", test.example.prompt),
        ("better", test.example.better),
        ("worse", test.example.worse),
    ):
        yield f"    {name:<8} {' '.join(text.split())}"
    yield f"    {result.why}"
    yield ""


def ruled(words: str) -> str:
    """A heading across the terminal."""
    return f" {words} ".center(WIDTH, "=")


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", printable(text))


@dataclass(frozen=True)
class Chosen:
    """The tests to ask; how many each option left out; and what to say of those that failed last time."""

    tests: Sequence[ExampleTest]
    left_out: Mapping[str, int]
    note: str = ""

    @classmethod
    def of(cls, tests: Sequence[ExampleTest], path: Path, select: str, only_failed: bool) -> Chosen:
        """The tests that the expression `select` names and, with `only_failed`, that did not pass last time.

        Where none of those named is known not to have passed, all of them are asked, as in pytest. Raises
        UserError where `select` names none.
        """
        named = chosen(tests, select, path) if select else list(tests)
        by_name = {"-k": len(tests) - len(named)} if len(named) < len(tests) else {}
        if not only_failed:
            return cls(named, by_name)
        before = set(last_failed(path))
        failed = [test for test in named if test.id in before]
        if not failed:
            of = "tests that -k names" if select else "file's tests"
            note = f"--last-failed: none of the {of} is known not to have passed last time; all are asked"
            return cls(named, by_name, note)
        others = len(named) - len(failed)
        note = f"--last-failed: {len(failed)} did not pass last time and are asked again; {others} left out"
        return cls(failed, by_name | ({"--last-failed": others} if others else {}), note)


def last_failed(path: Path) -> list[str]:
    """The ids that did not pass when the file's tests were last run on this machine."""
    try:
        found = json.loads(_memory(path).read_text(encoding="utf-8"))
        return [str(one) for one in found["failed"]]
    except (OSError, ValueError, KeyError, TypeError):  # never run, or a damaged note: nothing is known
        return []


def remember(path: Path, results: Sequence[ExampleResult], tests: Sequence[ExampleTest]) -> None:
    """Keep which of the file's `tests` do not pass; those that have no result are as they were."""
    ran = {result.test.id: result.outcome != "passed" for result in results}
    before = last_failed(path)
    failed = [test.id for test in tests if ran.get(test.id, test.id in before)]
    file = _memory(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"file": str(path.resolve()), "failed": failed}))


def _memory(path: Path) -> Path:
    return cache_folder() / "tests" / f"{content_hash(str(path.resolve()))}.json"
