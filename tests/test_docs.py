"""The pages of docs/ name only what exists, and every page of results is named by another one."""

import re
from pathlib import Path

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
