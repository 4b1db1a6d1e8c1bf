"""Gold and the judge's opinions where a rule does not apply, cannot be checked or could not be read."""

import json

import pytest

from rlaif import pipeline
from rlaif.audit import page
from rlaif.constitution import Constitution
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.feedback.gold import load_gold, no_gold, ungraded, with_all
from rlaif.human.rankings import simulate
from rlaif.records import Evaluation, Prompt, Response
from rlaif.report import measures
from rlaif.report.compare import compare
from rlaif.report.report import details, write_report
from rlaif.report.run_reader import RunReader
from rlaif.report.warnings import run_warnings
from rlaif.report.win_rates import gold_win_rate
from rlaif.stages.evaluate import rates
from tests import scripts
from tests.fake_run import fake_run

RULES = Constitution.model_validate(
    {
        "name": "c",
        "principles": [
            {"id": "no-rude", "text": "Never say rude."},
            {"id": "no-wrong", "text": "Never say wrong.", "applies_to": ["fact"]},
            {"id": "own", "text": "Rhyme."},
        ],
    }
)
ASKED: list[list[str]] = []


def prompt(words: str, *tags: str) -> Prompt:
    return Prompt.model_validate({"messages": [{"role": "user", "content": words}], "tags": tags})


FACT, TALK = prompt("Fact?", "fact"), prompt("Talk?", "talk")


def score(messages, response, principles):
    """Answers for what it is asked about and can check, and for one rule that nobody asked about."""
    ASKED.append([p["id"] for p in principles])
    known = {
        p["id"]: p["text"].split()[-1].strip(".") not in response for p in principles if p["id"] != "own"
    }
    return {**known, "own": None, "unknown": False}


def number(messages, response, principles):
    return {"no-rude": 0.7}


def half_blind() -> Scripted:
    """Gives no readable opinion under the rule about wrong."""

    def on_score(messages, suffix, choices):
        return [0.0, 0.0] if "wrong" in suffix else scripts.judge(messages, suffix, choices)

    return Scripted(on_generate=scripts.write_feedback, on_score=on_score, name="half blind")


def row(n: int, policy: str = "ppo", **more) -> Evaluation:
    return Evaluation(policy=policy, prompt_id=f"p{n}", response_id="r", **more)


PROMPTS = {
    f"p{n}": Prompt.model_validate(
        {"id": f"p{n}", "messages": [{"role": "user", "content": f"Question {n}?"}]}
    )
    for n in range(20)
}
TEXTS = {"r": Response(id="r", prompt_id="p", text="x")}


def test_a_rule_that_does_not_apply_is_neither_asked_about_nor_part_of_all():
    gold = load_gold("tests.test_gold:score", RULES)
    assert gold is not None
    ASKED.clear()
    assert with_all(gold(TALK, "wrong")) == {"all": True, "no-rude": True}
    assert with_all(gold(FACT, "wrong")) == {"all": False, "no-rude": True, "no-wrong": False}
    assert ASKED == [["no-rude", "own"], ["no-rude", "no-wrong", "own"]]
    only = Constitution(name="c", principles=RULES.principles[1:2])
    narrow = load_gold("tests.test_gold:score", only)
    assert narrow is not None
    assert narrow(TALK, "wrong") == {}
    assert len(ASKED) == 2


def test_a_verdict_that_is_none_of_both_is_the_scorers_mistake():
    gold = load_gold("tests.test_gold:number", RULES)
    assert gold is not None
    with pytest.raises(UserError, match=r"0\.7 is neither True nor False"):
        gold(TALK, "x")


def test_rates_hold_every_principle_whatever_the_first_row_has():
    rows = [
        row(0, gold={"all": True, "a": True}),
        row(1, gold={"all": False, "a": True, "b": False}),
        row(2, gold={"all": True, "a": True, "b": True}),
        row(3, gold=None),
    ]
    found = rates(rows, TEXTS, PROMPTS)
    assert found["gold"] == {"all": pytest.approx(2 / 3), "a": 1.0, "b": 0.5}
    assert found["gold_ci"].keys() == found["gold"].keys()
    # Two rows only say anything of b: its interval is wider than that of the same share of three.
    assert found["gold_ci"]["b"][1] - found["gold_ci"]["b"][0] > 0.8


def test_an_unread_rule_is_not_a_kept_one():
    kept = [row(n, compliance={"polite": 0.9}, unread=("harmless",), p_win=0.5) for n in range(8)]
    broken = [row(n, compliance={"polite": 0.9, "harmless": 0.1}, p_win=0.5) for n in (8, 9)]
    table = measures.compliance([*kept, *broken])
    assert table["all"] == {"p8": 0.0, "p9": 0.0}
    assert len(table["polite"]) == 10
    nothing = row(10, unread=("polite", "harmless"))
    found = rates([*kept, *broken, nothing], TEXTS, PROMPTS)
    assert found["compliance_unread"] == pytest.approx(10 / 22)
    assert found["win_rate"]["n"] == 10
    assert found["win_rate"]["invalid"] == pytest.approx(1 / 11)


