"""What each principle does to preferences: figures by hand, planted relations, the command and its page."""

import json
from html import unescape
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.feedback.preferences import aggregate, p_a_by_annotator, without_each
from rlaif.playground.wordings import KINDS
from rlaif.records import Annotator, Label, Prompt, verdict_of
from rlaif.report.principles import PrincipleReadings
from rlaif.report.principles_shown import COLUMNS, in_words, report_of
from tests import planted
from tests.fake_run import fake_run


def rules(*weights: float) -> Constitution:
    rows = [
        {"id": name, "text": f"Rule {name}.", "weight": w} for name, w in zip("xyz", weights, strict=False)
    ]
    return Constitution.model_validate({"name": "rules", "principles": rows})


def prompt(name: str, *tags: str) -> Prompt:
    return Prompt.model_validate({"messages": [{"role": "user", "content": name}], "tags": tags})


def labels(pair: str, **said: float | None) -> list[Label]:
    """One verdict a principle; None cannot be read."""
    who = Annotator(kind="ai", id="judge")
    return [
        Label(comparison_id=pair, annotator=who, principle_id=name, p_a=p, verdict=verdict_of(p))
        for name, p in said.items()
    ]


def test_figures_worked_by_hand():
    held = PrincipleReadings(rules(1.0, 1.0))
    held.add(prompt("one"), labels("1", x=0.9, y=0.8))  # both for a
    held.add(prompt("two"), labels("2", x=0.9, y=0.02))  # y turns it
    held.add(prompt("three"), labels("3", x=0.5, y=None))  # a tie, and nothing to read
    held.add(prompt("three"), labels("4", x=0.55, y=0.3))
    held.add(prompt("four"), [])
    found = held.figures()
    assert (found["comparisons"], found["unlabelled"], found["preferences"]) == (4, 1, 4)
    x, y = found["principles"]
    assert [x[name]["value"] for name in ("applies", "decides", "ties", "unread")] == [1.0, 0.5, 0.5, 0.0]
    assert [y[name]["value"] for name in ("decides", "ties", "unread")] == [0.75, 0.0, 0.25]
    assert (x["labels"], y["labels"]) == (4, 4)
    # The first two preferences are for a and for b; x decides both, for a, and agrees with the first alone.
    assert (x["agreement"]["value"], x["agreement"]["n"]) == (0.5, 2)
    assert (x["agreement_with_rest"]["value"], x["agreement_with_rest"]["n"]) == (0.5, 2)
    # Without y the second is for a, the fourth a tie; without x the third is without any opinion.
    assert (x["without"]["turned"]["value"], y["without"]["turned"]["value"]) == (0.0, 0.25)
    assert y["without"]["undecided"]["value"] == 0.25
    assert (x["without"]["gone"], y["without"]["gone"]) == (1, 0)
    assert found["pairs"][0]["same"]["value"] == pytest.approx(1 / 3)
    assert found["pairs"][0]["opposite"]["value"] == pytest.approx(1 / 3)
    # y decides the other comparison of the third prompt.
    assert (found["undecided"]["value"], found["undecided"]["n"]) == (0.0, 3)


def test_without_each_is_what_the_other_labels_give():
    rng = Random(3)
    constitution = rules(1.0, 0.5, 2.0)
    weights = {p.id: p.weight for p in constitution.principles}
    for _ in range(50):
        said = [row for who in ("one", "two") for row in given(rng, "ai", who, "xyz")]
        said += [
            row for who in ("ann", "ben") for row in given(rng, "human", who, rng.choice(["x", "", "xz"]))
        ]
        left = without_each(p_a_by_annotator(said, weights), weights, 1.5, (0.2, 0.8))
        for name in "xyz":
            rest = [row for row in said if row.principle_id != name]
            found = aggregate(rest, constitution, 1.5, (0.2, 0.8))
            if name in left:
                assert left[name] == (pytest.approx(found[0]) if found else None)


def given(rng: Random, kind: str, who: str, names: str) -> list[Label]:
    """One annotator's verdicts under some principles, or on the whole."""
    annotator = Annotator.model_validate({"kind": kind, "id": who})
    kept = [name for name in names if rng.random() < 0.7] if names else [None]
    return [
        row.model_copy(update={"annotator": annotator}) for name in kept for row in one(name, rng.random())
    ]


def one(name: str | None, p: float) -> list[Label]:
    label = labels("1", x=p)[0]
    return [label.model_copy(update={"principle_id": name})]


