"""A second annotator, as docs/annotate.md says: at once, one after another, what both get, where it goes."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.runs.seeds import derive_seed
from tests.annotating import rows, write_file
from tests.test_annotate_kills import Client

ROOT = Path(__file__).parent.parent
ITEMS = 40
RANKS = ([1, 2], [2, 1])


class Chooser(Client):
    """Chooses, and neither skips nor takes back."""

    def run(self):
        state = self.until_answered("GET", f"/api/state?annotator={self.name_}")
        while task := state["task"]:
            action = {"annotator": self.name_, "step": state["step"], "kind": "choice", "task": task["id"]}
            state = self.until_answered("POST", "/api/act", {**action, "ranks": self.rng.choice(RANKS)})


def commands() -> list[list[str]]:
    """The words of the lines of the section's block, without their comments."""
    section = (ROOT / "docs" / "annotate.md").read_text().split("## A second annotator")[1]
    return [shlex.split(line, comments=True) for line in section.split("```")[1].strip().splitlines()]


def started(words: list[str], folder: Path) -> tuple[subprocess.Popen[str], dict]:
    """The command, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rlaif.cli", *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    port, token = re.search(r":(\d+)/\?token=(\S+)", process.stdout.readline()).groups()
    return process, {"address": (int(port), token)}


def ended(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert process.returncode in (0, 130)
    return told


def test_two_people_at_once_then_one_after_another_and_how_far_they_agree(tmp_path, monkeypatch):
    write_file(tmp_path / "pairs.jsonl", items=ITEMS)
    at_once, later, agree = commands()
    assert (at_once[:3], later[-2:], agree[1]) == (
        ["rlaif", "annotate", "pairs.jsonl"],
        ["--annotator", "ben"],
        "agree",
    )
    process, where = started(at_once, tmp_path)
    people = [Chooser("ann", where), Chooser("ben", where)]
    for person in people:
        person.start()
    for person in people:
        person.join(60)
        assert not person.is_alive()
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, later[1:])  # while the first one runs
    assert isinstance(refused.exception, UserError)
    assert "pairs-annotations" in str(refused.exception)
    told = ended(process)
    assert "ann: " in told
    assert "ben: " in told
    process, where = started(later, tmp_path)
    assert Client("ben", where).until_answered("GET", "/api/state?annotator=ben")["task"] is None
    assert ended(process).count("labels: pairs-annotations/labels.jsonl") == 1
    labels = rows(tmp_path / "pairs-annotations" / "labels.jsonl")
    assert {row["annotator"]["id"] for row in labels} == {"ann", "ben"}
    given = Counter(row["comparison_id"] for row in labels)
    shared = {pair for pair in given if derive_seed(0, "overlap", pair) / 2**31 < 0.2}
    assert given == {pair: 1 + (pair in shared) for pair in given}
    assert (len(given), 2 < len(shared) < 16) == (ITEMS, True)  # about a fifth
    done = CliRunner().invoke(app, agree[1:], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.startswith("2 annotators agree in ")
