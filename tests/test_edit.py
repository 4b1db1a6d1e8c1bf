"""`rlaif constitution diff`: an edit by its effect. What it predicts is what labelling anew then gives."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rlaif import pipeline
from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.options.base import PriceOptions
from rlaif.records import Comparison, Label, Preference, verdict_of
from rlaif.runs.folder import Run
from rlaif.runs.rows import Rows
from rlaif.runs.storage import write_json
from rlaif.workbench import edits as editing
from rlaif.workbench.diff import diff
from rlaif.workbench.edit_page import write_edit
from rlaif.workbench.edit_text import in_words
from tests import scripts
from tests.test_cli import refused, rlaif

EXAMPLE = {"prompt": "Question?", "better": "nice day", "worse": "rude sun"}
PRINCIPLES = [
    {"id": "no-rude", "text": "Never say rude.", "examples": [EXAMPLE]},
    {"id": "no-wrong", "text": "Never say wrong.", "weight": 2.0, "applies_to": ["fact"]},
    {"id": "no-sun", "text": "Never say sun.", "weight": 0.5},
]
ASKING = {"ask": True, "trust": True}  # a scripted judge is a function that the run's config names
REWORDED = {0: {"text": "Never say rain."}}


def constitution(path: Path, changes=None, without=(), more=()) -> Path:
    """The principles with changes by their place, written as JSON, which is YAML."""
    rules = [{**p, **(changes or {}).get(n, {})} for n, p in enumerate(PRINCIPLES) if n not in without]
    rules = [{key: value for key, value in p.items() if value is not None} for p in [*rules, *more]]
    path.write_text(json.dumps({"name": "words", "principles": rules}))
    return path


@pytest.fixture
def run(project) -> Path:
    return labelled(project)


def labelled(project: Path, *overrides: str) -> Path:
    """A run of two samples a prompt, paired and labelled."""
    constitution(project / "constitution.yaml")
    pipeline.run(project / "config.yaml", project / "run", ["sample[1].k=2", "critique.rounds=1", *overrides])
    return project / "run"


@pytest.fixture
def asked(monkeypatch):
    """What the scripted judge is asked."""
    counts = {"SAMPLE": 0, "CRITIQUE": 0, "LABEL": 0}
    monkeypatch.setattr(scripts, "kill_after", lambda what: counts.update({what: counts[what] + 1}))
    return counts


def relabelled(run: Path, new: Path, *overrides: str) -> dict:
    """What labelling the run's pairs anew gives: preferences by pair, and verdicts by pair and principle."""
    fork = pipeline.run(
        overrides=[f"constitution={new}", *overrides], source=run, at="label", out=run.parent / "anew"
    )
    stage = fork.stages[4]
    return {row.comparison_id: row for row in stage.rows("preferences", Preference)}


def counted(before: dict, after: dict) -> dict[str, int]:
    """Changes of preferences, counted by hand."""
    both = before.keys() & after.keys()
    sides = [(before[i].p_a, after[i].p_a) for i in both]
    return {
        "both": len(both),
        "lost": len(before.keys() - after.keys()),
        "gained": len(after.keys() - before.keys()),
        "changed": sum(verdict_of(a) != verdict_of(b) for a, b in sides),
        "flipped": sum((a - 0.5) * (b - 0.5) < -1e-12 for a, b in sides),
    }


def preferences(run: Path) -> dict[str, Preference]:
    return {row.comparison_id: row for row in Run.load(run).stages[4].rows("preferences", Preference)}


EDITS = {
    "reworded": lambda f: constitution(f, REWORDED),
    "another wording for the judge": lambda f: constitution(f, {1: {"compare": "Never say nice."}}),
    "re-weighted": lambda f: constitution(f, {0: {"weight": 0.1}, 2: {"weight": 3.0}}),
    "removed": lambda f: constitution(f, without=(1,)),
    "narrowed": lambda f: constitution(f, {0: {"applies_to": ["talk"]}}),
    "widened": lambda f: constitution(f, {1: {"applies_to": None}}),
    "added": lambda f: constitution(f, more=[{"id": "no-day", "text": "Never say day.", "weight": 4.0}]),
    "all at once": lambda f: constitution(
        f, {1: {"applies_to": ["talk"], "weight": 0.3}, 2: {"text": "Never say nice."}}, without=(0,)
    ),
}
FREE = ("re-weighted", "removed", "narrowed")