def test_evaluate_keeps_what_was_unread_and_no_rule_that_does_not_apply(tmp_path):
    from rlaif.stages import evaluate
    from tests.test_arms import run_of
    from tests.tiny_models import tiny_policy

    run = run_of(tmp_path / "run", tiny_policy(tmp_path / "policy"), {"stage": "evaluate", "max_tokens": 6})
    blind = run.config.feedback.model_copy(update={"model": "tests.test_gold:half_blind"})
    run.config = run.config.model_copy(update={"feedback": blind})
    words = [("rude", None), ("wrong", None), ("sad", ("fact",))]
    principles = [{"id": f"no-{w}", "text": f"Never say {w}.", "applies_to": tags} for w, tags in words]
    run.constitution = Constitution.model_validate({"name": "c", "principles": principles})
    evaluate.run(run.stages[0])
    rows = list(run.stages[0].rows("evaluation", Evaluation))
    assert {row.unread for row in rows} == {("no-wrong",)}
    assert {tuple(row.compliance) for row in rows} == {("no-rude",)}
    assert {tuple(sorted(row.gold or ())) for row in rows} == {("all", "no-rude", "no-wrong")}
    assert run.stages[0].metrics["policies"]["base"]["compliance_unread"] == 0.5


def test_the_gold_win_rate_counts_what_both_sides_have():
    mine = {"all": {"p": 1.0, "q": 1.0}, "a": {"p": 1.0, "q": 1.0}}
    theirs = {"all": {"p": 1.0, "q": 0.0}, "a": {"p": 1.0, "q": 0.0}, "b": {"p": 1.0}}
    assert gold_win_rate([mine], [theirs], {"p": "p", "q": "q"})["value"] == 0.75
    assert gold_win_rate([{}], [{}], {})["n"] == 0


def test_simulated_people_judge_by_the_rules_that_apply():
    responses = {
        p.id: [Response(prompt_id=p.id, text=text) for text in ("wrong", "sun")] for p in (FACT, TALK)
    }
    made = simulate(scripts.annotate, {}, (FACT, TALK), responses, RULES.principles[:2], seed=0)
    assert [ranking.ranks for ranking in made] == [(2, 1), (1, 1)]


def test_rules_without_gold_are_found_before_anything_is_asked():
    gold = load_gold("tests.test_gold:score", RULES)
    assert ungraded(gold, RULES, [FACT, TALK]) == ["own"]
    assert ungraded(gold, RULES, []) == []
    assert ungraded(None, RULES, [FACT]) == []
    assert no_gold([], "m:f") == []
    assert "`own`" in no_gold(["own"], "m:f")[0]


def edited(project, text: str):
    """The project with the playground's gold scorer and the playground's rule about insults in these
    words."""
    (project / "constitution.yaml").write_text(
        "name: words\nprinciples:\n"
        f"  - {{id: polite, text: {text}}}\n  - {{id: no-word, text: Never use the word rude.}}\n"
    )
    path = project / "config.yaml"
    path.write_text(path.read_text().replace("tests.scripts:gold", "rlaif.playground.world:score"))
    return path


@pytest.mark.parametrize(
    ("text", "unchecked"), [("Do not insult the user.", []), ("The reply must rhyme.", ["polite"])]
)
def test_an_edited_wording_is_told_by_the_dry_run_the_run_and_lint(project, capsys, text, unchecked):
    from typer.testing import CliRunner

    from rlaif.cli import app

    config, told = edited(project, text), []
    assert pipeline.dry_run(config)["no_gold"] == unchecked
    pipeline.run(config, project / "run", tell=told.append)
    assert any("No gold for `polite`" in line for line in told) == bool(unchecked)
    labels = json.loads((project / "run" / "05_label" / "stage.json").read_text())["metrics"]["by_principle"]
    assert labels["polite"]["gold_decided"] == 0 < labels["no-word"]["gold_decided"]
    paths = [str(project / "constitution.yaml"), "--prompts", str(project / "prompts.jsonl")]
    lint = CliRunner().invoke(app, ["constitution", "lint", *paths, "--gold", "rlaif.playground.world:score"])
    assert ("No gold for `polite`" in lint.output) == bool(unchecked)


def without_gold(run, name: str) -> None:
    """The run's evaluation as a scorer writes it that cannot check one of the rules."""
    path = run / "09_evaluate" / "evaluation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for found in rows:
        kept = {key: value for key, value in found["gold"].items() if key not in (name, "all")}
        found["gold"] = {"all": all(kept.values()), **kept}
        found["unread"] = [name]
        del found["compliance"][name]
    path.write_text("".join(json.dumps(found) + "\n" for found in rows))


def test_report_and_compare_say_which_rules_have_no_gold(tmp_path):
    runs = [fake_run(tmp_path / name) for name in "ab"]
    assert not any("No gold" in warned.found for warned in run_warnings(RunReader(runs[0])))
    assert not any("No gold" in line for line in compare(runs)["notes"])
    for run in runs:
        without_gold(run, "no-sad")
    reader = RunReader(runs[0])
    found = [warned.found for warned in run_warnings(reader)]
    assert any("No gold for `no-sad`" in line for line in found)
    assert any("opinions of single responses could not be read" in line for line in found)
    data = compare(runs)
    assert any("No gold for `no-sad`" in line for line in data["notes"])
    assert "no-sad" not in data["gold"]["A"]
    assert "all" not in data["compliance"]["A"]
    assert details(reader)
    text = write_report(runs[0]).read_text()
    assert "No gold for `no-sad`" in text
    assert "opinions that could not be read" in text


def test_the_judges_card_says_which_rules_have_no_gold():
    rate = {"n": 0, "value": None, "ci": None}
    card = {"accuracy": rate, "order": rate, "injection": {"families": {}}, "gold": "m:f", "no_gold": ["own"]}
    assert "No gold for `own`" in page.in_words(card)[1]
    assert len(page.in_words(card | {"no_gold": []})) == 3