def test_an_abstention_is_no_tie_and_nothing_unread():
    held = PrincipleReadings(rules(1.0, 1.0))
    abstained = [row.model_copy(update={"verdict": "abstain"}) for row in labels("1", x=None)]
    held.add(prompt("one"), [*abstained, *labels("1", y=0.9)])
    x, y = held.figures()["principles"]
    assert [x[name]["value"] for name in ("decides", "ties", "abstains", "unread")] == [0.0, 0.0, 1.0, 0.0]
    assert y["decides"]["value"] == 1.0
    assert in_words(held.figures())[0] == "Decides nothing: x (takes no side)."


def test_what_decides_nothing_is_named_with_the_reason_or_is_none():
    """A principle that does not apply, one that was not asked about, one that only ties."""
    held = PrincipleReadings(rules(1.0, 1.0))
    held.add(prompt("one"), labels("1", x=0.9, y=0.1))
    assert in_words(held.figures())[0] == "Decides nothing: none."
    held = PrincipleReadings(rules(1.0, 1.0))
    held.add(prompt("one"), labels("1", x=0.55))
    assert in_words(held.figures())[0] == "Decides nothing: x (only ties), y (not asked about)."
    scoped = rules(1.0, 1.0)
    narrow = scoped.principles[1].model_copy(update={"applies_to": ("code",)})
    held = PrincipleReadings(scoped.model_copy(update={"principles": (scoped.principles[0], narrow)}))
    held.add(prompt("one", "talk"), labels("1", x=0.9))
    assert in_words(held.figures())[0] == "Decides nothing: y (never applies)."


def test_the_columns_have_one_name_in_the_terminal_on_the_page_and_in_the_docs(tmp_path):
    run, page = fake_run(tmp_path / "run", prompts=40), tmp_path / "page.html"
    shown = CliRunner().invoke(app, ["constitution", "coverage", str(run), "--out", str(page)])
    assert shown.exit_code == 0, shown.output
    docs = (Path(__file__).parent.parent / "docs" / "principles.md").read_text()
    for name, what in COLUMNS.items():
        assert f"| {name} |" in docs
        assert f"{name[0].upper()}{name[1:]}: {what}." in unescape(page.read_text())
        assert (f"{name}: {what}\n" in shown.stdout) == (name != "agrees with the preference")
    assert "Decides nothing: none.\n" in shown.stdout


def test_a_principle_of_weight_0_moves_nothing():
    held = PrincipleReadings(rules(1.0, 0.0))
    held.add(prompt("one", "talk"), labels("1", x=0.5, y=0.99))
    found = held.figures()
    assert found["principles"][1]["decides"]["value"] == 1.0
    assert found["principles"][1]["without"]["moved"]["value"] == 0.0
    assert found["undecided"]["value"] == 1.0
    assert found["undecided"]["by_tag"] == {"talk": {"n": 1, "undecided": 1}}


def test_what_decides_with_several_annotators_is_counted_by_reading():
    held = PrincipleReadings(rules(1.0, 1.0))
    second = [
        row.model_copy(update={"annotator": Annotator(kind="ai", id="other")}) for row in labels("1", x=0.1)
    ]
    held.add(prompt("one"), [*labels("1", x=0.9, y=0.9), *second])
    assert held.figures()["principles"][0]["decides"]["n"] == 2


@pytest.mark.parametrize("seed", range(5))
def test_planted_redundant_and_contradictory_principles_come_first(seed):
    rng = Random(f"coverage {seed}")
    again, against = rng.sample(KINDS, 2)
    rules = planted.constitution(again="Another wording.", against="The opposite.")
    held = PrincipleReadings(rules)
    for _ in range(400):
        asked, comparison, better, _ = planted.pair(rng)
        said = {**better, "again": better[again], "against": -better[against]}
        held.add(asked, [planted.label(comparison, name, side, rng) for name, side in said.items()])
    found = held.figures()
    assert set(found["redundant"][0]) == {again, "again"}
    assert set(found["conflicting"][0]) == {against, "against"}
    said = " ".join(in_words(found))
    assert f"that {again} or again decides, both take one side" in said.split("Contradictory")[0]


def test_the_command_prints_and_writes_a_page(tmp_path):
    run = fake_run(tmp_path / "run", prompts=60, say="<script>")
    page = tmp_path / "page.html"
    shown = CliRunner().invoke(app, ["constitution", "coverage", str(run), "--out", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "no-rude" in shown.stdout
    assert "No principle decides any comparison of" in shown.stdout
    data = json.loads(CliRunner().invoke(app, ["constitution", "coverage", str(run), "--json"]).stdout)
    text = page.read_text()
    assert "<script>" not in text
    assert text.count("<rect") > 20
    assert f"{data['principles'][0]['decides']['value']:.2f}" in text
    assert len(data["pairs"]) == 3


def test_a_run_without_labels_by_principle_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no labels"):
        report_of(fake_run(tmp_path / "run", until=5, prompts=20))