@pytest.mark.parametrize("edit", EDITS)
def test_what_it_predicts_is_what_labelling_anew_gives(project, run, asked, edit):
    new = EDITS[edit](project / "new.yaml")
    before = preferences(run)
    plain = diff(project / "constitution.yaml", new, run)
    assert asked["LABEL"] == 0
    data = diff(project / "constitution.yaml", new, run, **ASKING)
    assert asked["LABEL"] == plain["labels"]["stale"] == (data["labels"]["asked"] or {"calls": 0})["calls"]
    assert (plain["labels"]["waiting"] == 0) == (edit in FREE)
    after = relabelled(run, new)
    found = data["preferences"]
    assert counted(before, after).items() <= found.items()
    assert (found["before"], found["after"]) == (len(before), len(after))
    assert [sum(found[key].values()) for key in ("lost_why", "gained_why")] == [
        found["lost"],
        found["gained"],
    ]
    assert found["changed"] + found["lost"] + found["gained"] > 0, "an edit without an effect tests nothing"
    assert sum(found["deciding"][1].values()) == len(after)
    if edit in FREE:
        assert plain["preferences"] == found
    if edit == "reworded":  # what waits for the judge stays as it was
        assert (plain["preferences"]["changed"], plain["preferences"]["lost"]) == (0, 0)


WAYS = {
    "one drawn": ("label.principles=drawn",),
    "by tag": ("label.principles=[no-rude, no-sun]",),
    "examples shown": ("label.few_shot=1",),
    "reasons first": ("label.cot=true", "label.max_tokens=8"),
    "people for the rest": (
        "label.human.annotator=tests.scripts:annotate",
        "label.human.share=0.5",
        "label.ai=rest",
    ),
    "best of all": ("label.mode=best", "sample[1].k=4"),
}


def any_judge() -> Scripted:
    """Keeps to the rule however it is asked: two responses or several, at once or after reasons."""

    def score(messages, suffix, choices):
        text = "\n".join(message["content"] for message in messages)
        if choices == ("Yes", "No"):
            return scripts.judge(messages, suffix, choices)
        word = scripts.forbidden(text + suffix)
        shown = [re.findall(rf"Reply {letter}: (.*)", text)[-1].split() for letter in choices]
        worth = [0.1 if word in response else 0.9 for response in shown]
        return [0.99 * each / sum(worth) for each in worth]

    def write(request):
        compared = "Compare the replies" in request.messages[-1]["content"]
        return "They differ." if compared else scripts.write_feedback(request)

    return Scripted(on_score=score, on_generate=write, name="feedback")


@pytest.mark.parametrize("way", WAYS)
def test_however_the_judge_is_asked(project, way, asked):
    run = labelled(project, *WAYS[way], "feedback.model=tests.test_edit:any_judge")
    new = constitution(project / "new.yaml", {**REWORDED, 2: {"weight": 5.0, "examples": [EXAMPLE]}})
    before = preferences(run)
    plain = diff(run, new)
    data = diff(run, new, **ASKING)
    assert data["labels"]["asked"]["calls"] == plain["labels"]["refresh"]["calls"] > 0
    after = relabelled(run, new)
    assert counted(before, after).items() <= data["preferences"].items()
    shown = plain["labels"]["by_principle"]["no-sun"]
    assert (shown["stale"] > 0) == (way == "examples shown")


