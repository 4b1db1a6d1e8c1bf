"""`rlaif show RUN ROW`: one row told in words, read back from the rows of a scripted run."""

import json
import re

import pytest
from typer.testing import CliRunner

import rlaif
from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.report.following import follow, state
from rlaif.report.story import story
from rlaif.runs.locking import locked


@pytest.fixture
def run(project, monkeypatch):
    monkeypatch.chdir(project)
    config = project / "config.yaml"
    config.write_text(config.read_text() + "  - {stage: evaluate}\n")
    return rlaif.run("config.yaml", "run")


def told(run, row):
    return "\n".join(story(run.path, row["id"]))


def test_a_pair_is_told_with_both_orders_of_every_verdict(run):
    pair = run.dataset("comparisons")[0]
    labels = [row for row in run.dataset("labels") if row["comparison_id"] == pair["id"]]
    texts = {row["id"]: row["text"] for row in run.dataset("responses")}
    said = told(run, pair)
    assert f"a {pair['a']}: {texts[pair['a']]}" in said
    assert f"b {pair['b']}: {texts[pair['b']]}" in said
    for principle in {row["principle_id"] for row in labels}:
        (line,) = [line for line in said.splitlines() if line.strip().startswith(f"{principle} ")]
        by_order = {row["order"]: row["p_a"] for row in labels if row["principle_id"] == principle}
        assert f"a first {by_order['ab']:.3f}" in line
        assert f"b first {by_order['ba']:.3f}" in line
    preference = next(r for r in run.dataset("preferences") if r["comparison_id"] == pair["id"])
    assert f"P(a is better): {preference['p_a']:.3f}" in said
    for row in (preference, labels[0]):  # what is about the pair tells the pair
        assert told(run, row) == said


def test_a_revision_is_told_with_its_principle_and_both_texts(run):
    revision = next(row for row in run.dataset("revisions") if row["status"] == "ok")
    texts = {row["id"]: row["text"] for row in run.dataset("responses")}
    said = told(run, revision)
    principle = {p.id: p.text for p in run.constitution.principles}[revision["principle_id"]]
    for part in (
        f"principle {revision['principle_id']}: {principle}",
        f"critique: {revision['critique']}",
        f"before {revision['from_id']}: {texts[revision['from_id']]}",
        f"after {revision['to_id']}: {texts[revision['to_id']]}",
    ):
        assert part in said
    response = {"id": revision["from_id"]}
    assert f"critique: {revision['critique']}" in told(run, response)  # what came of the response


def test_a_response_is_told_through_every_round_of_critique_with_its_verdicts(run):
    steps = run.dataset("revisions")
    first = {step["from_id"]: step for step in steps if step["round"] == 1 and step["status"] == "ok"}
    second = next(s for s in steps if s["round"] == 2 and s["status"] == "ok" and s["from_id"] not in first)
    begun = next(step for step in first.values() if step["to_id"] == second["from_id"])
    for name in (begun["from_id"], second["from_id"], second["to_id"]):  # before, between and after
        said = told(run, {"id": name})
        places = [said.index(f"{step['id']}, round {step['round']}") for step in (begun, second)]
        assert places == sorted(places)
        assert said.count("  critique: ") == said.count("  revision: ok") == 2
    pair = next(row for row in run.dataset("comparisons") if second["to_id"] in (row["a"], row["b"]))
    labels = [row for row in run.dataset("labels") if row["comparison_id"] == pair["id"]]
    _, verdicts = told(run, {"id": second["to_id"]}).split(f"{pair['id']}, as ")
    for label in labels:
        assert re.search(rf"^ +{label['principle_id']} .*first {label['p_a']:.3f}", verdicts, re.M)


def test_a_graded_response_is_told_with_its_scores(run):
    row = run.dataset("responses")[0]
    grade = {"id": "graded", "prompt_id": row["prompt_id"], "response_id": row["id"], "scores": {"judge": 2}}
    (run.stages[0].dir / "grades.jsonl").write_text(json.dumps(grade) + "\n")
    assert "grades graded: score judge 2.000" in told(run, row)


def test_the_summary_says_which_rows_can_be_shown(run):
    shown = CliRunner().invoke(app, ["show", "run"]).output
    pair, prompt = re.findall(r"rlaif show run (\w{16})", shown)
    assert "verdicts of ai" in told(run, {"id": pair})
    assert told(run, {"id": prompt}).startswith(f"prompts {prompt}")


def test_a_prompt_lists_its_responses(run):
    prompt = json.loads((run.path / "prompts.jsonl").read_text().splitlines()[0])
    said = told(run, prompt)
    own = [row["id"] for row in run.dataset("responses") if row["prompt_id"] == prompt["id"]]
    assert own
    assert all(i in said for i in own)
    assert f"user: {prompt['messages'][0]['content']}" in said


def test_an_evaluated_response_is_told_with_gold_and_the_judge(run):
    row = run.dataset("evaluation")[0]
    said = told(run, row)
    for principle, kept in row["gold"].items():
        if kept is not None:
            assert re.search(rf"^ +{re.escape(principle)} +gold {'kept' if kept else 'broken'}", said, re.M)
    assert said == told(run, {"id": row["response_id"]})


def test_what_a_terminal_would_obey_is_not_printed(run):
    file = run.path / "01_sample" / "responses.jsonl"
    first = json.loads(file.read_text().splitlines()[0])
    file.write_text(file.read_text().replace(first["text"], first["text"] + "\\u001b[2J[bold]", 1))
    result = CliRunner().invoke(app, ["show", str(run.path), first["id"]])
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "[bold]" in result.output
    rows = json.loads(CliRunner().invoke(app, ["show", str(run.path), first["id"], "--json"]).output)
    assert rows[0]["id"] == first["id"]


def test_an_unknown_row_is_refused_with_one_that_exists(run):
    with pytest.raises(UserError, match="no row has the id nothing"):
        story(run.path, "nothing")


def test_a_run_is_followed_to_its_end(project, monkeypatch):
    monkeypatch.chdir(project)
    run = rlaif.run("config.yaml", "run", until="pair")
    stage = run.stages[4]
    stage.begin()
    (stage.dir / "labels.jsonl").write_text('{"id": "x"}\n{"id": "y"}\n')
    states = follow(run.path, every=0.01)
    with locked(run.path):
        first = next(states)
    assert [line.split(":")[0] for line in first] == [
        "01_sample",
        "02_critique",
        "03_sample",
        "04_pair",
        "05_label",
    ]
    assert first[0].startswith("01_sample: done in")
    assert first[-1] == "05_label: running, 2 labels"
    (stage.dir / "labels.jsonl").unlink()
    rlaif.run("config.yaml", "run")
    assert next(states)[-1].startswith("05_label: done in")
    assert list(states) == []
    result = CliRunner().invoke(app, ["show", "run", "--follow"])
    assert result.output.count("done in") == 5


def test_a_training_is_followed_by_its_last_row(project, monkeypatch):
    monkeypatch.chdir(project)
    run = rlaif.run("config.yaml", "run", until="pair")
    stage = run.stages[4]
    stage.begin()
    (stage.dir / "metrics.jsonl").write_text(
        '{"update": 1, "reward": 0.5, "exact_kl": 0.25, "length": 9.0}\n'
    )
    # begun, and no process holds the run
    assert state(stage) == "05_label: interrupted, update 1, reward 0.500, KL 0.250, tokens 9.0"
    stage.save("failed", error="x")
    (lines,) = follow(run.path)  # nobody works there: it ends
    assert lines[-1].startswith("05_label: failed")
