"""Rows that are not whole: left out and told while a stage is being written, damage in a finished one; and
what no row begins with is refused by every command that reads it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.errors import UserError
from rlaif.human.annotated import read_annotated
from rlaif.human.exporters import export_file
from rlaif.human.labelled import own_rows
from rlaif.human.linting import lint
from rlaif.records import Label
from rlaif.report.compare import compare
from rlaif.report.lineage import lineage
from rlaif.report.report import write_report
from rlaif.report.story import story
from rlaif.report.summary import summarise
from rlaif.runs.folder import Run
from rlaif.runs.lookup import CutRowWarning, complete_lines
from rlaif.runs.storage import read_json, write_json
from rlaif.workbench.pairs import read_pairs
from tests.fake_run import fake_run

GARBAGE = b"\xff\x00\x9c binary"
LABELS, PREFERENCES = "06_label/labels.jsonl", "06_label/preferences.jsonl"
EVALUATION = "09_evaluate/evaluation.jsonl"


@pytest.fixture
def run(tmp_path):
    return fake_run(tmp_path / "run", prompts=60)


def begin_again(run: Path, stage: str) -> None:
    """The stage as a killed process leaves it."""
    path = run / stage / "stage.json"
    write_json(path, read_json(path) | {"status": "running"})


def add(path: Path, rest: bytes) -> int:
    """Put bytes behind the last row; the number of their line."""
    path.write_bytes(path.read_bytes() + rest)
    return len(path.read_bytes().splitlines())


READERS = [
    (EVALUATION, lambda run: compare([run, run.with_name("other")])),
    (EVALUATION, write_report),
    (LABELS, lambda run: read_annotated([run])),
    (LABELS, lambda run: read_pairs(run).labels),
    (LABELS, lambda run: lint([run])),
    (LABELS, lambda run: lineage(run, "00")),
    (LABELS, lambda run: story(run, "00")),
    (LABELS, lambda run: export_file(run, "trl", run.with_name("out.jsonl"))),
    (PREFERENCES, lambda run: export_file(run, "trl", run.with_name("out.jsonl"))),
    (PREFERENCES, lambda run: Run.load(run).dataset("preferences")),
]


@pytest.mark.parametrize(("file", "read"), READERS)
@pytest.mark.parametrize("alone", [True, False])
def test_what_no_row_begins_with_is_refused_with_its_line(run, file, read, alone):
    fake_run(run.with_name("other"), 1, prompts=60)
    begin_again(run, Path(file).parts[0])
    if alone:
        (run / file).write_bytes(b"")
    line = add(run / file, GARBAGE)
    with pytest.raises(UserError, match=rf"{file}:{line}: damaged row \(it ends in '.*binary', which is no"):
        read(run)


def test_a_row_that_a_kill_cut_short_is_left_out_and_told(run):
    fake_run(run.with_name("other"), 1, prompts=60)
    begin_again(run, "09_evaluate")
    before = compare([run, run.with_name("other")])
    line = add(run / EVALUATION, b'{"v":1,"id":"ab')
    with pytest.warns(CutRowWarning, match=f"{EVALUATION}:{line}: the row is not whole and is left out"):
        assert compare([run, run.with_name("other")]) == before
    told = "last row of evaluation.jsonl, which is not whole"
    assert summarise(run)["stages"][8]["dropped"] == {told: 1}
    with pytest.warns(CutRowWarning):
        assert f"The last row of {EVALUATION} is not whole" in write_report(run).read_text()


def test_the_commands_say_it_on_a_line(run):
    begin_again(run, "06_label")
    line = add(run / LABELS, b'{"v":1,"id":"ab')
    command = [sys.executable, "-m", "rlaif", "agree", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count(f"Note: {run / LABELS}:{line}: the row is not whole and is left out") == 1


@pytest.mark.parametrize("rest", [b'{"v":1,"id":"ab', b"{", GARBAGE])
def test_a_finished_stage_ends_in_whole_rows(run, rest):
    add(run / EVALUATION, rest)
    for read in (summarise, write_report, lambda run: read_annotated([run])):
        with pytest.raises(UserError, match=f"{EVALUATION}: its last row is not whole"):
            read(run)


@pytest.mark.parametrize("rest", [b"{", b'{"v":1,"text":"\xc3', b'{"v":1\0\0', b"\0\0\0"])
def test_what_a_kill_or_a_power_cut_leaves_is_a_row_that_is_not_whole(tmp_path, rest):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id":"a"}\n' + rest)
    with pytest.warns(CutRowWarning, match=r"rows\.jsonl:2: "):
        assert list(complete_lines(path)) == [b'{"id":"a"}\n']


def test_one_label_without_an_end_of_line_is_still_a_label(run, tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_bytes((run / LABELS).read_bytes().splitlines()[0])
    assert own_rows(path) is Label
    path.write_text("\ufeff" + json.dumps({"ranks": [1], "response_ids": ["a"]}), encoding="utf-8")
    assert own_rows(path) is not None
    path.write_bytes(GARBAGE)
    assert own_rows(path) is None