def test_asked_labels_are_kept_and_no_other_is_asked(project, run, asked):
    new = constitution(project / "new.yaml", REWORDED)
    first = diff(run, new, **ASKING)
    rows = list(Rows(run / "asked" / "labels.jsonl", Label))
    stale = [row for row in labels_of(run) if row.principle_id == "no-rude"]
    assert asked["LABEL"] == len(rows) == len(stale) == first["labels"]["stale"]
    assert {row.principle_id for row in rows} == {"no-rude"}
    assert {row.judge["model"] for row in rows} == {"scripted:feedback"}
    again = diff(run, new, **ASKING)
    assert asked["LABEL"] == len(stale)
    assert (again["labels"]["stale"], again["labels"]["asked_before"]) == (0, len(stale))
    assert again["preferences"] == first["preferences"] == diff(run, new)["preferences"]
    relabelled(run, new, f"label.labels_from={run}")
    assert asked["LABEL"] == len(stale)
    Run.load(run).verify()


def labels_of(run: Path) -> list[Label]:
    return list(Run.load(run).stages[4].rows("labels", Label))


def test_killed_while_it_asks_it_loses_nothing(project, run, asked):
    new = constitution(project / "new.yaml", REWORDED)
    result = rlaif("constitution", "diff", run, new, "--ask", "--trust", KILL_LABEL="9")
    assert result.returncode == -9
    kept = len(Rows(run / "asked" / "labels.jsonl", Label))
    assert kept == 8
    data = diff(run, new, **ASKING)
    assert asked["LABEL"] == data["labels"]["asked"]["calls"] == data["labels"]["stale"]
    assert data["labels"]["by_principle"]["no-rude"]["kept"] == kept
    assert counted(preferences(run), relabelled(run, new)).items() <= data["preferences"].items()


def test_verdicts_that_turn_by_hand(project, run):
    new = constitution(project / "new.yaml", REWORDED)
    pairs = {row.id: row for row in Run.load(run).stages[3].rows("comparisons", Comparison)}
    texts = Run.load(run).stages[4].responses()
    turned = defaultdict(int)

    def verdict(pair: Comparison, word: str) -> str:
        a, b = (word in texts[side].text.split() for side in (pair.a, pair.b))
        return "tie" if a == b else "b" if a else "a"

    for pair in pairs.values():
        sides = verdict(pair, "rude"), verdict(pair, "rain")
        turned[" → ".join(sides)] += sides[0] != sides[1]
    found = diff(run, new, **ASKING)["principles"]["no-rude"]["verdicts"]
    assert found["turned"] == {key: n for key, n in turned.items() if n}
    assert (found["both"], found["changed"]) == (len(pairs), sum(turned.values()))
    low, high = found["changed_ci"]
    assert low < found["changed_rate"] < high
    assert found["groups"] == len({pair.prompt_id for pair in pairs.values()})


def test_each_edit_alone_and_the_pairs_that_moved_furthest(project, run):
    new = constitution(project / "new.yaml", {**REWORDED, 2: {"weight": 40.0}})
    data = diff(run, new, **ASKING)
    for name, change in (("no-rude", REWORDED), ("no-sun", {2: {"weight": 40.0}})):
        expected = diff(run, constitution(project / "one.yaml", change))["preferences"]
        alone = data["principles"][name]["alone"]
        assert alone == {key: expected[key] for key in alone}
    shown = data["examples"]["preferences"]
    sizes = [abs(row["p_a"][1] - row["p_a"][0]) for row in shown]
    assert sizes == sorted(sizes, reverse=True)
    before, after = preferences(run), relabelled(run, new)
    moves = [abs(after[i].p_a - before[i].p_a) for i in before if i in after]
    assert sizes[0] == pytest.approx(max(moves), abs=1e-5)
    assert len({row["prompt"] for row in shown}) == len(shown)


def test_an_added_principle_says_how_it_decides(project, run):
    new = constitution(project / "new.yaml", more=[{"id": "no-rain", "text": "Never say rain."}])
    data = diff(run, new, ask=True, trust=True)
    row = data["principles"]["no-rain"]
    assert sum(row["new"].values()) == row["verdicts"]["gained"] > 0
    told = ", ".join(f"{side} {n}" for side, n in sorted(row["new"].items()))
    assert f"  no-rain: {row['verdicts']['gained']} pairs newly judged ({told})" in in_words(data)


