"""Runs are listed, removed and renamed, and what they say of each other stays true."""

import json
import os
import shutil
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.cli.runs import _age, _parent, _size
from rlaif.errors import UserError
from rlaif.report.lineage import index_rows
from rlaif.runs import catalog
from rlaif.runs.catalog import list_runs, remove, rename
from rlaif.runs.folder import Run
from rlaif.runs.locking import is_locked, locked
from rlaif.runs.storage import read_json, write_json
from tests.fake_run import fake_run
from tests.test_cli import rlaif


@pytest.fixture
def runs(project):
    """A run, its fork, and a run of other prompts that takes labels from it."""
    folder = project / "runs"
    first, second = folder / "first", folder / "second"
    pipeline.run(project / "config.yaml", first)
    pipeline.run(out=second, source=first, overrides=["pair.limit=20"], at="pair", until="pair")
    pipeline.run(project / "config.yaml", folder / "third", [f"label.labels_from={first}"], until="pair")
    return folder


def by_name(folder):
    return {row["name"]: row for row in list_runs(folder)}


def test_runs_are_listed_with_status_parent_headline_and_size(runs):
    (runs / "no run").mkdir()
    (runs / "file").write_text("")
    rows = by_name(runs)
    assert list(rows) == ["first", "second", "third"]
    first, second, third = rows.values()
    assert (first["status"], second["status"], third["status"]) == (
        "done",
        "waiting: 05_label",
        "waiting: 05_label",
    )
    assert first["headline"] == {"what": "labels, agreement with gold", "value": 1.0}
    assert second["headline"] is first["parent"] is third["parent"] is None
    assert (second["parent"]["name"], second["parent"]["at"]) == ("first", "pair")
    assert first["constitution"] == "words"
    assert 0 < second["shared_bytes"] < second["bytes"]
    assert second["shared_bytes"] == first["shared_bytes"]
    assert third["shared_bytes"] == 0
    with locked(runs / "second"):
        assert by_name(runs)["second"]["status"] == "running: 05_label"
    assert not is_locked(runs / "second")


class Vanishing:
    """os.scandir in a run at work: what is named `gone` is removed once it has been named."""

    real = staticmethod(os.scandir)

    def __init__(self, folder):
        if Path(folder).name == "gone" and Path(folder).exists():
            Path(folder).rmdir()
        self.entries = iter(list(self.real(folder)))
        (Path(folder) / "gone.jsonl").unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __iter__(self):
        return self.entries

    def __next__(self):
        return next(self.entries)

    def close(self):
        pass


def test_what_a_run_at_work_removes_stops_neither_the_list_nor_a_rows_story(runs, monkeypatch):
    rows = {name: row["bytes"] for name, row in by_name(runs).items()}
    for read in (lambda: by_name(runs), lambda: index_rows(runs / "first")):
        (runs / "first" / "01_sample" / "gone").mkdir()
        (runs / "first" / "01_sample" / "gone.jsonl").write_text('{"id": "1"}\n')
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", Vanishing)
            read()
        assert not (runs / "first" / "01_sample" / "gone").exists()
    assert {name: row["bytes"] for name, row in by_name(runs).items()} == rows


def test_a_headline_is_of_the_last_policy_and_a_damaged_run_is_listed(tmp_path):
    stage = Run.load(fake_run(tmp_path / "runs" / "whole")).stages[-1]
    policies = {"base": {"gold": {"all": 0.25}}, "ppo": {"gold": {"all": 0.75}}}
    write_json(stage.dir / "stage.json", {**stage.summary, "metrics": {"policies": policies}})
    shutil.copytree(tmp_path / "runs" / "whole", tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "config.json").write_text("{")
    rows = by_name(tmp_path / "runs")
    assert rows["whole"]["headline"] == {"what": "gold of ppo", "value": 0.75}
    assert rows["broken"]["status"].startswith("damaged: ")
    with pytest.raises(UserError, match="no such folder"):
        list_runs(tmp_path / "nowhere")


def test_removing_a_parent_leaves_its_fork_whole(runs):
    with pytest.raises(UserError, match=r"third names files of it \(label.labels_from\)"):
        remove(runs / "first")
    pipeline.resume(runs / "third")  # its labels are taken over now
    assert remove(runs / "first") == ["second"]
    assert not (runs / "first").exists()
    assert sorted(path.name for path in runs.iterdir()) == ["second", "third"]
    assert all(stage.is_done for stage in pipeline.resume(runs / "third").stages)
    fork = Run.load(runs / "second")
    fork.verify()
    assert all(stage.is_done for stage in pipeline.resume(runs / "second").stages)
    row = by_name(runs)["second"]
    assert (row["parent"]["name"], row["shared_bytes"]) == (None, 0)


