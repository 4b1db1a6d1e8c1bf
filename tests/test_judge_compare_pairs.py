"""`rlaif judge compare`: which pairs the judges are asked about, and what is said of them before."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from typer.testing import CliRunner

from rlaif.audit.cases import AuditCase
from rlaif.cli import app
from rlaif.feedback.judge import JudgeQuestion
from rlaif.records import Comparison, Prompt
from rlaif.workbench.judge_comparison import _disagreements
from rlaif.workbench.people_truth import LabelledCases
from tests.fake_run import fake_run
from tests.test_judge_compare import project

LABELLED = 25


def compared(folder, *more: str) -> tuple[dict, str]:
    """The figures of one judge on the run's pairs, of which people labelled some; and what was told."""
    words = [str(folder / "good.yaml"), "--out", str(folder / "page.html"), "--json", *more]
    done = CliRunner().invoke(app, ["judge", "compare", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


def labelled(folder) -> tuple[list[str], int]:
    """A run's pairs, and a folder where people labelled the first of them; → the options of the
    command, and the number of pairs."""
    project(folder, "good")
    run = fake_run(folder / "run", prompts=80)
    people = folder / "people"
    people.mkdir()
    for name, stage in (("prompts", ""), ("responses", "04_sample"), ("comparisons", "05_pair")):
        (people / f"{name}.jsonl").write_text((run / stage / f"{name}.jsonl").read_text())
    rows = [json.loads(line) for line in (people / "comparisons.jsonl").read_text().splitlines()]
    assert len(rows) > LABELLED
    person = {"kind": "human", "id": "ann"}
    labels = [
        {"id": str(n), "comparison_id": row["id"], "annotator": person, "verdict": "a", "p_a": 1.0}
        for n, row in enumerate(rows[:LABELLED])
    ]
    (people / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    return ["--run", str(run), "--labels", str(people / "labels.jsonl")], len(rows)


def test_beside_labels_only_labelled_pairs_are_asked_about(tmp_path):
    options, pairs = labelled(tmp_path)
    data, told = compared(tmp_path, *options)
    asked = next(row for row in data["judges"] if row["name"] == "good.yaml")
    assert (data["pairs"], asked["pairs"]) == (LABELLED, LABELLED)
    left = pairs - LABELLED
    assert f"1 judge, {LABELLED} pairs: {LABELLED} that people labelled; left out: {left} without a" in told
    assert "person's label (--num-pairs 0 asks about them, too)\n" in told
    assert asked["cost"]["calls"] == 2 * LABELLED * data["constitution"]["principles"]
    data, told = compared(tmp_path, *options, "--num-pairs", "10")
    assert data["pairs"] == 10
    assert f"1 judge, 10 pairs: 10 that people labelled; left out: {left} without a person's label" in told
    assert data["left_out"] == {"without a person's label": left}
    data, told = compared(tmp_path, *options, "--num-pairs", "0")
    assert data["pairs"] == pairs
    assert (
        f"1 judge, {pairs} pairs: {LABELLED} that people labelled, {left} without a person's label\n" in told
    )
    assert next(row for row in data["judges"] if row["name"] == "good.yaml")["accuracy"]["n"] == LABELLED


def with_people(options: list[str], labels: int) -> None:
    """Give the run itself the first of people's labels, beside its judge's."""
    run, people = Path(options[1]), Path(options[3])
    with next(run.glob("*_label/labels.jsonl")).open("a") as file:
        file.write("".join(people.read_text().splitlines(keepends=True)[:labels]))


def test_a_run_that_holds_labels_of_people_gives_its_other_pairs_too(tmp_path):
    options, pairs = labelled(tmp_path)
    with_people(options, 5)
    data, told = compared(tmp_path, *options, "--num-pairs", "0")
    assert data["pairs"] == pairs
    left = pairs - LABELLED
    assert f"{pairs} pairs: {LABELLED} that people labelled, {left} without a person's label\n" in told
    data, told = compared(tmp_path, *options[:2])
    assert data["pairs"] == pairs  # fewer than the 200 of a run
    assert f"{pairs} pairs: 5 that people labelled, {pairs - 5} without a person's label\n" in told
    assert next(row for row in data["judges"] if row["name"] == "good.yaml")["accuracy"]["n"] == 5
    data, told = compared(tmp_path, *options)
    assert (data["pairs"], data["left_out"]["without a person's label"]) == (LABELLED, left)
    data, told = compared(tmp_path, "--labels", options[1])
    assert f"5 pairs: 5 that people labelled; left out: {pairs - 5} without a person's label" in told


def test_labels_alone_and_a_run_alone_say_how_many_pairs(tmp_path):
    options, pairs = labelled(tmp_path)
    told = compared(tmp_path, *options[2:])[1]
    assert (
        f"1 judge, {LABELLED} pairs: {LABELLED} that people labelled; left out: {pairs - LABELLED} " in told
    )
    told = compared(tmp_path, *options[:2], "--num-pairs", "5")[1]
    assert "1 judge, 5 pairs: 5 without a person's label\n" in told


def test_people_who_say_nothing_are_no_truth_and_the_page_is_written(tmp_path):
    project(tmp_path, "good")
    run = fake_run(tmp_path / "run", prompts=40, human=True)
    labels = run / "06_label" / "labels.jsonl"
    rows = [
        json.loads(line) | {"verdict": "abstain", "p_a": None} for line in labels.read_text().splitlines()
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = compared(tmp_path, "--run", str(run))
    assert found["rules"] is None
    assert "Most people take a side on none of the" in (tmp_path / "page.html").read_text()


def test_a_judge_that_calls_a_tie_turns_no_majority():
    found = LabelledCases([AuditCase(question(n), {"all": "a"}) for n in range(2)], [])
    whole = [SimpleNamespace(case=case, p_a=p) for case, p in zip(found.cases, (0.45, 0.2), strict=True)]
    judge: Any = SimpleNamespace(name="judge", whole=whole)
    (shown,) = _disagreements([judge], found)
    assert shown["id"] == found.cases[1].question.comparison.id


def question(n: int) -> JudgeQuestion:
    prompt = Prompt.model_validate({"messages": [{"role": "user", "content": f"Question {n}?"}]})
    return JudgeQuestion(Comparison(prompt_id=prompt.id, a="a", b="b"), prompt, "one", "two", ())
