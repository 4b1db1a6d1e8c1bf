"""Prompts to which no principle applies, and responses of which nothing could be read: what the figures of
reports and comparisons are then of."""

import json

import pytest

from rlaif.config import ModelConfig
from rlaif.engines import Scripted
from rlaif.report.compare import compare
from rlaif.report.comparison_text import in_words
from rlaif.report.report import details, policies, write_report
from rlaif.report.run_reader import RunReader
from rlaif.runs.storage import read_json, write_json
from tests.fake_run import fake_run

KEEP = {"base": 0.5, "ppo": 0.9}
UNREAD = {"compliance": {}, "unread": ["no-rude", "no-wrong", "no-sad"]}


def silent_judge() -> Scripted:
    """A judge that puts no probability on an answer."""
    return Scripted(on_score=lambda messages, suffix, choices: [0.0, 0.0], name="silent")


def changed(run, file: str, change) -> None:
    """Every second row of a file of the run changed, those after it not."""
    path = next(run.glob(file))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | (change if n % 2 else {})) + "\n" for n, row in enumerate(rows)))


def scoped(run, heldout: float = 0.25):
    """The run with principles that speak about half of its prompts, and gold of those alone."""
    rules = read_json(run / "constitution.json")
    write_json(
        run / "constitution.json",
        rules | {"principles": [p | {"applies_to": ["asked"]} for p in rules["principles"]]},
    )
    write_json(run / "config.json", read_json(run / "config.json") | {"heldout": heldout})
    changed(run, "prompts.jsonl", {"tags": ["asked"]})
    return run


def asked_prompts(run) -> set[str]:
    rows = map(json.loads, (run / "prompts.jsonl").read_text().splitlines())
    return {row["id"] for row in rows if row["tags"]}


@pytest.mark.parametrize("unread", [UNREAD, {"compliance": {"no-rude": 0.9}, "unread": ["no-sad"]}])
def test_a_report_is_written_though_no_held_out_wording_could_be_read(tmp_path, unread):
    run = fake_run(tmp_path / "run", keep=KEEP, gold=False, prompts=100)
    changed(run, "*_evaluate/evaluation.jsonl", {"split": "wordings", "p_win": None, **unread})
    page = write_report(run).read_text()
    assert "held-out wordings of what was asked" not in page


def test_a_win_rate_of_a_report_is_of_the_prompts_that_the_judge_was_asked_about(tmp_path):
    run = fake_run(tmp_path / "run", keep=KEEP, prompts=200)
    # The same text as the base policy's, where no principle applies.
    changed(run, "*_evaluate/evaluation.jsonl", {"compliance": {}, "p_win": 0.5})
    reader = RunReader(run)
    wins = policies(reader)[-1]["wins"]
    assert wins["n"] == sum(bool(row.compliance) for row in reader.evaluations["ppo"].values())
    assert f"in {wins['value']:.2f}" in details(reader)[1]
    assert f"of {wins['n']} pairs" in details(reader)[1]


def test_a_comparison_counts_no_prompt_as_unreadable_that_the_judge_was_not_asked_about(tmp_path):
    runs = [
        fake_run(tmp_path / name, keep={"base": 0.5, "ppo": keep}, prompts=240)
        for name, keep in (("a", 0.9), ("b", 0.6))
    ]
    data = compare([scoped(runs[0]), scoped(runs[1], 0.26)])
    rows = (runs[0] / "09_evaluate" / "evaluation.jsonl").read_text().splitlines()
    shared = {row["prompt_id"] for row in map(json.loads, rows)} & asked_prompts(runs[0])
    assert data["win_rate"]["invalid"] == 0
    assert data["win_rate"]["n"] == len(shared) < data["prompts"]


def test_the_first_line_of_a_comparison_says_on_how_many_prompts_gold_knows_anything(tmp_path):
    runs = [
        fake_run(tmp_path / name, keep={"base": 0.5, "ppo": keep}, prompts=240)
        for name, keep in (("a", 0.9), ("b", 0.6))
    ]
    for run in runs:
        changed(run, "*_evaluate/evaluation.jsonl", {"gold": None})
    write_json(runs[1] / "config.json", read_json(runs[1] / "config.json") | {"heldout": 0.26})
    data = compare(runs)
    known = data["gold"]["delta"]["all"]["n"]
    assert known < data["prompts"]
    assert f"of {known} held-out responses" in data["verdict"]["text"]


def test_three_arms_have_a_page_though_the_judge_says_nothing(tmp_path):
    keep = {"a": 0.9, "b": 0.7, "c": 0.5}
    runs = [
        fake_run(tmp_path / name, keep={"base": 0.5, "ppo": p}, prompts=80, longer=n + 1)
        for n, (name, p) in enumerate(keep.items())
    ]
    for n, run in enumerate(runs):
        write_json(run / "config.json", read_json(run / "config.json") | {"heldout": 0.25 + n / 100})
    judge = ModelConfig(engine="scripted", model="tests.test_scoped_prompts:silent_judge")
    data = compare(runs, out=tmp_path / "page.html", judge=judge)
    said = data["overall"]["judge"]
    assert said["pairs"]["A–B"]["value"] is None
    assert (said["text"], said["more"]) == ("By judge nothing is known of the 3 arms.", "")
    assert "By judge nothing is known of the 3 arms.\n  A–B: " in "\n".join(in_words(data))
    assert "Each against each" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("asked", "gave no verdict that could be read."),
        ("nowhere", "was not asked: no principle applies to any of the held-out prompts."),
    ],
)
def test_a_comparison_says_why_no_judge_has_a_say(tmp_path, tag, said):
    runs = [
        fake_run(tmp_path / name, keep={"base": 0.5, "ppo": keep}, prompts=80, longer=longer)
        for name, keep, longer in (("a", 0.9, 1), ("b", 0.6, 2))
    ]
    for run in map(scoped, runs):
        rules = read_json(run / "constitution.json")
        write_json(
            run / "constitution.json",
            rules | {"principles": [p | {"applies_to": [tag]} for p in rules["principles"]]},
        )
    judge = ModelConfig(engine="scripted", model="tests.test_scoped_prompts:silent_judge")
    told = compare(runs, judge=judge)["answers"]["judge"]
    assert told == f"The judge tests.test_scoped_prompts:silent_judge {said}"
