"""What `show`, `compare` and `judge audit` print, and every cell of their pages and of the report.

The texts are kept in tests/golden. The run folders and the card are written by hand (`tests.hand_made`),
so that a figure under another's name, of another policy or of another run is another text. What a change
of wording or of a figure alters is written anew by `RLAIF_GOLDEN=write pytest tests/test_shown.py`; read
its diff before it is committed.
"""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.audit import card as cards
from rlaif.cli import app
from rlaif.report.following import state as state_line
from rlaif.report.report import write_report
from rlaif.runs.catalog import list_runs
from rlaif.runs.folder import Run
from rlaif.runs.storage import read_json, write_json
from tests.hand_made import card, hand_made

GOLDEN = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    """The text is the one that is kept under that name."""
    path, lines = GOLDEN / f"{name}.txt", "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    if os.environ.get("RLAIF_GOLDEN") == "write":
        path.write_text(lines, encoding="utf-8")
    assert lines.splitlines() == path.read_text(encoding="utf-8").splitlines()


class Cells(HTMLParser):
    """The tables of a page as lines: a row's cells between bars, each table after an empty line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.row: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.lines.append("")
        elif tag == "tr":
            self.row = []
        elif self.row is not None and tag in ("td", "th"):
            self.row.append("")
        elif self.row and tag in ("small", "span"):
            self.row[-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self.row is not None:
            self.lines.append(" | ".join(" ".join(cell.split()) for cell in self.row))
            self.row = None

    def handle_data(self, data: str) -> None:
        if self.row:
            self.row[-1] += data


def cells(page: str) -> str:
    """The cells of a page's tables, and the titles of its charts' points."""
    parser = Cells()
    parser.feed(page)
    titles = [" ".join(found.split()) for found in re.findall(r"<title>(.*?)</title>", page)]
    return "\n".join([*parser.lines, "", *titles])


def printed(monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """What a command prints to stdout, on lines wide enough not to break."""
    monkeypatch.setenv("COLUMNS", "240")
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def first(tmp_path):
    return hand_made(tmp_path / "first")


def test_show(first, monkeypatch):
    monkeypatch.chdir(first.parent)
    check("show", printed(monkeypatch, "show", first.name))


@pytest.mark.parametrize(
    ("state", "shown", "said"),
    [
        (
            {"status": "failed", "error": "out of [memory]"},
            "failed",
            "ppo failed: out of [memory]\nNext: rlaif resume RUN; to change an option of the stage: "
            "rlaif resume RUN -s ppo.OPTION=VALUE\n",
        ),
        ({"status": "running"}, "interrupted", "Next: rlaif resume RUN\n"),
    ],
)
def test_show_says_how_an_unfinished_run_stands_as_runs_does_and_what_to_do(
    first, monkeypatch, state, shown, said
):
    path = first / "08_ppo" / "stage.json"
    kept = {key: value for key, value in read_json(path).items() if key not in ("in", "kept", "files")}
    write_json(path, kept | state)
    text = printed(monkeypatch, "show", first)
    assert said.replace("RUN", str(first)) in text
    assert re.search(rf"│ ppo +│ {shown} +│ 8.8 +│ +│ +│", text)
    assert "None" not in text
    assert f"{shown}: 08_ppo" in [row["status"] for row in list_runs(first.parent)]
    assert state_line(Run.load(first).stages[7]).startswith(f"08_ppo: {shown}")


def test_show_names_the_file_that_a_run_waits_for(first, monkeypatch):
    config, labels = read_json(first / "config.json"), first / "people.jsonl"
    next(s for s in config["stages"] if s["stage"] == "label")["human"] = {"file": str(labels)}
    write_json(first / "config.json", config)
    path = first / "06_label" / "stage.json"
    write_json(path, read_json(path) | {"status": "paused", "error": "waits"})
    text = printed(monkeypatch, "show", first)
    assert f"Next: write people's labels to {labels} (rlaif annotate {first} does), then rlaif resume" in text


def test_the_cells_of_the_report(first):
    check("report", cells(write_report(first).read_text(encoding="utf-8")))


def test_compare_and_the_cells_of_its_page(first, tmp_path, monkeypatch):
    second, page = hand_made(tmp_path / "second", second=True), tmp_path / "page.html"
    text = printed(monkeypatch, "compare", first, second, "--out", page, "--trust")
    check("compare", text.replace(str(tmp_path), "TMP"))
    check("comparison_page", cells(page.read_text(encoding="utf-8")).replace(str(tmp_path), "TMP"))


def test_judge_audit_and_the_cells_of_its_page(project, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "judge_card", lambda *_, **__: card())
    page = tmp_path / "card.html"
    text = printed(monkeypatch, "judge", "audit", project / "config.yaml", "--out", page)
    check("judge_audit", text.replace(str(tmp_path), "TMP"))
    check("judge_card", cells(page.read_text(encoding="utf-8")))
