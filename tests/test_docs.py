"""The pages of docs/ name only what exists, and every page of results is named by another one."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from tests.launching import parse_command

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def links(page: Path) -> list[Path]:
    found = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    return [(page.parent / name).resolve() for name in found]


def test_links_and_scripts_of_the_pages_exist():
    for page in PAGES:
        named = re.findall(r"(?:python|`)\s?((?:benchmarks|tests|tests_vllm)/[\w/]+\.\w+)", page.read_text())
        missing = [path for path in [*links(page), *(ROOT / name for name in named)] if not path.exists()]
        assert not missing, page


def test_every_page_of_results_is_named_by_another():
    named = {path for page in PAGES for path in links(page)}
    assert {page for page in PAGES if page.parent.name == "results"} <= named


def names_in(file: Path) -> set[str]:
    """Functions, classes and constants of a module, members of its classes as Class.member."""
    text = file.read_text()
    if file.suffix != ".py":
        return set(re.findall(r"(?:function|class|const|let|macro) (\w+)", text))

    def named(body: list[ast.stmt], before: str = "") -> set[str]:
        found = set()
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(before + node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {before + target.id for target in targets if isinstance(target, ast.Name)}
            if isinstance(node, ast.ClassDef):
                found |= named(node.body, f"{node.name}.")
        return found

    return named(ast.parse(text).body)


def test_the_table_of_changes_names_what_exists():
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split("## Where to change what\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    found = {row: re.findall(r"`([\w/]+(?:\.html)?\.(?:py|js|j2))(?:: ([\w., ]+))?`", row) for row in rows}
    assert rows
    assert not [row for row, places in found.items() if not places and not row.startswith("| **")]
    for file, names in [place for places in found.values() for place in places]:
        assert (ROOT / "rlaif" / file).is_file(), file
        missing = set(names.split(", ")) - {""} - names_in(ROOT / "rlaif" / file)
        assert not missing, (file, missing)
    for folder in re.findall(r"`([\w/]+/)`", "\n".join(rows)):
        assert (ROOT / "rlaif" / folder).is_dir() or (ROOT / folder).is_dir(), folder


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line of a block of commands that begins with rlaif."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash)?\n(.*?)```", page.read_text(), re.S):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, line) for line in lines if line.startswith(("rlaif ", ".venv/bin/rlaif "))]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_of_a_page_is_one_that_the_program_takes(page, command):
    """Its arguments and options are there; what they name need not be."""
    words = shlex.split(command, comments=True)[1:]
    for end in ("||", "&&", "|", ">", "&"):
        words = words[: words.index(end)] if end in words else words
    parse_command(words)