def test_a_run_is_removed_once_what_it_gave_another_has_been_read(runs, project):
    first = Run.load(runs / "first")
    (pairs := first.path / "pairs").mkdir()
    for name in ("prompts", "responses", "comparisons"):
        files = sorted(first.path.rglob(f"{name}.jsonl"))
        (pairs / f"{name}.jsonl").write_text("".join(file.read_text() for file in files))
    overrides = [f"pair.imported={pairs}", "pair.samples=false", "pair.revisions=false", "critique.rounds=1"]
    pipeline.run(project / "config.yaml", runs / "fourth", overrides, until="sample")
    remove(runs / "second")
    shutil.rmtree(runs / "third")
    with pytest.raises(UserError, match=r"\(pair.imported\) that it has still (?s:.*)rlaif resume .*fourth"):
        remove(runs / "first")
    pipeline.resume(runs / "fourth")
    remove(runs / "first")
    assert all(stage.is_done for stage in pipeline.resume(runs / "fourth").stages)


def test_a_base_model_is_needed_by_a_finished_run_too(tmp_path):
    (project := tmp_path / "runs").mkdir()
    fake_run(project / "first")
    write_json(
        project / "first" / "manifest.json", {**read_json(project / "first" / "manifest.json"), "id": "1"}
    )
    fake_run(project / "other")
    config = read_json(project / "other" / "config.json")
    model = str(project / "first" / "08_ppo" / "policy")
    config["stages"][7]["model"] = model
    write_json(project / "other" / "config.json", config)
    names = catalog._needs(Run.load(project / "other"), Run.load(project / "first"))
    assert names == []  # PPO is done
    write_json(project / "other" / "config.json", {**config, "policy": {"model": model}})
    with pytest.raises(UserError, match=r"\(policy.model\)(?s:.*)Next: rlaif runs rm .*other first"):
        remove(project / "first")


def test_what_is_no_run_or_at_work_is_not_removed(runs):
    (runs / "mine").mkdir()
    (runs / "mine" / "precious.txt").write_text("x")
    for path in (runs / "mine", runs / "nowhere", runs):
        with pytest.raises(UserError, match=r"not a run folder|no such run"):
            remove(path)
    with locked(runs / "second"), pytest.raises(UserError, match="another process"):
        remove(runs / "second")
    assert (runs / "mine" / "precious.txt").exists()
    assert (runs / "second" / "manifest.json").exists()


def test_links_and_runs_inside_a_run_are_left_alone(runs, monkeypatch):
    (runs / "link").symlink_to(runs / "second")
    for call in (lambda: remove(runs / "link"), lambda: rename(runs / "link", "other")):
        with pytest.raises(UserError, match="a link to"):
            call()
    assert Run.load(runs / "second").config.name == "second"
    with pytest.raises(UserError, match="inside the run"):
        pipeline.run(out=runs / "first" / "sub", source=runs / "first", overrides=["pair.limit=9"], at="pair")
    shutil.copytree(runs / "second", runs / "third" / "sub")
    with pytest.raises(UserError, match="stands inside it"):
        remove(runs / "third")
    monkeypatch.chdir(runs / "second")
    (runs / ".second.removed").mkdir()
    remove(Path("."))
    assert not (runs / "second").exists()
    assert (runs / ".second.removed").exists()  # which is not the run's


def test_what_a_killed_removal_left_is_removed_by_the_same_call(runs):
    left = runs / f".second.{Run.load(runs / 'second').id}.removed"
    (runs / "second").rename(left)
    assert remove(runs / "second") == []
    assert not left.exists()
    with pytest.raises(UserError, match="no such run"):
        remove(runs / "second")


def test_a_damaged_neighbour_neither_stops_a_removal_nor_the_list(runs):
    (runs / "third" / "06_label").mkdir(exist_ok=True)
    manifest = read_json(runs / "third" / "manifest.json")
    write_json(runs / "third" / "manifest.json", {**manifest, "parent": "x"})
    (runs / "third" / "01_sample" / "stage.json").write_bytes(b"\xff\x00")
    assert {row["name"] for row in list_runs(runs)} == {"first", "second", "third"}
    remove(runs / "second")
    assert not (runs / "second").exists()


