"""A run waits for people's labels, says what to write, and goes on when they are there."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.config import Config
from rlaif.errors import Paused, UserError
from rlaif.options import LabelOptions
from rlaif.records import Label
from rlaif.runs.catalog import list_runs
from rlaif.runs.folder import Run
from rlaif.runs.rows import Rows
from rlaif.runs.storage import read_json, write_json
from tests.test_cli import rlaif


def config_with(project: Path, label: str) -> Path:
    path = project / "config.yaml"
    path.write_text(path.read_text().replace("{stage: label}", f"{{stage: label, {label}}}"))
    return path


def start(project: Path, *overrides: str, **options) -> Run:
    return pipeline.run(project / "config.yaml", project / "run", overrides, **options)


def sheet(project: Path) -> list[dict]:
    return [json.loads(line) for line in (project / "run" / "05_label_pairs.jsonl").read_text().splitlines()]


def by_hand(project: Path, rows: list[dict]) -> None:
    """A person's labels, made from what the sheet shows."""
    lines = [
        {
            "comparison_id": row["comparison_id"],
            "annotator": {"kind": "human", "id": "ann"},
            "verdict": "b" if "rude" in row["a"] else "a",
        }
        for row in rows
    ]
    (project / "people.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_pauses_says_what_to_write_and_goes_on(project):
    config_with(project, "human: {file: people.jsonl}")
    with pytest.raises(Paused) as paused:
        start(project)
    said = str(paused.value)
    assert paused.value.code == 4
    assert f"waits for people's labels in {project / 'people.jsonl'}" in said
    assert f"rlaif resume {project / 'run'}" in said
    run = Run.load(project / "run")
    assert run.stages[4].summary["status"] == "paused"
    assert run.stages[3].is_done
    assert not run.stages[4].has_begun
    assert list_runs(project)[0]["status"] == "paused: 05_label"
    rows = sheet(project)
    assert len(rows) == run.stages[3].summary["kept"]
    assert set(rows[0]) == {"comparison_id", "prompt", "a", "b"}
    example = json.loads(next(line for line in said.splitlines() if line.startswith("  {")))
    assert Label.model_validate(example).comparison_id == rows[0]["comparison_id"]
    by_hand(project, rows[:10])
    this = pipeline.resume(project / "run")
    assert this.stages[4].is_done
    labels = list(Rows(this.stages[4].dir / "labels.jsonl", Label))
    kinds = Counter(label.annotator.kind for label in labels)
    assert kinds["human"] == 10
    assert len({label.comparison_id for label in labels if label.annotator.kind == "ai"}) == len(rows)
    note = f"labels: {kinds['ai']} by ai (scripted:feedback), 10 by human (ann)"
    assert note in this.stages[4].summary["notes"]


def test_until_pair_says_what_to_write_for_the_next_stage(project):
    config_with(project, "human: {file: people.jsonl, share: 0.5}")
    told = []
    start(project, until="critique", tell=told.append)
    assert not any("waits for people" in line for line in told)
    start(project, until="pair", tell=told.append)
    assert any("waits for people's labels" in line and "comparison_id" in line for line in told)
    assert 0 < len(sheet(project)) < Run.load(project / "run").stages[3].summary["kept"]
    assert not (project / "run" / "05_label").exists()
    by_hand(project, sheet(project))
    told.clear()
    assert start(project, tell=told.append).stages[4].is_done
    assert not any("waits for people" in line for line in told)


@pytest.mark.parametrize(("ai", "judged"), [("false", 0), ("rest", 1), ("true", 2)])
def test_who_labels_what(project, ai, judged):
    config_with(project, f"ai: {ai}, human: {{file: people.jsonl}}")
    with pytest.raises(Paused):
        start(project)
    rows = sheet(project)
    by_hand(project, rows[:10])
    this = start(project)
    labels = list(Rows(this.stages[4].dir / "labels.jsonl", Label))
    of_ai = {label.comparison_id for label in labels if label.annotator.kind == "ai"}
    assert len(of_ai) == (0, len(rows) - 10, len(rows))[judged]
    assert sum(label.annotator.kind == "human" for label in labels) == 10


def test_what_earlier_versions_wrote_keeps_its_meaning(project):
    human = {"annotator": "tests.scripts:annotate"}
    old = LabelOptions.model_validate({"stage": "label", "ai": True, "human": {**human, "weight": None}})
    assert (old.ai, old.human.weight) == ("rest", 1.0)
    off = LabelOptions.model_validate({"stage": "label", "ai": False, "human": {**human, "weight": None}})
    assert off.ai is False
    config_with(project, "human: {annotator: 'tests.scripts:annotate'}")
    this = start(project, "label.ai=rest", until="pair")
    config = read_json(this.path / "config.json")
    config["stages"][4] |= {"ai": True, "human": {**config["stages"][4]["human"], "weight": None}}
    write_json(this.path / "config.json", config)
    assert Config.model_validate(config).stages[4].ai == "rest"
    assert list(pipeline.resume(this.path).stages[4].summary["metrics"]["sources"]) == ["simulated"]


def test_a_config_that_meant_something_else_earlier_is_told(project):
    config_with(project, "human: {annotator: 'tests.scripts:annotate'}")
    told = []
    start(project, until="sample", tell=told.append)
    assert any("ai: rest asks it only" in line for line in told)


def test_another_file_may_be_named_while_it_waits(project):
    config_with(project, "human: {file: people.jsonl}")
    with pytest.raises(Paused):
        start(project)
    by_hand(project, sheet(project)[:5])
    (project / "people.jsonl").rename(project / "elsewhere.jsonl")
    this = pipeline.resume(project / "run", [f"label.human.file={project / 'elsewhere.jsonl'}"])
    assert this.stages[4].is_done
    (project / "elsewhere.jsonl").unlink()
    assert pipeline.resume(project / "run").stages[4].is_done


def test_labels_that_cannot_be_read_stop_it_and_it_goes_on_when_they_are_mended(project):
    config_with(project, "human: {file: people.jsonl}")
    with pytest.raises(Paused):
        start(project)
    rows = sheet(project)
    (project / "people.jsonl").write_text('{"comparison_id": 1}\n')
    with pytest.raises(UserError, match=r"people.jsonl:1"):
        start(project)
    by_hand(project, rows[:3])
    assert start(project).stages[4].summary["status"] == "done"


def test_the_command_exits_with_4_and_a_kill_costs_nothing(project):
    config_with(project, "human: {file: people.jsonl}")
    words = ["run", project / "config.yaml", "--out", project / "run"]
    paused = rlaif(*words)
    assert paused.returncode == 4
    assert "Traceback" not in paused.stderr
    assert paused.stderr.count("waits for people's labels") == 1
    assert rlaif(*words).returncode == 4
    by_hand(project, sheet(project)[:10])
    command = [sys.executable, "-m", "rlaif.cli", *map(str, words)]
    root = Path(__file__).parent.parent
    killed = subprocess.run(command, cwd=root, env={**os.environ, "KILL_LABEL": "30"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    done = rlaif("resume", project / "run")
    assert done.returncode == 0, done.stderr
    whole = pipeline.run(project / "config.yaml", project / "whole")
    mine = (project / "run" / "05_label" / "labels.jsonl").read_text().splitlines()
    theirs = (whole.path / "05_label" / "labels.jsonl").read_text().splitlines()
    assert sorted(mine) == sorted(theirs)
