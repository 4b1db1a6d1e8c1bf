"""A command's output takes the place of nothing but its own earlier output, and labels that say nothing are
refused before a judge is asked."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.cli.terminal import page_at
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.human import importers
from rlaif.human.exporters import export_file
from rlaif.human.importers import import_file
from rlaif.records import Annotator, Label
from rlaif.report.cards import export_with_card
from rlaif.runs.rows import RowFile, require_rows
from rlaif.workbench.pairs import judge_labels
from tests.annotating import Person, session, write_file
from tests.fake_run import fake_run
from tests.test_judge_compare import project


def _command(*words: object):
    return CliRunner().invoke(app, ["judge", "compare", *map(str, words)])


def _rewritten(path: Path, **fields: object) -> None:
    rows = [json.loads(line) | fields for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("content", ['{"verdict": "a"}\n', "name: mine\n", "\x00\x01"])
def test_a_page_replaces_no_labels_and_no_config(tmp_path, content):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(UserError, match="something else"):
        page_at(path)
    assert path.read_text() == content


def test_a_page_replaces_an_earlier_page_and_an_empty_file(tmp_path):
    for content in ("<!doctype html>\n<p>", "<!DOCTYPE html>", ""):
        path = tmp_path / "file"
        path.write_text(content)
        assert page_at(path) == path


def test_a_page_replaces_no_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="something else"):
            page_at(path)


@pytest.mark.parametrize("verdict", ["abstain", "invalid"])
def test_labels_without_a_verdict_are_refused_before_a_judge_is_asked(tmp_path, monkeypatch, verdict):
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    words = project(tmp_path, "counted")
    _rewritten(tmp_path / "labels.jsonl", verdict=verdict, p_a=None)
    found = _command(*words, "--out", tmp_path / "page.html")
    assert isinstance(found.exception, UserError)
    assert found.exception.code == 2
    assert "180 labels of people, and of none of 60 pairs" in str(found.exception)
    assert not (tmp_path / "asked").exists()


def test_people_who_never_agree_are_refused(tmp_path):
    words = project(tmp_path, "good")
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    split = {"ann": ("a", 1.0), "ben": ("b", 0.0)}
    rows = [row for row in rows if row["annotator"]["id"] in split]
    for row in rows:
        row["verdict"], row["p_a"] = split[row["annotator"]["id"]]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = _command(*words, "--out", tmp_path / "page.html")
    assert "60 pairs without a majority" in str(found.exception)


def test_verdicts_are_not_written_among_peoples_labels(tmp_path):
    """The folder of the verdicts is named as the page: `people.html` beside `people/labels.jsonl`."""
    people = tmp_path / "people"
    people.mkdir()
    words = project(people, "good")
    before = (people / "labels.jsonl").read_bytes()
    found = _command(*words, "--out", tmp_path / "people.html", "--num-pairs", 4)
    assert "which this command did not write" in str(found.exception)
    assert (people / "labels.jsonl").read_bytes() == before
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "labels.jsonl").write_bytes(before)
    assert _command(*words, "--out", tmp_path / "x.html", "--keep", lone, "--num-pairs", 4).exit_code
    assert (lone / "labels.jsonl").read_bytes() == before


def test_a_page_without_an_ending_has_its_verdicts_beside_it_and_goes_on(tmp_path):
    words = [*project(tmp_path, "good"), "--out", tmp_path / "page", "--num-pairs", 4]
    for _ in range(2):
        assert _command(*words).exit_code == 0
    assert (tmp_path / "page").is_file()
    assert (tmp_path / "page.verdicts" / "labels.jsonl").is_file()


def test_a_name_that_no_file_can_have_is_the_users_mistake(tmp_path):
    words = ["x" * 5000, *project(tmp_path, "good")]
    found = _command(*words, "--out", tmp_path / "page.html", "--num-pairs", 4)
    assert found.exit_code == 2
    assert "File name too long" in found.output


@pytest.mark.parametrize("stage", [False, True])
def test_what_a_judge_is_asked_is_not_kept_among_other_labels(tmp_path, stage):
    """`--keep people/labels.jsonl` appended the judge's labels to the people's, or to a run's."""
    config, *_ = project(tmp_path, "good")
    keep = tmp_path / "labels.jsonl"
    if stage:
        keep = tmp_path / "06_label" / "labels.jsonl"
        keep.parent.mkdir()
        keep.write_text("")
        (keep.parent / "stage.json").write_text("{}")
    before = keep.read_bytes()
    words = ["constitution", "executors", tmp_path / "c.yaml", "--labels", tmp_path / "labels.jsonl"]
    words += ["--judge", config, "--num-pairs", 4, "--keep"]
    found = CliRunner().invoke(app, [*map(str, words), str(keep)])
    assert "holds other labels" in str(found.exception)
    assert keep.read_bytes() == before
    for _ in range(2):  # one of its own is made, and gone on from
        assert CliRunner().invoke(app, [*map(str, words), str(tmp_path / "own.jsonl")]).exit_code == 0