def test_a_rename_is_followed_by_whatever_names_the_run(runs):
    assert rename(runs / "first", "baseline") == runs / "baseline"
    assert not (runs / "first").exists()
    assert Run.load(runs / "baseline").config.name == "baseline"
    rows = by_name(runs)
    assert rows["second"]["parent"]["name"] == "baseline"
    assert rows["second"]["parent"]["path"] == str(runs / "baseline")
    assert Run.load(runs / "third").config.stages[4].labels_from == str(runs / "baseline")
    third = pipeline.resume(runs / "third")
    assert third.stages[4].summary["metrics"]["reused"] > 0
    again = pipeline.run(out=runs / "second", source=runs / "baseline", overrides=["pair.limit=20"])
    assert all(stage.is_done for stage in again.stages)


def test_a_rename_that_was_killed_is_finished_by_the_same_call(runs, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(catalog, "_moved", lambda *given: _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            rename(runs / "first", "baseline")
    assert not (runs / "first").exists()
    assert by_name(runs)["second"]["parent"]["name"] == "baseline"  # by its id, wherever it was moved
    rename(runs / "first", "baseline")
    assert read_json(runs / "second" / "manifest.json")["parent"]["path"] == str(runs / "baseline")
    assert Run.load(runs / "third").config.stages[4].labels_from == str(runs / "baseline")
    assert rename(runs / "first", "baseline") == runs / "baseline"  # a kill at the very end
    with pytest.raises(UserError, match="no such run"):
        rename(runs / "frist", "baseline")


def test_a_run_that_is_not_there_is_not_renamed_to_one_that_is(runs):
    with pytest.raises(UserError, match=r'(?s)no such run.*did you mean "first"\?.*rlaif runs'):
        rename(runs / "frist", "third")
    with pytest.raises(UserError, match="known: first, second, third"):
        rename(runs / "x", "third")
    assert Run.load(runs / "third").config.name == "small"


def _raise(error):
    raise error


def test_names_that_cannot_be_given(runs):
    for name, match in (("second", "there already"), ("../x", "no name of a run"), ("", "no name of a run")):
        with pytest.raises(UserError, match=match):
            rename(runs / "first", name)
    with locked(runs / "third"), pytest.raises(UserError, match="is running"):
        rename(runs / "first", "baseline")
    assert (runs / "first" / "manifest.json").exists()


def test_the_commands(runs):
    table = rlaif("runs", runs, COLUMNS="200").stdout
    assert "first" in table
    assert "waiting: 05_label" in table
    assert [row["name"] for row in json.loads(rlaif("runs", runs, "--json").stdout)] == [
        "first",
        "second",
        "third",
    ]
    assert rlaif("runs", "rename", runs / "first", "a").stdout.strip() == str(runs / "a")
    removed = rlaif("runs", "rm", runs / "third")
    assert "third: removed" in removed.stderr
    assert rlaif("runs", "rm", runs / "third").returncode == 2
    done = rlaif("resume", runs / "second")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(runs / "second" / "report.html")
    help_page = rlaif("runs", "--help").stdout
    assert "rename" in help_page
    forked = rlaif("run", "--from", runs / "a", "--at", "pair", "--out", runs / "b", "-s", "pair.limit=9")
    assert forked.returncode == 0, forked.stderr
    assert "shared: 01_sample, 02_critique, 03_sample" in forked.stderr


def test_where_there_are_no_runs_it_is_said_where_they_are(runs, tmp_path):
    itself = rlaif("runs", runs / "first")
    assert itself.returncode == 0
    assert f"is a run itself: rlaif show {runs / 'first'}, or rlaif runs {runs}" in itself.stderr
    above = rlaif("runs", runs.parent, "--json")
    assert json.loads(above.stdout) == []
    assert f"rlaif runs {runs}" in above.stderr
    (tmp_path / "empty").mkdir()
    assert "rlaif run CONFIG" in rlaif("runs", tmp_path / "empty").stderr


def test_ages_and_sizes_are_readable():
    assert _age(None) == ""
    assert _age("yesterday") == ""
    assert _age(7) == ""
    assert _age("2020-01-01T00:00:00").endswith(" d")
    assert _parent({"id": "x", "name": None}) == "? (not here) at ?"
    assert _age("2020-01-01T00:00:00+00:00").endswith(" d")
    assert _size(1_234_567, 0) == "1.2 MB"
    assert _size(2_000_000, 500_000) == "2.0 MB, 0.5 shared"
