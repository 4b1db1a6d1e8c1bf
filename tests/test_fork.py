"""A fork shares the finished stages of its parent and needs neither models for them nor, afterwards, the
parent."""

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif import pipeline
from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.options.engines import ENGINES
from rlaif.preflight import fork as forking
from rlaif.records import Label
from rlaif.report.run_reader import RunReader
from rlaif.report.summary import summarise
from rlaif.report.warnings import run_warnings
from rlaif.runs import storage
from rlaif.runs.folder import Run
from rlaif.runs.rows import Rows
from rlaif.runs.storage import read_json, write_json
from tests import scripts

OTHER = """name: words
principles:
  - {id: no-rude, text: Never say rain., weight: 1.0}
  - {id: no-wrong, text: Never say wrong., weight: 2.0, applies_to: [fact]}
"""


@pytest.fixture(autouse=True)
def in_the_project(project, monkeypatch) -> None:
    """A fork without a name would be made where the tests are run."""
    monkeypatch.chdir(project)


@pytest.fixture
def parent(project) -> Path:
    pipeline.run(project / "config.yaml", project / "first")
    (project / "other.yaml").write_text(OTHER)
    return project / "first"


def fork(project: Path, *overrides: str, out: str = "second", at: str | None = None, **options) -> Run:
    return pipeline.run(overrides=overrides, out=project / out, source=project / "first", at=at, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def asked(monkeypatch):
    """How often the scripted models are asked."""
    counts = {"SAMPLE": 0, "CRITIQUE": 0, "LABEL": 0}
    monkeypatch.setattr(scripts, "kill_after", lambda what: counts.update({what: counts[what] + 1}))
    return counts


def test_another_constitution_from_label_on(project, parent, asked):
    before = content(parent)
    told = []
    this = fork(project, f"constitution={project / 'other.yaml'}", at="label", tell=told.append)
    assert (asked["SAMPLE"], asked["CRITIQUE"]) == (0, 0)
    assert asked["LABEL"] > 0
    assert content(parent) == before
    for stage in ("01_sample", "02_critique", "03_sample", "04_pair"):
        for path in (this.path / stage).rglob("*"):
            assert path.stat().st_ino == (parent / stage / path.name).stat().st_ino
    assert (this.path / "prompts.jsonl").samefile(parent / "prompts.jsonl")
    assert this.constitution.principles[0].text == "Never say rain."
    recorded = this.manifest["parent"]
    assert recorded["id"] == Run.load(parent).id != this.id
    assert (recorded["at"], recorded["path"]) == ("label", str(parent))
    assert recorded["shared"] == ["01_sample", "02_critique", "03_sample", "04_pair"]
    assert recorded["differs"] == [
        "constitution.principles.0.text: 'Never say rude.' there, 'Never say rain.' now"
    ]
    assert any("Never say rain" in line for line in told)
    assert not any(line.startswith(("  sample:", "  critique:")) for line in told)  # of the estimate
    assert any(line.startswith("  label: ") for line in told)
    assert summarise(this.path)["parent"] == recorded
    assert any("Never say rain" in warned.found for warned in run_warnings(RunReader(this.path)))
    labels = {row.principle_id for row in Rows(this.path / "05_label" / "labels.jsonl", Label)}
    assert len(labels) == 2
    assert this.ledger.figures()["calls"] == this.stages[4].summary["usage"]["calls"]


def test_the_edit_loop_asks_the_edited_principle_alone(project, parent, asked):
    this = fork(project, f"constitution={project / 'other.yaml'}", f"label.labels_from={parent}", at="label")
    metrics = this.stages[4].summary["metrics"]
    labels = list(Rows(this.path / "05_label" / "labels.jsonl", Label))
    edited = sum(label.principle_id == "no-rude" for label in labels)
    assert metrics["reused"] == len(labels) - edited > 0
    assert asked["LABEL"] == edited


def test_labels_that_need_not_be_asked_again_are_offered_where_they_are(project, parent, asked):
    def told(*overrides, **options):
        pipeline.dry_run(None, overrides, source=parent, tell=said.append, **options)
        return [line for line in said if "labels_from" in line]

    said, other = [], f"constitution={project / 'other.yaml'}"
    (offer,) = told(other, at="label")
    assert "reads 1 of 2 principles in the words of the parent" in offer
    command = shlex.split(offer)
    taken_over = command[command.index("-s") + 1]
    assert taken_over == f"label.labels_from={parent}"
    this = fork(project, other, taken_over, at="label", tell=said.append)
    assert this.stages[4].summary["metrics"]["reused"] > 0
    said = []
    assert told(other, taken_over, at="label") == []
    assert told(other, at="critique") == []  # other responses, of which it has no labels
    assert told(other, "templates=default", at="label") == []
    assert (
        told(other, "label.ai=false", f"label.human={{file: {project / 'prompts.jsonl'}}}", at="label") == []
    )
    (project / "all.yaml").write_text(OTHER.replace("wrong", "other"))
    assert told(f"constitution={project / 'all.yaml'}", at="label") == []
    assert len(told("pair.limit=20")) == 1


def test_a_fork_that_copies_the_cache_says_that_labels_cost_no_call(project, parent, monkeypatch):
    def told(*overrides):
        said = []
        words = [f"constitution={project / 'other.yaml'}", *overrides]
        pipeline.dry_run(None, words, source=parent, tell=said.append, at="label")
        return [line for line in said if "1 of 2 principles in the words of the parent" in line]

    monkeypatch.setitem(ENGINES, "scripted", replace(ENGINES["scripted"], cached=True))
    (parent / "cache.sqlite").touch()
    (line,) = told()
    assert "a copy of its cache" in line
    assert "labels_from" not in line
    (line,) = told("cache=false")
    assert "labels_from" in line


def test_the_table_of_a_dry_run_says_which_labels_are_taken_over(project, parent):
    other = ["-s", f"constitution={project / 'other.yaml'}", "-s", f"label.labels_from={parent}"]
    shown = CliRunner().invoke(app, ["run", "--from", str(parent), "--at", "label", *other, "--dry-run"])
    assert f"labels_from {parent}: the judge reads 1 of 2 principles in the same words" in shown.stdout


def test_without_at_it_begins_at_the_first_stage_that_differs(project, parent):
    assert fork(project, "pair.limit=20", "label.few_shot=0").manifest["parent"]["at"] == "pair"
    config = project / "config.yaml"
    this = pipeline.run(config, project / "third", ["critique.rounds=1"], source=parent)
    assert this.manifest["parent"]["at"] == "critique"
    assert this.config.stages[1].rounds == 1
    (project / "constitution.yaml").write_text(OTHER)
    assert pipeline.run(config, project / "fourth", source=parent).manifest["parent"]["at"] == "critique"
    fifth = fork(project, "label.cot=false", "seed=5", out="fifth", at="sample[1]")
    assert fifth.config.seed == 5
    assert " --at 'sample[1]' --out " in fifth.manifest["command"]  # brackets are a shell's patterns


def test_the_same_command_continues_it_and_needs_no_parent(project, parent):
    fork(project, "pair.limit=20", until="pair")
    shutil.rmtree(parent)
    this = fork(project, "pair.limit=20")
    assert all(stage.is_done for stage in this.stages)
    this.verify()
    again = pipeline.resume(project / "second")
    assert again.manifest["parent"]["path"] == str(parent)


def test_a_fork_of_a_fork_and_one_at_the_first_stage(project, parent):
    fork(project, "pair.limit=20")
    third = pipeline.run(out=project / "third", source=project / "second", at="label", overrides=["seed=3"])
    assert third.manifest["parent"]["path"] == str(project / "second")
    assert third.stages[3].summary["kept"] == 20
    all_anew = fork(project, "seed=9", out="fourth")
    assert all_anew.manifest["parent"]["shared"] == []
    assert all_anew.stages[4].is_done


def test_what_is_written_again_stays_in_the_run_that_writes_it(project, parent):
    fork(project, "pair.limit=20")
    before = content(parent)
    stage = project / "second" / "03_sample"
    (stage / "stage.json").unlink()
    lines = (stage / "responses.jsonl").read_text().splitlines(keepends=True)
    assert os.stat(stage / "responses.jsonl").st_nlink == 2
    storage.unshare(stage)
    (stage / "responses.jsonl").write_text("".join(lines[:-3]))
    pipeline.resume(project / "second")
    assert content(parent) == before
    (parent / "02_critique" / "stage.json").unlink()
    there = content(project / "second")
    pipeline.resume(parent)
    assert content(project / "second") == there


def test_where_there_are_no_hard_links_files_are_copied(project, parent, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    this = fork(project, "pair.limit=20")
    file = this.path / "01_sample" / "responses.jsonl"
    assert file.read_bytes() == (parent / "01_sample" / "responses.jsonl").read_bytes()
    assert file.stat().st_nlink == 1
    this.verify()


def test_bad_forks_are_refused_and_leave_nothing(project, parent):
    def refused(match: str, *overrides: str, **options) -> None:
        with pytest.raises(UserError, match=match):
            pipeline.run(overrides=overrides, **{"out": project / "bad", "source": parent, **options})
        assert not (project / "bad" / "manifest.json").exists()

    refused("no run there", source=project / "nowhere")
    refused("no run there", source=project)
    refused(
        r"--at labels: no such stage(?s:.*)one of sample\[0\], critique, sample\[1\], pair, label",
        at="labels",
    )
    refused("nothing differs from it")
    refused("nothing differs from it", "threads=4")
    refused(r"critique.rounds: 2 there, 1 now(?s:.*)a fork at critique", "critique.rounds=1", at="label")
    refused("heldout: 0.25 there", "heldout=0.5", at="label")
    refused(r"Next: --at 'sample\[1\]'", "sample[1].k=2", at="label")
    refused("the folder of the run that is forked", "pair.limit=3", out=parent)
    with pytest.raises(UserError, match="--at pair: without --from"):
        pipeline.run(project / "config.yaml", project / "bad", at="pair")
    with pytest.raises(UserError, match=r"a run folder(?s:.*)rlaif resume"):
        pipeline.run(parent)
    with pytest.raises(UserError, match=r": a folder(?s:.*)a config file"):
        pipeline.run(project)
    fork(project, "pair.limit=20", until="pair")
    refused("was forked at pair, not at label", at="label", out=project / "second")
    pipeline.run(project / "config.yaml", project / "alone", ["seed=1"], until="sample[0]")
    refused(
        r"02_critique is not done(?s:.*)--until 'sample\[1\]', or add --at critique",
        "pair.limit=3",
        source=project / "alone",
        at="pair",
    )
    refused("a run that is no fork", "pair.limit=3", out=project / "alone", source=parent)
    refused("a fork of", "pair.limit=20", out=project / "second", source=project / "alone")


def test_a_parent_of_another_version(project, parent, monkeypatch):
    manifest = read_json(parent / "manifest.json")
    write_json(parent / "manifest.json", {**manifest, "rlaif": "99.0"})
    with pytest.raises(UserError, match=r"made by rlaif 99.0, and this is "):
        fork(project, "pair.limit=20")
    write_json(parent / "manifest.json", {**manifest, "rlaif": "0.0.1"})
    config = read_json(parent / "config.json")
    write_json(parent / "config.json", {**config, "of_that_version": 1})
    with pytest.raises(UserError, match=r"made by rlaif 0.0.1, and this is .*of_that_version"):
        fork(project, "pair.limit=20")
    write_json(parent / "config.json", config)
    write_json(
        parent / "manifest.json", {k: v for k, v in manifest.items() if k != "id"} | {"rlaif": "0.0.1"}
    )
    this = fork(project, "pair.limit=20")
    assert this.manifest["parent"]["id"] == Run.load(parent).id
    assert forking.__version__ == this.manifest["rlaif"]


def test_a_damaged_parent_is_not_forked(project, parent):
    file = parent / "01_sample" / "responses.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"responses.jsonl"):
        fork(project, "pair.limit=20")
    assert not (project / "second").exists()


def test_a_parent_whose_config_is_no_text_is_named(project, parent):
    with (parent / "config.yaml").open("ab") as file:
        file.write(b"# caf\xe9\n")
    with pytest.raises(
        UserError, match=r"config.yaml: no UTF-8 text \(invalid continuation byte at byte \d+"
    ):
        fork(project, "pair.limit=20")


def test_a_dry_run_says_what_is_shared(project, parent):
    plan = pipeline.dry_run(None, ["pair.limit=20"], parent, out=project / "second")
    assert plan["shared"] == ["01_sample", "02_critique", "03_sample"]
    assert [stage["stage"] for stage in plan["stages"]] == ["pair", "label"]
    assert plan["calls"] == plan["stages"][1]["calls"] > 0
    assert not (project / "second").exists()
    assert json.dumps(plan)
