"""docs/data-formats.md: its commands run, and its table says what the code says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from rlaif.human.formats import FORMATS
from rlaif.human.formats.tables import COLUMNS
from tests.fake_run import fake_run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "data-formats.md").read_text()


def test_the_commands_run_one_after_another(tmp_path):
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "rlaif"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m rlaif "$@"\n')
    command.chmod(0o755)
    fake_run(tmp_path / "runs" / "mine", prompts=24)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 4
    script = "set -eu\n" + "".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    labels = [json.loads(line) for line in (tmp_path / "people" / "labels.jsonl").open()]
    assert [label["verdict"] for label in labels] == ["a", "a", "b", "tie"]
    assert "found something" in done.stdout
    assert "leak: 2 of 2" in done.stdout
    assert {"findings", "longer_preferred"} <= json.loads((tmp_path / "found.json").read_text()).keys()
    for name in ("people.json", "preferences/README.md", "preferences.md", "to-look-at/README.md"):
        assert (tmp_path / name).exists(), name


def test_the_table_has_a_row_for_each_format():
    rows = [
        line.strip("|").split(" | ")
        for line in PAGE.splitlines()
        if line.startswith("| `") and line.count(" | ") == 4
    ]
    said = {row[0].strip(" `"): [cell.strip() for cell in (row[1], row[3], row[4])] for row in rows}
    assert said == {
        name: [format.title, "yes" if format.write or format.write_row else "no", format.loses]
        for name, format in FORMATS.items()
    }
    assert all(f"`{what}`" in PAGE for what in COLUMNS)