def test_what_it_costs(project, run, monkeypatch):
    new = constitution(project / "new.yaml", REWORDED)
    config = Run.load(run).config
    prices = {config.feedback.model: PriceOptions(prompt=2.0, completion=1.0, seconds=5.0)}
    loaded = Run.load.__func__

    def priced(cls, path):
        found = loaded(cls, path)
        found.config = found.config.model_copy(update={"prices": prices})
        return Run(found.path, found.config, found.constitution)

    monkeypatch.setattr(Run, "load", classmethod(priced))
    cost = diff(run, new)["labels"]["refresh"]
    assert cost["calls"] == diff(run, new)["labels"]["stale"]
    assert cost["money"] == pytest.approx(cost["prompt_tokens"] * 2e-6, rel=1e-4)
    assert cost["seconds"] == pytest.approx(cost["prompt_tokens"] * 5 / 1000, rel=1e-4)


def test_files_alone(project):
    old = constitution(project / "constitution.yaml")
    changes = {
        0: {"text": "Never say a rude word.", "tags": ["style"]},
        1: {"weight": 1.0, "applies_to": ["talk"]},
    }
    new = constitution(project / "new.yaml", changes, (2,), [{"id": "other", "text": "Never say sun."}])
    data = diff(old, new)
    kinds = {edit["id"]: edit["kinds"] for edit in data["edits"]}
    assert kinds == {
        "no-rude": ["reworded", "other tags"],
        "no-wrong": ["re-weighted", "re-scoped"],
        "other": ["added"],
        "no-sun": ["removed"],
    }
    said = "\n".join(in_words(data))
    assert "text: Never say [-rude.-] {+a rude word.+}" in said
    assert "weight: 2 → 1" in said
    assert "applies_to: fact → talk" in said
    assert "with the id `no-sun` nothing would be asked" in said
    assert "labels" not in data


def test_what_no_label_depends_on(project):
    old = constitution(project / "constitution.yaml", {0: {"compare": "Never say rude."}})
    new = constitution(project / "new.yaml", {0: {"compare": "Never say rude.", "text": "Never say rain."}})
    assert diff(old, new)["edits"][0]["means"] == [
        "the judge reads `compare`, which is as it was: no label goes stale",
        "critic and reviser read the new text",
    ]
    for field, value in {
        "critique": "Say it.",
        "revise": "Mend it.",
        "paraphrases": ["Say no rude."],
    }.items():
        means = diff(
            old, constitution(project / "new.yaml", {0: {"compare": "Never say rude.", field: value}})
        )
        assert not any("go stale" in line for line in means["edits"][0]["means"])
    same = diff(old, old)
    assert same["edits"] == []
    assert same["notes"] == ["Nothing differs that a model reads or a preference is made of."]
    assert in_words(same)[0] == "No principle differs."


WORDS = st.text(alphabet="ab c<\n", max_size=20)


@given(WORDS, WORDS)
def test_marked_words_hold_both_texts(before, after):
    marked = editing.marked_words(before, after)
    for left_out, text in ((editing.NEW, before), (editing.GONE, after)):
        words = [word for kind, part in marked if kind != left_out for word in part.split()]
        assert words == text.split()
    if before.split() == after.split():
        assert not marked or marked[0][0] == editing.SAME


