"""Annotating without a browser: who gets what, the log, and the rows that runs read."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif import pipeline
from rlaif.cli import app, main
from rlaif.errors import Conflict, Paused, UserError
from rlaif.human.annotating.actions import ActionLog
from rlaif.human.folder import read_folder
from rlaif.human.rankings import load_human_labels
from rlaif.records import Label
from tests.annotating import Person, rows, session, write_file
from tests.fake_run import fake_run

ROOT = Path(__file__).parent.parent


def test_choices_become_labels_whatever_side_was_shown_first(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=20), tmp_path / "out")
    ana = Person(made)
    for n in range(18):
        assert ana.state["task"]["messages"] == [{"role": "user", "content": f"Question {n}?"}]
        ana.prefers(f"item {n} {'xy'[n % 2]}")
    ana.does("choice", [1, 1], note=" both  \n")
    ana.does("skip")
    assert ana.state["task"] is None
    made.write()
    found = rows(tmp_path / "out" / "labels.jsonl")
    assert [row["verdict"] for row in found] == [*"ab" * 9, "tie"]
    assert [row["p_a"] for row in found] == [*[1.0, 0.0] * 9, 0.5]
    assert {row["order"] for row in found} == {"ab", "ba"}
    assert found[-1]["rationale"] == "both"
    assert found[0]["annotator"] == {"kind": "human", "id": "Ana"}
    assert found[0]["seconds"] == 2.0
    assert "anchored" not in found[0]
    actions = rows(tmp_path / "out" / "actions.jsonl")
    texts = {row["id"]: row["text"] for row in rows(tmp_path / "out" / "responses.jsonl")}
    for action, row in zip(actions, found, strict=False):  # the order that is recorded is the one shown
        assert row["order"] == ("ab" if action["order"] == [0, 1] else "ba")
        assert [texts[id][-1] for id in action["response_ids"]] == ["x", "y"]
    folder = read_folder(tmp_path / "out")
    assert load_human_labels(tmp_path / "out" / "labels.jsonl", folder.comparisons.values()) == [
        Label.model_validate(row) for row in found
    ]
    assert sum(map(len, folder.labels().values())) == 19


def test_an_undo_is_a_row_and_takes_the_choice_back(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl"), tmp_path / "out")
    ana = Person(made)
    with pytest.raises(UserError, match="Nothing to undo"):
        ana.does("undo")
    ana.prefers("x")
    before = ana.state["task"]["id"]
    ana.prefers("x")
    assert ana.does("undo")["task"]["id"] == before
    assert ana.does("undo")["done"] == 0
    ana.prefers("y")
    made.write()
    assert [row["verdict"] for row in rows(tmp_path / "out" / "labels.jsonl")] == ["b"]
    kinds = [row["kind"] for row in rows(tmp_path / "out" / "actions.jsonl")]
    assert kinds == ["choice", "choice", "undo", "undo", "choice"]


def test_the_log_alone_brings_everything_back(tmp_path):
    source, out = write_file(tmp_path / "f.jsonl", items=9), tmp_path / "out"
    made = session(source, out, repeats=0.5)
    ana, ben = Person(made), Person(made, "Ben")
    for _ in range(4):
        ana.prefers("x")
        ben.prefers("y")
    ana.does("undo")
    shown = [ana.state, ben.state]
    with (out / "actions.jsonl").open("ab") as file:
        file.write(b'{"v":1,"id":"torn')  # a line that a kill cut short
    (out / "labels.jsonl").unlink()
    again = session(source, out, repeats=0.5)
    assert [Person(again).state, Person(again, "Ben").state] == shown
    assert len(rows(out / "labels.jsonl")) == 7
    Person(again).prefers("x")
    assert [row["step"] for row in rows(out / "actions.jsonl") if row["annotator"] == "Ana"] == list(range(6))


def test_the_same_action_sent_twice_counts_once(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl"), tmp_path / "out")
    task = Person(made).state["task"]["id"]
    asked = {"annotator": "Ana", "step": 0, "kind": "choice", "task": task, "ranks": [1, 2], "seconds": 1}
    once = made.desk.act(asked)
    assert made.desk.act({**asked, "seconds": 9}) == once
    assert len(rows(tmp_path / "out" / "actions.jsonl")) == 1
    with pytest.raises(Conflict):
        made.desk.act({**asked, "ranks": [2, 1]})
    undo = {"annotator": "Ana", "step": 1, "kind": "undo"}
    assert made.desk.act(undo) == made.desk.act(undo)


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "0123456789abcdef"},
        {"task": None},
        {"step": True, "task": ""},
        {"step": -1},
        {"step": "0"},
        {"kind": "label"},
        {"kind": "final"},
        {"ranks": [1]},
        {"ranks": [1, 2, 3]},
        {"ranks": [1, True]},
        {"ranks": ["1", "2"]},
        {"ranks": None},
        {"seconds": -1},
        {"seconds": "1"},
        {"seconds": 1e9},
        {"note": 5},
        {"note": "x" * 10_001},
        {"annotator": ""},
        {"annotator": "a\x1b[31m"},
        {"annotator": ["Ana"]},
        {"annotator": "x" * 61},
    ],
)
def test_what_no_page_sends_is_refused_and_leaves_no_row(tmp_path, wrong):
    made = session(write_file(tmp_path / "f.jsonl"), tmp_path / "out")
    task = Person(made).state["task"]["id"]
    asked = {"annotator": "Ana", "step": 0, "kind": "choice", "task": task, "ranks": [1, 2], "seconds": 1}
    with pytest.raises(UserError):
        made.desk.act({**asked, **wrong})
    assert not rows(tmp_path / "out" / "actions.jsonl")
    made.desk.act(asked)


def test_another_annotators_item_is_not_ones_own(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl"), tmp_path / "out")
    theirs = Person(made, "Ben").state["task"]["id"]
    asked = {"annotator": "Ana", "step": 0, "kind": "choice", "task": theirs, "ranks": [1, 2]}
    with pytest.raises(UserError, match="not what is shown to Ana"):
        made.desk.act(asked)


def answer_all(person):
    shown = []
    while task := person.state["task"]:
        shown.append(task["messages"][0]["content"])
        person.does("choice", [1, 2])
    return shown


def test_only_the_overlap_is_shown_to_everyone(tmp_path):
    source = write_file(tmp_path / "f.jsonl", items=200)
    made = session(source, tmp_path / "out", overlap=0.25)
    ana, ben = Person(made), Person(made, "Ben")
    shown = {"Ana": [], "Ben": []}
    while any(person.state["task"] for person in (ana, ben)):
        for person in (ana, ben):
            if task := person.state["task"]:
                shown[person.name].append(task["messages"][0]["content"])
                person.does("choice", [1, 2])
    everything = {f"Question {n}?" for n in range(200)}
    assert set(shown["Ana"]) | set(shown["Ben"]) == everything
    assert 30 <= len(set(shown["Ana"]) & set(shown["Ben"])) <= 70
    assert len(shown["Ana"]) == len(set(shown["Ana"]))
    assert ana.state["done"] == ana.state["total"] == len(shown["Ana"])


def test_what_another_one_holds_is_free_again_after_a_while(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=3), tmp_path / "out", overlap=0.0)
    ben, ana = Person(made, "Ben"), Person(made)
    assert ben.state["task"]["messages"][0]["content"] == "Question 0?"  # and goes away
    assert answer_all(ana) == ["Question 1?", "Question 2?"]
    assert ana.state["done"] == ana.state["total"] == 2
    later = made.desk.now() + 1000
    made.desk.now = lambda: later
    assert answer_all(ana) == ["Question 0?"]
    assert ben.state["task"]["messages"][0]["content"] == "Question 0?"  # back again: it is still Ben's


def test_repeated_items_come_later_and_stay_out_of_the_labels(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=60), tmp_path / "out", repeats=0.3)
    ana = Person(made)
    total = ana.state["total"]
    shown = answer_all(ana)
    twice = {text for text in shown if shown.count(text) == 2}
    assert len(shown) == total == 60 + len(twice)
    assert 8 <= len(twice) <= 30
    for text in twice:
        first = shown.index(text)
        later = shown.index(text, first + 1)
        new = set(shown[first + 1 : later])
        assert len(new) >= 10 or later >= 60, text
    made.write()
    labels, repeats = (rows(tmp_path / "out" / f"{name}.jsonl") for name in ("labels", "repeats"))
    assert (len(labels), len(repeats)) == (60, len(twice))
    # The first shown was always chosen, so a repeat agrees where it was shown in the same order.
    orders = {row["comparison_id"]: row["order"] for row in labels}
    same = sum(orders[row["comparison_id"]] == row["order"] for row in repeats)
    figures = made.results.summary()["Ana"]
    assert (figures["repeated"], figures["repeated_the_same"]) == (len(twice), same)
    assert 0 < same < len(twice)


def test_rankings_with_ties_become_rows_and_labels(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl", items=2, responses=3), tmp_path / "out", ranking=True)
    ana = Person(made)
    best = {"x": 7, "y": 2, "z": 7}
    ana.does("choice", [best[text[-1]] for text in ana.state["task"]["responses"]])
    made.write()
    out = tmp_path / "out"
    [ranking] = rows(out / "rankings.jsonl")
    assert ranking["ranks"] == [2, 1, 2]
    texts = {row["id"]: row["text"][-1] for row in rows(out / "responses.jsonl")}
    pairs = {row["id"]: texts[row["a"]] + texts[row["b"]] for row in rows(out / "comparisons.jsonl")}
    found = {pairs[row["comparison_id"]]: row["verdict"] for row in rows(out / "labels.jsonl")}
    assert found == {"xy": "b", "xz": "tie", "yz": "a"}
    folder = read_folder(out)
    read = load_human_labels(out / "rankings.jsonl", folder.comparisons.values())
    assert {pairs[each.comparison_id]: each.verdict for each in read} == found


def test_a_ranking_has_a_key_for_each_response(tmp_path):
    source = tmp_path / "f.jsonl"
    source.write_text(json.dumps({"prompt": "Why?", "responses": [f"item {n}" for n in range(11)]}) + "\n")
    made = session(source, tmp_path / "out", ranking=True)
    assert len(Person(made).state["task"]["responses"]) == 9
    assert +made.material.left_out == {"response after the first 9 to a prompt": 2}
    Person(made).does("choice", list(range(9, 0, -1)))
    made.write()
    assert len(rows(tmp_path / "out" / "labels.jsonl")) == 9 * 8 / 2


def test_a_ranking_of_two_is_a_ranking_too(tmp_path):
    source, out = write_file(tmp_path / "f.jsonl", items=2), tmp_path / "out"
    made = session(source, out, ranking=True)
    Person(made).prefers("y")
    made.write()
    assert [row["ranks"] for row in rows(out / "rankings.jsonl")] == [[2, 1]]
    assert [row["verdict"] for row in rows(out / "labels.jsonl")] == ["b"]
    with pytest.raises(UserError, match="holds choices on rankings"):
        session(source, out)
    made = session(source, tmp_path / "pairs")
    Person(made).prefers("y")
    with pytest.raises(UserError, match="holds choices on pairs"):
        session(source, tmp_path / "pairs", ranking=True)


def test_what_the_page_gets_does_not_tell_who_wrote_or_what_was_thought(tmp_path):
    run = fake_run(tmp_path / "run", until=6, prompts=40)
    made = session(run, tmp_path / "out", queue="unsure", assisted=True)
    task = Person(made).state["task"]
    assert set(task) == {"id", "phase", "messages", "responses", "principles", "asked", "blur"}
    assert all(isinstance(text, str) for text in task["responses"])


def test_a_run_that_waits_for_people_goes_on_with_what_was_annotated(project, monkeypatch):
    config = project / "config.yaml"
    config.write_text(
        config.read_text().replace("{stage: label}", "{stage: label, ai: rest, human: {file: people.jsonl}}")
    )
    with pytest.raises(Paused, match="rlaif annotate"):
        pipeline.run(config, project / "run")
    run, out = project / "run", project / "run" / "annotations"
    made = session(run, out, most=12)
    ana = Person(made)
    for _ in range(11):
        ana.does("choice", [1, 2])
    made.write()
    again = session(run, out, most=12)
    Person(again).does("choice", [1, 2])
    again.write()
    assert rows(project / "people.jsonl") == rows(out / "labels.jsonl")
    assert pipeline.resume(run).stages[4].is_done
    used = [row for row in rows(run / "05_label" / "labels.jsonl") if row["annotator"]["kind"] == "human"]
    assert sorted(row["id"] for row in used) == sorted(row["id"] for row in rows(out / "labels.jsonl"))
    assert len(used) == 12
    before = (project / "people.jsonl").read_text()
    later = session(run, out, queue="unsure")  # the run has gone on: its labels stay what it has read
    Person(later).does("choice", [1, 2])
    later.write()
    assert (project / "people.jsonl").read_text() == before
    assert len(rows(out / "labels.jsonl")) == 13


def test_labels_that_somebody_else_wrote_are_left_alone(project):
    config = project / "config.yaml"
    config.write_text(
        config.read_text().replace("{stage: label}", "{stage: label, human: {file: people.jsonl}}")
    )
    with pytest.raises(Paused):
        pipeline.run(config, project / "run")
    (project / "people.jsonl").write_text("theirs\n")
    made = session(project / "run", project / "out")
    Person(made).does("choice", [1, 2])
    made.write()
    assert (project / "people.jsonl").read_text() == "theirs\n"
    assert made.results.kept_away


def test_a_choice_after_the_judge_was_seen_is_anchored_though_it_was_taken_back(tmp_path):
    made = session(fake_run(tmp_path / "run", until=6, prompts=30), tmp_path / "out", assisted=True)
    ana = Person(made)
    shown = ana.does("choice", [1, 2])
    assert shown["task"]["chosen"] == [1, 2]
    assert shown["task"]["phase"] == "final"
    ana.does("final", [1, 2])
    ana.does("choice", [2, 1])
    ana.does("undo")
    assert "opinion" not in ana.state["task"]
    ana.does("choice", [1, 2])
    ana.does("final", [2, 1])
    made.write()
    blind, anchored = (rows(tmp_path / "out" / f"{name}.jsonl") for name in ("labels", "anchored"))
    first, second = [action["item"] for action in rows(tmp_path / "out" / "actions.jsonl")][::3][:2]
    assert [row["comparison_id"] for row in blind] == [first]
    assert [row["comparison_id"] for row in anchored] == [first, second]
    assert [row["anchored"] for row in anchored] == [True, True]
    assert (anchored[1]["verdict"] == "b") == (anchored[1]["order"] == "ab")  # the last word


def test_principles_are_all_asked_before_the_judge_is_seen(tmp_path):
    run = fake_run(tmp_path / "run", until=6, prompts=30)
    made = session(run, tmp_path / "out", assisted=True, per_principle=True)
    ana = Person(made)
    for _ in range(3):
        assert ana.does("choice", [1, 2])["task"]["phase"] == "choice"
    shown = ana.does("choice", [1, 2])["task"]
    assert [each["id"] for each in shown["opinion"]["principles"]] == ["no-rude", "no-wrong", "no-sad"]
    ana.does("undo")
    ana.does("undo")
    ana.does("choice", [2, 1])  # under the last principle, after the judge was seen
    made.write()
    kept = rows(tmp_path / "out" / "labels.jsonl")
    assert [row.get("principle_id") for row in kept] == ["no-rude", "no-wrong"]
    assert [row["principle_id"] for row in rows(tmp_path / "out" / "anchored.jsonl")] == ["no-sad"]


def test_a_log_of_another_order_is_refused(tmp_path):
    made = session(write_file(tmp_path / "f.jsonl"), tmp_path / "out")
    for _ in range(2):
        Person(made).prefers("x")
    path = tmp_path / "out" / "actions.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match="step 1 of Ana"):
        ActionLog(path)
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"actions.jsonl:1: damaged"):
        ActionLog(path)


@pytest.mark.parametrize("words", [["--queue", "unsur"], ["--assist"], ["--assist", "--rank"]])
def test_the_command_refuses_what_cannot_be(tmp_path, monkeypatch, capsys, words):
    source = write_file(tmp_path / "f.jsonl")
    monkeypatch.setattr("sys.argv", ["rlaif", "annotate", str(source), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_the_pages_commands_have_the_arguments_they_are_given():
    import typer

    from rlaif.cli import app

    page = (ROOT / "docs" / "annotate.md").read_text()
    lines = page.split("```\n")[1].splitlines()
    assert len(lines) == 3
    for line in lines:
        _, name, *words = shlex.split(line)
        command = typer.main.get_command(app).get_command(None, name)
        assert command.make_context(name, words).params["path"], line


@pytest.mark.parametrize(
    ("words", "why"), [(["--rank"], "are on pairs"), (["--repeats", "0.2"], "once its verdict")]
)
def test_assisted_is_of_pairs_shown_once(tmp_path, words, why):
    file = write_file(tmp_path / "f.jsonl")
    done = CliRunner().invoke(app, ["annotate", str(file), "--assist", *words])
    assert isinstance(done.exception, UserError)
    assert why in str(done.exception)
