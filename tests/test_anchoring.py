"""What people say blind and once a judge's verdict was seen, from the page's folder to `rlaif agree`."""

import pytest

from rlaif.human.agree import agree
from rlaif.human.agree_page import in_words, write_agreement
from rlaif.human.annotated import read_annotated
from rlaif.records import TIE_MARGIN
from tests.annotating import Person, session, write_file
from tests.fake_run import fake_run


def follow(person, number):
    """Always prefer the first, then do as the judge does in all but one of the first `number` pairs."""
    kept = None
    for n in range(number):
        before = person.does("choice", [1, 2])["task"]
        p = before["opinion"]["p_first"]
        judge = [1, 1] if abs(p - 0.5) <= TIE_MARGIN else [1, 2] if p > 0.5 else [2, 1]
        if kept is None and judge != [1, 2]:
            kept = n
            judge = [1, 2]
        person.does("final", judge)
    assert kept is not None


def test_agreement_is_told_apart_before_and_after_a_verdict_was_seen(tmp_path):
    run = fake_run(tmp_path / "run", until=6, prompts=40)
    made = session(run, run / "annotations", assisted=True)
    follow(Person(made), 20)
    follow(Person(made, "Ben"), 12)
    made.write()
    data = agree(read_annotated([run, run / "annotations"]))
    rows = {row["person"]: row for row in data["anchored"]}
    ana = rows["human:Ana"]
    assert (ana["n"], rows["human:Ben"]["n"]) == (20, 12)
    assert ana["anchored"]["value"] == pytest.approx(19 / 20)
    assert ana["changed"] == ana["towards"]
    blind = next(row for row in data["between"] if row["between"] == ["ai:judge", "human:Ana"])
    assert ana["blind"]["value"] == pytest.approx(blind["agreement"]["value"])  # which is of blind labels
    assert ana["blind"]["value"] == pytest.approx(19 / 20 - ana["changed"] / 20)
    assert ana["gap"]["value"] == pytest.approx(ana["changed"] / 20)
    assert ana["gap"]["ci"][0] <= ana["gap"]["value"] <= ana["gap"]["ci"][1]
    said = next(line for line in in_words(data) if "blind" in line)
    assert said.startswith("human:Ana agrees with ai:judge in 0.")
    assert "of 20 pairs blind, and in 0.950" in said
    page = write_agreement(tmp_path / "page.html", data).read_text()
    assert "Before and after a judge" in page
    assert not agree(read_annotated([run, run / "annotations" / "labels.jsonl"]))["anchored"]


def test_rankings_and_the_labels_made_of_them_count_once(tmp_path):
    source = write_file(tmp_path / "f.jsonl", items=5, responses=3)
    made = session(source, tmp_path / "out", ranking=True)
    for name in ("Ana", "Ben"):
        while Person(made, name).state["task"]:
            Person(made, name).does("choice", [1, 3, 2])
    made.write()
    data = agree(read_annotated([tmp_path / "out"]))
    assert data["pairs"] == 15
    assert [row["n"] for row in data["between"]] == [15]
    assert data["sources"][0]["labels"] == 30
    assert all(row["flips"]["n"] == 0 for row in data["annotators"])
