"""What a run relies on is on disk, whole and unchanged, or said to be otherwise before anything uses it."""

import contextlib
import json
import os
import shutil

import pytest

from rlaif import pipeline
from rlaif.errors import UserError
from rlaif.preflight import opening
from rlaif.records import Comparison, Response
from rlaif.report.compare import compare
from rlaif.runs import storage
from rlaif.runs.folder import Run, label_files
from rlaif.runs.rows import JsonlLog, Rows
from rlaif.runs.storage import (
    find_damage,
    fingerprint,
    move_into_place,
    read_json,
    sync_and_digest,
    write_json,
)
from tests.fake_run import fake_run


def run(project, *overrides, **options):
    return pipeline.run(project / "config.yaml", project / "run", overrides, **options)


@pytest.fixture
def synced(monkeypatch):
    """What has been forced to disk, as (kind, name), in order with the renames."""
    done, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(handle):
        done.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def noted_replace(source, target):
        done.append(("rename", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return done


def test_a_file_is_on_disk_before_it_gets_its_name_and_its_folder_afterwards(tmp_path, synced):
    write_json(tmp_path / "a.json", {"a": 1})
    assert synced == [("fsync", "a.json.partial"), ("rename", "a.json"), ("fsync", tmp_path.name)]


def test_a_folder_is_on_disk_with_everything_in_it_before_it_gets_its_name(tmp_path, synced):
    inner = tmp_path / "model.partial" / "inner"
    inner.mkdir(parents=True)
    (inner / "weights").write_text("1")
    move_into_place(tmp_path / "model.partial", tmp_path / "model")
    at = synced.index(("rename", "model"))
    assert {("fsync", "model.partial"), ("fsync", "inner"), ("fsync", "weights")} == set(synced[:at])
    assert synced[at + 1 :] == [("fsync", tmp_path.name)]


def test_rows_are_on_disk_before_a_stage_says_done(project, synced):
    run(project, until="critique")
    done = [at for at, what in enumerate(synced) if what == ("rename", "stage.json")][-1]
    assert ("fsync", "revisions.jsonl") in synced[:done]
    assert ("fsync", "spending.jsonl") in synced


def test_json_with_a_checksum_is_read_back_and_any_change_is_said(tmp_path):
    path = tmp_path / "x.json"
    data = {"b": 1.5, "a": {"ü": [None, float("inf")]}, "n": 3}
    write_json(path, data)
    assert read_json(path) == data
    whole = path.read_text()
    for text in (whole.replace("1.5", "2.5"), whole[:-5], "", "[1]", "{", whole.replace('"n"', '"m"')):
        path.write_text(text)
        with pytest.raises(UserError, match=r"x\.json: damaged"):
            read_json(path)
    path.write_text('{"old": 1}')  # as earlier versions wrote it
    assert read_json(path) == {"old": 1}


def change_row(path):
    lines = path.read_bytes().splitlines(keepends=True)
    row = json.loads(lines[3]) | {"text": "exchanged"}
    path.write_bytes(b"".join([*lines[:3], json.dumps(row).encode() + b"\n", *lines[4:]]))


DAMAGES = {
    "a row missing": (
        lambda p: p.write_bytes(b"".join(p.read_bytes().splitlines(True)[:-1])),
        "24 rows were written, 23 are there",
    ),
    "a row doubled": (
        lambda p: p.write_bytes(p.read_bytes() + p.read_bytes().splitlines(True)[0]),
        "24 rows were written, 25 are there",
    ),
    "a row changed": (change_row, "24|changed|bytes"),
    "nothing left": (lambda p: p.write_bytes(b""), "24 rows were written, 0 are there"),
    "missing": (lambda p: p.unlink(), "missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_stage_whose_rows_changed_is_said_before_anything_uses_them(project, damage):
    run(project, until="sample[0]")
    harm, said = DAMAGES[damage]
    harm(project / "run" / "01_sample" / "responses.jsonl")
    for use in (
        lambda: run(project, until="critique"),
        lambda: opening.label_files(project / "run"),
        lambda: __import__("rlaif.report.summary").report.summary.summarise(project / "run"),
    ):
        with pytest.raises(UserError, match=f"01_sample/responses.jsonl: .*({said})"):
            use()
    assert not (project / "run" / "02_critique").exists()


def test_removing_the_stage_and_later_ones_makes_it_again(project):
    before = run(project)
    rows = [path.read_text() for path in sorted((project / "run").glob("*/*.jsonl"))]
    (project / "run" / "02_critique" / "revisions.jsonl").write_text("")
    with pytest.raises(UserError, match="remove 02_critique and every later stage's folder"):
        run(project)
    for stage in before.stages[1:]:
        shutil.rmtree(stage.dir)
    run(project)
    assert [path.read_text() for path in sorted((project / "run").glob("*/*.jsonl"))] == rows


def test_the_runs_own_prompts_edited_are_said(project):
    run(project, until="sample[0]")
    prompts = project / "run" / "prompts.jsonl"
    prompts.write_text(prompts.read_text().replace("Question 7?", "Question 8?"))
    with pytest.raises(UserError, match=r"prompts.jsonl: its content has changed"):
        run(project)


def test_a_run_without_digests_is_still_read(project):
    run(project)
    for path in (project / "run").glob("*/stage.json"):
        path.write_text(json.dumps({k: v for k, v in read_json(path).items() if k != "files"}))
    manifest = project / "run" / "manifest.json"
    manifest.write_text(
        json.dumps({k: v for k, v in read_json(manifest).items() if k not in ("files", "inputs")})
    )
    run(project)
    assert "inputs" not in read_json(manifest)  # a finished run is only read
    (project / "run" / "05_label" / "stage.json").unlink()
    run(project)
    assert "inputs" in read_json(manifest)


@pytest.mark.parametrize("inside", ["06_label/labels", "06_label/preferences", "09_evaluate/evaluation"])
def test_rows_that_are_gone_are_missed_without_digests_too(tmp_path, inside):
    """compare said of such a run that it shares no prompts, or compared its labels alone."""
    runs = [fake_run(tmp_path / name, prompts=40) for name in "ab"]
    assert compare(runs)
    emptied = runs[1] / f"{inside}.jsonl"
    emptied.write_text("")
    with pytest.raises(UserError, match=rf"{inside}\.jsonl: holds no rows, and the stage kept 100") as told:
        compare(runs)
    assert told.value.code == 2


def test_a_large_file_is_read_again_only_if_it_was_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "LARGE", 10)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"0" * 100)
    sealed = sync_and_digest(tmp_path)
    reads = []
    monkeypatch.setattr(
        storage, "digest", lambda path: reads.append(path) or {"sha256": "other", "bytes": 100}
    )
    assert not find_damage(tmp_path, sealed)
    assert not reads
    os.utime(weights, ns=(1, 1))
    assert find_damage(tmp_path, sealed, small=True) == []
    assert find_damage(tmp_path, sealed) == [f"{weights}: its content has changed"]
    weights.write_bytes(b"")
    assert find_damage(tmp_path, sealed, small=True)


def test_an_exchanged_prompt_file_is_refused_with_what_differs(project):
    run(project, until="sample[0]")
    prompts = project / "prompts.jsonl"
    prompts.write_text("".join(prompts.read_text().splitlines(True)[:50]))
    with pytest.raises(
        UserError, match=r"the content of prompts, .*prompts.jsonl: fingerprint \w+ there, \w+ now"
    ):
        run(project)


def test_what_no_begun_stage_reads_may_still_change(project):
    labels = project / "people.jsonl"
    labels.write_text("")
    config = project / "config.yaml"
    config.write_text(
        config.read_text().replace(
            "{stage: label}", "{stage: label, human: {file: people.jsonl, weight: 1.0}}"
        )
    )
    this = run(project, until="pair")
    pairs = Rows(this.stages[3].dir / "comparisons.jsonl", Comparison)
    rows = [
        {"comparison_id": pair.id, "annotator": {"kind": "human", "id": "ann"}, "verdict": "a"}
        for pair in pairs
    ]
    labels.write_text(json.dumps(rows[0]) + "\n")
    before = read_json(project / "run" / "manifest.json")["inputs"]
    run(project)
    assert read_json(project / "run" / "manifest.json")["inputs"] != before
    labels.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(UserError, match=r"the content of stages.4.human.file"):
        run(project)


def test_fingerprints_are_of_the_content_alone(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(bytes(200))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes(bytes(199) + b"1")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


@pytest.mark.parametrize("writes", [0, 1, 3, 4, 5, 6, 8, 10, 12])
def test_killed_while_the_folder_is_made_the_same_command_goes_on(project, monkeypatch, writes):
    """Every rename in turn is the moment of the kill."""
    left, replace = [writes], os.replace

    def killed(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise SystemExit("killed")
        replace(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(SystemExit):
            run(project, until="sample[0]")
    this = run(project, until="sample[0]")
    assert len(Rows(this.stages[0].dir / "responses.jsonl", Response)) == 24
    assert not (project / "run" / "making.partial").exists()


def test_a_folder_of_somebody_elses_is_never_taken_for_a_half_made_run(project):
    for name in ("prompts.jsonl", "config.yaml"):
        (project / "mine").mkdir(exist_ok=True)
        (project / "mine" / name).write_text("precious")
    with pytest.raises(UserError, match="not a run folder"):
        pipeline.run(project / "config.yaml", project / "mine")
    assert (project / "mine" / "prompts.jsonl").read_text() == "precious"


def test_a_place_where_no_run_can_be_kept_is_said(project):
    (project / "file").write_text("")
    (project / "link").symlink_to(project / "nowhere" / "at" / "all")
    (project / "closed").mkdir(mode=0o500)
    places = [project / "file", project / "file" / "below", project / "link"]
    places += (
        [] if os.access(project / "closed", os.W_OK) else [project / "closed", project / "closed" / "run"]
    )
    for place in places:
        with pytest.raises(UserError, match=f"{place}: nothing can be kept there"):
            pipeline.run(project / "config.yaml", place)


@pytest.mark.parametrize(
    "name", ["config.json", "constitution.json", "manifest.json", "templates.json", "01_sample/stage.json"]
)
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"name": 3}', "\x00" * 50, '{"seconds": "x", "dropped": 1}']
)
def test_a_damaged_json_file_of_a_run_is_said(project, name, content):
    run(project, until="sample[0]")
    path = project / "run" / name
    path.write_text(content)
    with contextlib.suppress(UserError):  # said; or of no use to the run, and then nothing is wrong with it
        run(project, until="critique")


def test_a_damaged_metrics_row_is_said_with_its_line(tmp_path):
    journal = JsonlLog(tmp_path / "metrics.jsonl", "update")
    journal.append({"update": 1}, {"update": 2})
    journal.path.write_text(journal.path.read_text().replace('"update": 2', '"upd'))
    with pytest.raises(UserError, match=r"metrics.jsonl:2: damaged row"):
        journal.rows()


def test_labels_from_a_file_is_said(project):
    with pytest.raises(UserError, match="not a run folder"):
        label_files(project / "config.yaml")


def test_durations_do_not_follow_a_clock_that_is_set_back(project, monkeypatch):
    import time

    times = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    this = run(project, until="sample[0]")
    assert 0 <= this.stages[0].summary["seconds"] < 60
    assert Run.load(this.path).stages[0].is_done