def _table(path: Path, n: int = 4) -> Path:
    rows = [{"prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["prompts.jsonl", "notes.txt"])
def test_an_import_is_not_written_among_other_files(tmp_path, name):
    """The folder of a run has a prompts.jsonl, too."""
    source, out = _table(tmp_path / "x.jsonl"), tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine\n")
    with pytest.raises(UserError, match="not empty, and holds no import"):
        import_file(None, source, out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine\n"


@pytest.mark.parametrize("file", ["prompts", "labels"])
def test_an_import_that_was_killed_is_finished_by_the_same_call(tmp_path, monkeypatch, file):
    source = _table(tmp_path / "x.jsonl")
    import_file(None, source, tmp_path / "whole")

    def dies(partial: Path, final: Path) -> None:
        if final.stem == file:
            os._exit(9)
        os.replace(partial, final)

    if not (child := os.fork()):
        monkeypatch.setattr(importers, "move_into_place", dies)
        import_file(None, source, tmp_path / "out")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "out" / "import.json").exists()
    import_file(None, source, tmp_path / "out")
    whole, again = ({p.name: p.read_text() for p in (tmp_path / n).iterdir()} for n in ("whole", "out"))
    assert again == whole


def test_an_import_that_was_killed_while_it_ended_and_then_refused_still_goes_on(tmp_path, monkeypatch):
    """A folder in which a kill left some files is this command's, also after a start on a full disk."""
    source = _table(tmp_path / "x.jsonl")
    import_file(None, source, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def after_two(partial, final):
        if final.name == "comparisons.jsonl":
            raise Killed
        os.replace(partial, final)

    def full(*words):
        raise OSError(28, "No space left on device")

    for name, harm in (("move_into_place", after_two), ("_write", full)):
        with monkeypatch.context() as patch:
            patch.setattr(importers, name, harm)
            with pytest.raises((Killed, OSError)):
                import_file(None, source, tmp_path / "out")
    assert (tmp_path / "out" / "prompts.jsonl").exists()
    (tmp_path / "out" / "rankings.jsonl").write_text("of another import that was killed here\n")
    import_file(None, source, tmp_path / "out")
    whole, again = ({p.name: p.read_text() for p in (tmp_path / n).iterdir()} for n in ("whole", "out"))
    assert again == whole


@pytest.mark.parametrize(
    ("end", "name"), [(".jsonl", "trl"), (".json", "trl"), (".csv", "table"), (".parquet", "trl")]
)
def test_an_export_replaces_nothing_else(tmp_path, end, name):
    import_file(None, _table(tmp_path / "x.jsonl"), tmp_path / "rows")
    out = tmp_path / f"file{end}"
    out.write_text("mine\n")
    with pytest.raises(UserError, match="holds something else already"):
        export_file(tmp_path / "rows", name, out)
    assert out.read_text() == "mine\n"
    assert not out.with_name(out.name + ".partial").exists()
    out.unlink()
    for _ in range(2):  # the same content may be written again
        export_file(tmp_path / "rows", name, out)


def test_the_card_of_an_export_replaces_nothing_else(tmp_path):
    import_file(None, _table(tmp_path / "x.jsonl"), tmp_path / "rows")
    (tmp_path / "README.md").write_text("mine\n")
    with pytest.raises(UserError, match="its card would be"):
        export_with_card(tmp_path / "rows", "trl", tmp_path / "README.parquet")
    assert (tmp_path / "README.md").read_text() == "mine\n"
    for licence in ("mit", "apache-2.0"):
        export_with_card(tmp_path / "rows", "trl", tmp_path / "data.parquet", licence)
    assert "apache-2.0" in (tmp_path / "data.md").read_text()


@pytest.mark.parametrize("name", ["labels.jsonl", "config.yaml"])
def test_the_ranking_page_is_not_written_among_other_files(tmp_path, name):
    """An imported folder has a labels.jsonl, too."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine\n")
    with pytest.raises(UserError, match="holds other files"):
        session(write_file(tmp_path / "x.jsonl"), out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine\n"


def test_the_ranking_page_goes_on_in_its_folder_before_and_after_an_answer(tmp_path):
    source = write_file(tmp_path / "x.jsonl")
    for _ in range(2):
        made = session(source, tmp_path / "out")
    Person(made).does("choice", [1, 2])
    made.write()
    assert len((tmp_path / "out" / "labels.jsonl").read_text().splitlines()) == 1
    assert Person(session(source, tmp_path / "out")).state["done"] == 1


_ROW = Label(comparison_id="c1", annotator=Annotator(kind="human", id="ana"), verdict="a", p_a=1.0).to_json()


@pytest.mark.parametrize("content", ['[{"verdict": "a"}]', "mine", f"{_ROW}\n[]", "\u00e9"])
def test_a_last_line_without_an_end_that_is_no_row_is_not_cut_off(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match="which is no row"):
        require_rows(path, Label)
    assert path.read_text() == content


def test_a_last_row_gets_the_end_that_an_editor_left_out_and_one_cut_short_is_written_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content, rows in ((_ROW, 1), (f"{_ROW}\n{_ROW[:40]}", 1), (f"{_ROW}\n" + '{"v', 1), ("", 0)):
        path.write_text(content)
        require_rows(path, Label)
        assert len(list(RowFile(path, Label))) == rows
    require_rows(tmp_path / "none.jsonl", Label)
    assert not (tmp_path / "none.jsonl").exists()


def test_one_label_of_people_without_an_end_is_not_taken_for_a_judges_row_cut_short(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(_ROW)
    with pytest.raises(UserError, match="holds other labels"):
        judge_labels(None, (), keep=path)  # type: ignore[arg-type]
    assert path.read_text().strip() == _ROW


@pytest.mark.parametrize("content", ["name: mine\nprinciples: []\n", "name: run\nstages: []\n", "# mine\n"])
def test_induced_principles_replace_no_constitution_and_no_config(tmp_path, content):
    run, out = fake_run(tmp_path / "run", prompts=60), tmp_path / "found.yaml"
    words = ["constitution", "induce", str(run), "--out", str(out)]
    out.write_text(content)
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, UserError)
    assert "something else" in str(found.exception)
    assert out.read_text() == content
    out.unlink()
    for _ in range(2):  # its own it writes anew
        assert CliRunner().invoke(app, words).exit_code == 0
    assert Constitution.load(out).principles
