"""`rlaif data import` and `export`: the format in front or left out, columns, annotators, what is not
there, and what is printed."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.human.exporters import writable

ROW = {"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: q\n\nAssistant: y"}
COLUMNS = ["--column", "prompt=q", "--column", "first=x", "--column", "second=y", "--column", "verdict=z"]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_text(json.dumps(ROW) + "\n")
    Path("more.jsonl").write_text(
        json.dumps({key: text.replace("q", "r") for key, text in ROW.items()}) + "\n"
    )
    Path("t.csv").write_text("q,x,y,z\nWhy?,So.,No.,x\n")


def told(*words: str) -> dict:
    done = CliRunner().invoke(
        app, ["data", "import", *words, "--out", "out", "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", [["hh", "x.jsonl"], ["x.jsonl"], ["./x.jsonl"]])
def test_the_format_may_be_left_out(words):
    assert (told(*words)["format"], told(*words)["kept"]) == ("hh", 1)


def test_further_files_are_more_of_the_same():
    found = told("x.jsonl", "more.jsonl")
    assert (found["in"], found["kept"], list(found["beside"])) == (2, 2, ["more.jsonl"])


def test_a_file_may_be_called_like_a_format():
    Path("hh").write_text(Path("x.jsonl").read_text())
    assert told("hh")["source"] == "hh"
    assert told("hh", "hh")["format"] == "hh"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hhr", "x.jsonl"], r'unknown format "hhr" — did you mean "hh"'),
        (["hh"], "a format, and no file"),
        (["none.jsonl"], r"none\.jsonl: no such file"),
        (["none.jsonl", "x.jsonl"], r"none\.jsonl: no such file"),
        (["hh", "x.jsonl", "none"], "none: no such file"),
        (["hh", "t.csv", *COLUMNS], "--column with the format hh"),
        (["t.csv", "--column", "prompt"], r'--column "prompt"'),
        (["t.csv", "--column", "prompts=q"], 'did you mean "prompt"'),
        (["x.jsonl", "--annotator", "ann"], r'--annotator "ann"'),
        (["t.csv"], "in no format that rlaif recognises"),
    ],
)
def test_what_is_wrong_is_one_message(words, message):
    with pytest.raises(UserError, match=message):
        told(*words)
    assert not Path("out").exists()


def test_other_columns_are_another_import_and_two_files_of_one_name_are_refused():
    told("t.csv", *COLUMNS)
    with pytest.raises(UserError, match=r"holds another import \(columns differ"):
        told("t.csv", *COLUMNS, "--column", "seconds=s")
    Path("sub").mkdir()
    Path("sub/x.jsonl").write_text(Path("more.jsonl").read_text())
    with pytest.raises(UserError, match="two files called x"):
        told("x.jsonl", "sub/x.jsonl")


def test_columns_and_who_labelled():
    assert told("t.csv", *COLUMNS, "--annotator", "ai:judge-1")["kept"] == 1
    label = json.loads(Path("out/labels.jsonl").read_text())
    assert (label["verdict"], label["annotator"]) == ("a", {"kind": "ai", "id": "judge-1"})


def test_counts_in_words_are_those_in_json():
    Path("t.csv").write_text("q,x,y,z\nWhy?,So.,No.,x\nWho?,I.,I.,x\nWhen?,Now.,Then.,tie\n")
    counts = told("t.csv", *COLUMNS)
    assert (counts["in"], counts["kept"], sum(counts["dropped"].values())) == (
        3,
        counts["kept"],
        3 - counts["kept"],
    )
    words = ["t.csv", *COLUMNS, "--out", "again"]
    lines = CliRunner().invoke(app, ["data", "import", *words], catch_exceptions=False).stdout.splitlines()
    assert lines[0] == f"t.csv, format table: {counts['kept']} of 3 rows kept"
    assert lines[1:-1] == [f"dropped: {n} × {why}" for why, n in counts["dropped"].items()]
    rows = counts["rows"]
    assert lines[-1] == "again: " + ", ".join(f"{n} {name}" for name, n in rows.items())
    assert rows["labels"] == len(Path("again/labels.jsonl").read_text().splitlines())


def test_a_format_that_is_none_is_listed_once():
    with pytest.raises(UserError) as error:
        writable("dpo")
    assert str(error.value).count("alpaca") == 1
    with pytest.raises(UserError, match='did you mean "trl"'):
        writable("trls")


def test_an_export_in_words_and_in_json():
    Path("t.csv").write_text("q,x,y,z\nWhy?,So.,No.,x\nWhen?,Now.,Then.,tie\n")
    told("t.csv", *COLUMNS)
    asked = ["data", "export", "out", "--format", "hh", "--out", "made.parquet"]
    counts = json.loads(CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout)
    assert (counts["in"], counts["kept"], sum(counts["dropped"].values())) == (2, 1, 1)
    (why,) = counts["dropped"]
    said = CliRunner().invoke(app, asked, catch_exceptions=False).stdout.splitlines()
    assert said == ["made.parquet, format hh: 1 of 2 rows kept", f"dropped: 1 × {why}", "card: made.md"]


@pytest.mark.parametrize("words", [["p.jsonl"], ["hh", "p.jsonl"], ["folder"], ["x.jsonl", "p.jsonl"]])
def test_a_pipe_is_refused_at_once(words):
    """It is read more than once, and to open one that nobody writes to waits for ever."""
    Path("folder").mkdir()
    os.mkfifo("p.jsonl")
    os.mkfifo("folder/p.jsonl")
    with pytest.raises(UserError, match=r"p\.jsonl: a pipe, not a file"):
        told(*words)
    with pytest.raises(UserError, match="a device, not a file"):
        told("/dev/zero")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["agree", "p.jsonl"],
        ["annotate", "p.jsonl"],
        ["data", "lint", "p.jsonl"],
        ["data", "export", "p.jsonl", "--format", "trl", "--out", "o.jsonl"],
        ["constitution", "induce", "p.jsonl", "--candidates", "c.yaml"],
        ["constitution", "executors", "c.yaml", "--labels", "p.jsonl"],
        ["constitution", "executors", "c.yaml", "--run", "rows"],
    ],
)
def test_no_command_waits_for_a_pipe(words):
    Path("c.yaml").write_text("name: c\nprinciples:\n  - {id: p, text: Be good.}\n")
    os.mkfifo("p.jsonl")
    Path("rows").mkdir()
    for name in ("prompts", "responses", "comparisons"):
        os.mkfifo(f"rows/{name}.jsonl")
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError)
    assert "a pipe, not a file" in str(done.exception)
