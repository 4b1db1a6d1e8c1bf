"""Constitutions with a known defect, on which the linter's recall is measured.

    python -m tests.lint_recall     the recall of each rule, for each part of the set

In `lint_defects/`, `first.yaml` was written together with the rules, `second.yaml` after they were frozen:
33 of its 40 were found then, and all once the rules had been mended by it. `third.yaml` was written after
that, and the rules have not been touched since: what is found of it is what to expect of other people's
files.
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rlaif.constitution import Constitution
from rlaif.prompting.templates import Templates
from rlaif.records import Prompt
from rlaif.workbench.lint import Finding, lint
from rlaif.workbench.lint.fit import judge_context

HERE = Path(__file__).parent / "lint_defects"
ROOT = HERE.parent.parent
CLEAN = ROOT / "constitutions/general.yaml"
JUDGE = ROOT / "rlaif/playground/weights/feedback"
PARTS = ("first", "second", "third")
FOUND = {"first": 40, "second": 40, "third": 21}  # of 40, 40 and 24
EXAMPLE = {
    "prompt": "What can I cook with lentils?",
    "better": "Lentil soup with carrots takes half an hour.",
    "worse": "Whatever. Look it up and leave me alone, you fool.",
}


@cache
def clean_constitution() -> Constitution:
    """The one whose principles the defects are planted among."""
    return Constitution.load(CLEAN)


@dataclass(frozen=True)
class Case:
    """A planted defect: the rule that has to find it, and what is planted."""

    name: str
    rule: str
    data: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """The constitution with the defect, among three clean principles drawn by the case's name."""
        clean = [p.model_dump(mode="json", exclude_defaults=True) for p in clean_constitution().principles]
        drawn = [] if self.data.get("alone") else random.Random(self.name).sample(clean, 3)
        for principle in drawn:
            principle.pop("applies_to", None)
        planted = [
            {"examples": [EXAMPLE], **p, "text": p["text"] * self.data.get("repeat", 1)}
            for p in self.data["principles"]
        ]
        path = folder / f"{self.name}.yaml"
        with path.open("w", encoding="utf-8") as file:
            yaml = YAML()
            yaml.indent(mapping=2, sequence=4, offset=2)
            yaml.dump({"name": self.name, "principles": [*drawn, *planted]}, file)
            file.write(self.data.get("raw", ""))
        return path

    def findings(self, folder: Path) -> list[Finding]:
        """What the linter says of it."""
        path = self.write(folder)
        asked = {"role": "user", "content": "How do I do this?"}
        rows = self.data.get("prompts", ())
        prompts = [Prompt.model_validate({"messages": [asked], **row}) for row in rows]
        context = None
        if self.data.get("judge"):
            context = judge_context(str(JUDGE), Templates.load("brief"), Constitution.load(path), prompts)
        return lint(path, prompts, context=context)

    def found(self, findings: list[Finding]) -> bool:
        """Whether the defect is among them, at the principle that has it."""
        last = self.data["principles"][-1]["id"] if self.data["principles"] else "a"
        owner = None if self.rule == "uncovered-prompts" else last
        return any(f.rule == self.rule and f.principle == owner for f in findings)


@cache
def cases(part: str) -> tuple[Case, ...]:
    """The cases of one file of `lint_defects/`."""
    path = HERE / f"{part}.yaml"
    rows = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) if path.exists() else []
    return tuple(Case(f"{part}-{n:02d}-{row['rule']}", row["rule"], row) for n, row in enumerate(rows))


@dataclass(frozen=True)
class Recall:
    """By rule: defects planted and found; which were missed; what else was found, by rule."""

    planted: Counter[str]
    found: Counter[str]
    missed: list[str]
    beside: list[str]


def recall(part: str) -> Recall:
    """The linter on every case of a part."""
    planted, found, missed, beside = Counter[str](), Counter[str](), [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(part):
            findings = case.findings(Path(folder))
            planted[case.rule] += 1
            found[case.rule] += case.found(findings)
            missed += [] if case.found(findings) else [case.name]
            ids = {p["id"] for p in case.data["principles"]} | {"a"}
            beside += [f"{case.name}: {f}" for f in findings if f.principle not in (ids | {None})]
    return Recall(planted, found, missed, beside)


def other_principles(data: Path) -> Iterator[tuple[str, list[str]]]:
    """The principles of other projects in the tests' data: instructions to rewrite, and traits."""
    folder = data / "constitutions"
    rows = json.loads((folder / "nemo_aligner/CritiqueRevisionInstructions.json").read_text())
    asked = [row["edit_request"] for row in rows.values() if isinstance(row, dict)]
    yield "revisions", [re.sub(r"\s*Revision(?:Request)?:\s*", "", text) for text in asked]
    for path in sorted((folder / "open_character_training").glob("*.txt")):
        if path.stem != "template":
            yield path.stem, [row["trait"] for row in json.loads(path.read_text())]


def found_in_others(data: Path) -> tuple[int, Counter[str]]:
    """(how many principles of other projects, what is found in them by rule, missing examples left out)."""
    count, found = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name, texts in other_principles(data):
            path = Path(folder) / f"{name}.yaml"
            with path.open("w", encoding="utf-8") as file:
                rows = [{"id": f"p{n}", "text": text} for n, text in enumerate(texts)]
                YAML().dump({"name": name, "principles": rows}, file)
            count += len(texts)
            found.update(finding.rule for finding in lint(path) if finding.rule != "no-example")
    return count, found


def main() -> None:
    """Print the table."""
    for part in PARTS:
        result = recall(part)
        total = sum(result.planted.values())
        print(f"{part}: {sum(result.found.values())} of {total} found")
        for name, count in sorted(result.planted.items()):
            print(f"  {name}: {result.found[name]} of {count}")
        for line in [*(f"missed {name}" for name in result.missed), *result.beside]:
            print(f"  {line}")

    if data := os.environ.get("RLAIF_TEST_DATA"):
        count, found = found_in_others(Path(data))
        print(f"{count} principles of other projects: {dict(found)}")


if __name__ == "__main__":
    main()
