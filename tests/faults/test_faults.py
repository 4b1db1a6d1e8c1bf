"""Killed, cut off from power, out of disk or damaged at a seeded moment, a run ends with the same rows and
bits."""

import random
import shutil
from collections import Counter

import pytest

from rlaif.runs.folder import Run
from rlaif.runs.storage import read_json
from tests.faults.harness import CONSTITUTION, KILL, Harness, difference

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="the shim needs gcc")


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    found = Harness(tmp_path_factory.mktemp("faults"))
    yield found
    found.close()


def tried(harness: Harness, seeds: range) -> None:
    trials = [harness.trial(seed) for seed in seeds]
    print(Counter((trial.harm.partition(":")[0], tuple(trial.codes)) for trial in trials))
    wrong = [
        f"seed {seed}: {t.harm} in {t.stage}: {t.wrong}"
        for seed, t in zip(seeds, trials, strict=True)
        if t.wrong
    ]
    assert not wrong, "\n\n".join(wrong)


@needs_compiler
def test_twenty_faults_leave_no_trace(harness):
    tried(harness, range(20))


@needs_compiler
def test_a_fork_killed_anywhere_is_whole_or_not_there(harness):
    parent, folder = harness.harmless[6], harness.tmp / "forked"
    constitution = harness.project / "other.yaml"
    constitution.write_text(CONSTITUTION.replace("rude", "nice"))
    words = ["run", "--from", str(parent), "--at", "label", "--out", str(folder), "--until", "label"]
    words += ["-s", f"constitution={constitution}"]
    before = {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()}
    harmless = harness.tmp / "unharmed_fork"
    whole = harness.command([str(harmless) if word == str(folder) else word for word in words], harmless)
    assert whole["code"] == 0, harness.errors.read_text()
    codes = []
    for at in random.Random(0).sample(range(whole["calls"]), 12):
        shutil.rmtree(folder, ignore_errors=True)
        codes.append(harness.command(words, folder, KILL, at)["code"])
        if (folder / "manifest.json").exists():
            run = Run.load(folder)
            run.verify()
            assert all(stage.is_done for stage in run.stages[:5])
        assert harness.command(words, folder)["code"] == 0, harness.errors.read_text()
        assert difference(harmless, folder) == ""
    assert codes.count(-9) > 8
    assert {path: path.read_bytes() for path in before} == before


@needs_compiler
def test_a_rename_or_removal_killed_anywhere_is_finished_by_the_same_command(harness):
    folder = harness.tmp / "runs"
    words = [
        "run",
        "--from",
        str(harness.harmless[5]),
        "--at",
        "pair",
        "--until",
        "pair",
        "-s",
        "pair.limit=5",
    ]
    old, new = folder / "old", folder / "new"
    assert harness.command([*words, "--out", str(harness.tmp / "kept" / "old")], harness.tmp)["code"] == 0
    fork = ["run", "--from", str(harness.tmp / "kept" / "old"), "--at", "label", "--until", "label"]
    assert harness.command([*fork, "--out", str(harness.tmp / "kept" / "fork")], harness.tmp)["code"] == 0
    codes = []
    for at in range(0, 24, 2):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(harness.tmp / "kept", folder)
        rename = ["runs", "rename", str(old), "new"]
        codes.append(harness.command(rename, folder, KILL, at)["code"])
        assert old.exists() != new.exists()
        code = harness.command(rename, folder)["code"]
        assert code == 0, harness.errors.read_text()
        assert Run.load(folder / "fork").manifest["parent"]["path"] == str(new)
        Run.load(new).verify()
        harness.command(["runs", "rm", str(new)], folder, KILL, at)
        if new.exists():
            Run.load(new).verify()
            assert harness.command(["runs", "rm", str(new)], folder)["code"] == 0
        elif list(folder.glob(".*.removed")):
            assert harness.command(["runs", "rm", str(new)], folder)["code"] == 0
        assert not list(folder.glob(".*.removed"))
        Run.load(folder / "fork").verify()
    assert codes.count(-9) > 3


@needs_compiler
@pytest.mark.parametrize("begun", [4, 0])
def test_a_change_of_options_killed_anywhere_is_finished_by_the_same_command(harness, begun):
    """In a folder where four stages are done, and in one where none has begun."""
    before, folder, whole = (harness.tmp / f"{name}_{begun}" for name in ("before", "changed", "whole"))
    shutil.copytree(harness.harmless[begun or 1], before)
    if not begun:
        shutil.rmtree(before / "01_sample")
    changes = ["-s", "pair.limit=5", "--until", "pair"] if begun else ["-s", "seed=3", "--until", "sample[0]"]

    def changed(into, *harm):
        return harness.command(
            ["run", str(harness.project / "config.yaml"), "--out", str(into), *changes], into, *harm
        )

    shutil.copytree(before, whole)
    calls = changed(whole)["calls"]
    codes = []
    for at in range(0, calls, max(1, calls // 12)):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        codes.append(changed(folder, KILL, at)["code"])
        assert changed(folder)["code"] == 0, harness.errors.read_text()
        assert difference(whole, folder) == ""
        mine, theirs = (read_json(path / "config.json") for path in (folder, whole))
        assert mine == theirs
        Run.load(folder).verify()
    assert codes.count(-9) > 8


@needs_compiler
@pytest.mark.parametrize("number", [3, 7, 8])
def test_a_killed_training_goes_on_with_another_micro_batch(harness, number):
    folder, name = harness.tmp / f"micro_{number}", harness.stages[number - 1]
    shutil.copytree(harness.harmless[number - 1], folder)
    assert harness.run(folder, number, KILL, harness.calls[number - 1] * 2 // 3)["code"] == -9
    assert Run.load(folder).stages[number - 1].has_begun
    words = ["resume", str(folder), "--until", name, "-s", f"{name}.micro_batch=2"]
    assert harness.command(words, folder)["code"] == 0, harness.errors.read_text()
    mine, whole = Run.load(folder), Run.load(harness.harmless[number])
    assert mine.config.stages[number - 1].micro_batch == 2
    assert mine.stages[number - 1].summary["kept"] == whole.stages[number - 1].summary["kept"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_faults_leave_no_trace(harness):
    tried(harness, range(1000, 1200))