def test_the_page_and_the_terminal_show_texts_as_texts(project):
    run = labelled(project)
    evil = "Never say <script>alert(1)</script> \u202e."
    new = constitution(project / "new.yaml", {0: {"text": evil}, 2: {"weight": 9.0}})
    page = project / "page.html"
    result = CliRunner().invoke(app, ["constitution", "diff", str(run), str(new), "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "\u202e" not in result.stdout
    text = page.read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "\u202e" not in text
    assert "labels under new wordings are not there" in text
    assert "the figures below leave these wordings out" in text
    data = json.loads(CliRunner().invoke(app, ["constitution", "diff", str(run), str(new), "--json"]).stdout)
    assert data == diff(run, new)
    assert write_edit(page, diff(run, constitution(new, {2: {"weight": 9.0}}))).read_text().count("→") > 3


def lecturing() -> Scripted:
    """Is the tests' judge, but has no verdict on one word."""

    def score(messages, suffix, choices):
        return [1e-4, 1e-4] if "rain" in suffix else scripts.judge(messages, suffix, choices)

    return Scripted(on_score=score, on_generate=scripts.write_feedback, name="feedback")


def test_bad_input_is_said(project, run, monkeypatch):
    old, new = project / "constitution.yaml", constitution(project / "new.yaml", REWORDED)

    def said(match: str, *paths: Path, **options) -> None:
        with pytest.raises(UserError, match=match):
            diff(*paths, **options)

    strange = constitution(project / "strange.yaml", {}, (0, 1, 2), [{"id": "x", "text": "Be x."}])
    said("no principle in common: no-rude, no-wrong, no-sun there, x in the file", run, strange)
    unknown = constitution(project / "unknown.yaml", {0: {"id": "no-rud"}})
    said(r"no principle `no-rud` in .*did you mean \"no-rude\"", unknown, new, run=run)
    other = constitution(project / "other.yaml", {0: {"weight": 3.0}})
    said("not the constitution of .*no-rude is re-weighted there", other, new, run=run)
    said("--ask: without a run", old, new, ask=True)
    said("not a run folder", old, new, run=project / "nowhere")
    said("no such file|cannot be read", project / "nowhere.yaml", new)
    pipeline.run(project / "config.yaml", project / "young", until="pair")
    said(r"young: has no labels.*\n.*\n.*rlaif resume", project / "young", new)
    monkeypatch.setattr(scripts, "feedback", lecturing)
    said("none of the judge's .* verdicts under no-rude can be read", run, new, **ASKING)
    said("none of the judge's .* verdicts under no-rude can be read", run, new, **ASKING)
    monkeypatch.setattr(scripts, "feedback", scripts.biased_judge)
    more = constitution(project / "more.yaml", {2: {"text": "Never say nice."}})
    said(
        "its labels are by scripted:feedback, and its feedback model is now scripted:biased",
        run,
        more,
        **ASKING,
    )


def test_a_principle_that_the_label_stage_names_and_the_file_lacks(project):
    run = labelled(project, "label.principles=[no-rude, no-sun]")
    new = constitution(project / "new.yaml", {0: {"id": "no-rudeness"}})
    with pytest.raises(UserError, match=r'principles: "no-rude" is no id.*did you mean "no-rudeness"'):
        diff(run, new)


def test_a_label_stage_that_is_not_done_is_refused(project, run):
    (run / "05_label" / "stage.json").unlink()
    with pytest.raises(UserError, match="05_label is not done"):
        diff(run, constitution(project / "new.yaml", REWORDED))


def test_a_file_that_changes_while_it_is_read(project, monkeypatch):
    old, new = constitution(project / "constitution.yaml"), constitution(project / "new.yaml", REWORDED)
    load = Constitution.load.__func__

    def slowly(cls, path):
        found = load(cls, path)
        if path == new:
            new.write_text(new.read_text() + "\n")
        return found

    monkeypatch.setattr(Constitution, "load", classmethod(slowly))
    with pytest.raises(UserError, match=r"new.yaml: changed while it was read"):
        diff(old, new)


def test_the_command_line_refuses_with_exit_code_2(project, run):
    strange = constitution(project / "strange.yaml", {}, (0, 1, 2), [{"id": "x", "text": "Be x."}])
    assert "no principle in common" in refused(rlaif("constitution", "diff", run, strange))


def test_an_endpoint_needs_consent(project):
    run = labelled(project)
    config = Run.load(run).config
    served = config.feedback.model_copy(update={"engine": "openai", "base_url": "http://localhost:9/v1"})
    found = config.model_copy(update={"feedback": served})
    write_json(run / "config.json", found.model_dump())
    with pytest.raises(
        UserError, match=r"sends prompts and responses to http://localhost:9/v1(?s:.*)--trust"
    ):
        diff(run, constitution(project / "new.yaml", REWORDED), ask=True)
