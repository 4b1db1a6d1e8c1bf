"""`rlaif judge compare` and `judge audit --labels`: kills, judges that fail, people's real labels, the
page."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.audit.cases import from_examples
from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.records import Annotator, Comparison, Label, Prompt, Response
from rlaif.report.run_reader import plain
from rlaif.runs.folder import Run
from rlaif.workbench.judge_comparison import JudgesAsked, compare_judges, names_of
from rlaif.workbench.judge_comparison_page import judge_warnings
from rlaif.workbench.people_truth import labelled_cases
from tests.browser import chromium, opened  # noqa: F401  - a fixture
from tests.fake_run import fake_run

ROOT = Path(__file__).parent.parent
PAIRS = 60
RULES = {"no-rude": "Never say rude.", "no-sad": "Never say sad."}


def says(rule: str, text: str) -> bool:
    return re.findall(r"Never say (\w+)", rule)[0] in text.split()


def _score(messages: list[dict[str, str]], suffix: str, choices: tuple[str, ...]) -> list[float]:
    a, b = (re.findall(rf"Reply {side}: (.*)", messages[-1]["content"])[-1] for side in "AB")
    return [0.5, 0.4] if says(suffix, a) == says(suffix, b) else [0.1, 0.8] if says(suffix, a) else [0.8, 0.1]


def _counted(name: str):
    """The same, each question written down; the process is killed at the one that a variable names."""

    def score(messages: list[dict[str, str]], suffix: str, choices: tuple[str, ...]) -> list[float]:
        log = Path(os.environ["ASKED"])
        asked = [*(log.read_text().splitlines() if log.exists() else []), name]
        log.write_text("\n".join(asked))
        if len(asked) == int(os.environ.get("KILLED_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return _score(messages, suffix, choices)

    return score


def good() -> Scripted:
    return Scripted(on_score=_score, name="good")


def counted() -> Scripted:
    return Scripted(on_score=_counted("counted"), name="counted")


def other() -> Scripted:
    return Scripted(on_score=_counted("other"), name="other")


def contrary() -> Scripted:
    return Scripted(on_score=lambda *asked: _score(*asked)[::-1], name="contrary")


def constant() -> Scripted:
    return Scripted(on_score=lambda *asked: [0.8, 0.1], name="constant")


def refusing() -> Scripted:
    return Scripted(on_score=lambda *asked: [0.001, 0.001], name="refusing")


def broken() -> Scripted:
    seen = []

    def score(*asked) -> list[float]:
        seen.append(asked)
        if len(seen) > 30:
            raise RuntimeError("the model fell over")
        return _score(*asked)

    return Scripted(on_score=score, name="broken")


def project(folder: Path, *judges: str, ties: bool = False) -> list[str]:
    """People's labels by the two rules, and a config for each judge; → the words of the command."""
    rules = [{"id": name, "text": text} for name, text in RULES.items()]
    (folder / "c.yaml").write_text(json.dumps({"name": "rules", "principles": rules}))
    (folder / "p.jsonl").write_text('{"prompt": "x"}\n')
    for name in judges:
        model = {"engine": "scripted", "model": f"tests.test_judge_compare:{name}"}
        config = {"name": name, "constitution": "c.yaml", "prompts": "p.jsonl", "templates": "brief"}
        config |= {"policy": model, "feedback": model, "stages": [{"stage": "sample"}]}
        (folder / f"{name}.yaml").write_text(json.dumps(config))
    rows: dict[str, list] = {"prompts": [], "responses": [], "comparisons": [], "labels": []}
    for n in range(PAIRS):
        prompt = Prompt.model_validate({"messages": [{"role": "user", "content": f"Question {n}?"}]})
        texts = ("a rude day", f"a fine day {n}") if n % 2 else (f"a fine sun {n}", "a sad sun")
        a, b = (Response(prompt_id=prompt.id, text=t, model="m", index=i) for i, t in enumerate(texts))
        pair = Comparison(prompt_id=prompt.id, a=a.id, b=b.id)
        rows["prompts"].append(prompt)
        rows["responses"] += [a, b]
        rows["comparisons"].append(pair)
        for who in ("ann", "ben", "cleo"):
            better = "tie" if ties else "b" if n % 2 else "a"
            p = {"a": 1.0, "b": 0.0, "tie": 0.5}[better]
            person = Annotator(kind="human", id=who)
            rows["labels"].append(Label(comparison_id=pair.id, annotator=person, verdict=better, p_a=p))
    for name, made in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(row.to_json() + "\n" for row in made))
    return [*(str(folder / f"{name}.yaml") for name in judges), "--labels", str(folder / "labels.jsonl")]


def compared(folder: Path, words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlaif.cli", "judge", "compare", *words]
    command += ["--out", str(folder / "page.html"), "--json"]
    surroundings = {**os.environ, "ASKED": str(folder / "asked"), **environment}
    return subprocess.run(
        command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_kill_loses_and_repeats_nothing(tmp_path, monkeypatch):
    words = project(tmp_path, "counted", "other")
    each = PAIRS * 2 * len(RULES)
    assert compared(tmp_path, words, KILLED_AT=str(each + 31)).returncode == -signal.SIGKILL
    done = compared(tmp_path, words)
    assert done.returncode == 0, done.stderr
    asked = Counter((tmp_path / "asked").read_text().split())
    assert asked["counted"] == each
    # Of the question in hand its two suffixes are asked again, and no more.
    assert each <= asked["other"] <= each + 2
    labels = [json.loads(line) for line in (tmp_path / "page" / "labels.jsonl").read_text().splitlines()]
    assert len(labels) == len({row["id"] for row in labels}) == 2 * each
    monkeypatch.setenv("ASKED", str(tmp_path / "asked again"))
    judges, people = tuple(words[:2]), tmp_path / "labels.jsonl"
    again = plain(compare_judges(JudgesAsked(judges, people, keep=tmp_path / "page")))
    assert not (tmp_path / "asked again").exists()
    whole = plain(compare_judges(JudgesAsked(judges, people, keep=tmp_path / "whole")))
    data = json.loads(done.stdout)
    assert [row["cost"]["calls"] for row in whole["judges"]] == [each, each]
    for found in (data, again, whole):
        for row in found["judges"]:
            assert row.pop("cost")["calls"] <= each + 2
        found.pop("kept")
    assert data == again == whole
    assert [row["accuracy"]["value"] for row in data["judges"]] == [1.0, 1.0]


def test_a_judge_that_fails_or_refuses_does_not_lose_the_others(tmp_path):
    words = project(tmp_path, "contrary", "broken", "good", "refusing")
    words.insert(0, str(tmp_path / "none"))
    told = CliRunner().invoke(
        app,
        [
            "judge",
            "compare",
            *words,
            "--constitution",
            str(tmp_path / "c.yaml"),
            "--json",
            "--out",
            str(tmp_path / "page.html"),
        ],
        catch_exceptions=False,
    )
    assert told.exit_code == 2
    data = json.loads(told.stdout)
    assert [row["name"] for row in data["judges"]] == ["good.yaml", "contrary.yaml", "refusing.yaml"]
    assert [row["accuracy"]["value"] for row in data["judges"]] == [1.0, 0.0, 0.0]
    assert [row["name"] for row in data["failed"]] == ["none", "broken.yaml"]
    assert data["failed"][1]["error"] == "RuntimeError: the model fell over"
    refusing = data["judges"][-1]
    assert (refusing["unread"], refusing["readable"]["n"], refusing["readability"]["invalid_rate"]) == (
        PAIRS,
        0,
        1.0,
    )
    assert refusing["accuracy"]["n"] == PAIRS
    text = (tmp_path / "page.html").read_text()
    assert "broken.yaml could not be compared: RuntimeError: the model fell over" in text
    # What the broken judge had said is kept: it goes on from there.
    rows = [json.loads(line) for line in (tmp_path / "page" / "labels.jsonl").read_text().splitlines()]
    assert Counter(row["annotator"]["id"] for row in rows)["scripted:broken"] == 30
    first = next(row for row in data["differences"] if row["between"] == ["good.yaml", "contrary.yaml"])
    assert (first["value"], first["different"], first["only_first"], first["only_second"]) == (
        1.0,
        True,
        PAIRS,
        0,
    )


def test_no_judge_at_all_and_no_pairs_are_one_message(tmp_path):
    project(tmp_path, "broken")
    how = JudgesAsked((str(tmp_path / "broken.yaml"),), tmp_path / "labels.jsonl", keep=tmp_path / "kept")
    with pytest.raises(UserError, match=r"No judge could be asked:\n  broken\.yaml: RuntimeError"):
        compare_judges(how)
    with pytest.raises(UserError, match="No pairs to ask"):
        compare_judges(JudgesAsked(("x",)))
    with pytest.raises(UserError, match="no constitution to judge by"):
        compare_judges(JudgesAsked((str(tmp_path),), tmp_path / "labels.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    for row in rows:
        row["annotator"]["kind"] = "ai"
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="no person's label"):
        compare_judges(how)


def test_a_judge_that_is_named_twice_is_refused():
    with pytest.raises(UserError, match="one: named twice"):
        names_of(JudgesAsked(("one", "two", "one"), templates=("default", "brief")))


def test_the_same_judge_with_several_templates_has_a_name_for_each(tmp_path):
    how = JudgesAsked(("models/one", "other/one"), templates=("default", "brief"))
    assert [row.name for row in names_of(how)] == [
        "one · default",
        "one · brief",
        "one · default #2",
        "one · brief #2",
    ]
    words = project(tmp_path, "constant")
    data = compare_judges(
        JudgesAsked(
            (words[0],), tmp_path / "labels.jsonl", templates=("brief", "default"), keep=tmp_path / "k"
        )
    )
    assert sorted(row["asked"]["templates"] for row in data["judges"]) == ["brief", "default"]
    # It prefers the place, whatever is shown: both orders together it says nothing.
    assert [row["order"]["value"] for row in data["judges"]] == [1.0, 1.0]
    assert [row["ties"]["value"] for row in data["judges"]] == [1.0, 1.0]
    rows = (tmp_path / "k" / "labels.jsonl").read_text().splitlines()
    assert len(rows) == 2 * 2 * len(RULES) * PAIRS


def test_without_labels_judges_are_compared_with_each_other_on_a_runs_pairs(tmp_path):
    project(tmp_path, "good", "contrary")
    run = fake_run(tmp_path / "run", prompts=80)
    words = [
        str(tmp_path / "good.yaml"),
        str(tmp_path / "contrary.yaml"),
        "--run",
        str(run),
        "--num-pairs",
        "40",
    ]
    words += ["--out", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, ["judge", "compare", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "nothing of who is right" in done.stdout
    data = json.loads(CliRunner().invoke(app, ["judge", "compare", *words, "--json"]).stdout)
    assert (data["people_labels"], data["rules"], data["differences"]) == (None, None, [])
    # The run's own judge is there by its stored labels, beside the two that were asked.
    assert [row["name"] for row in data["judges"]][:2] == ["good.yaml", "contrary.yaml"]
    stored = data["judges"][2]
    assert (stored["cost"], stored["asked"]["stored"]) == (None, True)
    assert data["between"][0]["opposite"]["value"] > 0


def test_a_label_stages_folder_has_its_runs_constitution(tmp_path):
    """As the run itself has, by --run and by --labels: not that of the first config."""
    project(tmp_path, "good")
    run = fake_run(tmp_path / "run", prompts=40, words=("sun", "rain"), human=True)
    for inside in ("", "06_label"):
        for where in ({"runs": (run / inside,)}, {"labels": run / inside}):
            how = JudgesAsked((str(tmp_path / "good.yaml"),), pairs=4, keep=tmp_path / "kept", **where)
            assert compare_judges(how)["constitution"]["hash"] == Run.load(run).constitution.hash


def test_people_who_call_everything_a_tie_decide_nothing(tmp_path):
    project(tmp_path, "good", ties=True)
    how = JudgesAsked(
        (str(tmp_path / "good.yaml"),), tmp_path / "labels.jsonl", keep=tmp_path / "kept", bar=0.7
    )
    path = tmp_path / "labels.jsonl"
    path.write_text(path.read_text().replace('"human"', '"simulated"'))
    data = compare_judges(how)
    assert (data["people_labels"]["decided"], data["people_labels"]["ties"]) == (0, PAIRS)
    assert "Some of the people are simulated annotators." in judge_warnings(data)
    assert data["judges"][0]["accuracy"]["n"] == 0
    assert data["judges"][0]["decision"] is None


@pytest.mark.parametrize(("bar", "verdict"), [(0.5, "holds"), (0.99, "inconclusive")])
def test_a_bar_is_held_or_left_open(tmp_path, bar, verdict):
    project(tmp_path, "good", "contrary")
    names = tuple(str(tmp_path / f"{name}.yaml") for name in ("good", "contrary"))
    data = compare_judges(JudgesAsked(names, tmp_path / "labels.jsonl", keep=tmp_path / "kept", bar=bar))
    assert [row["decision"]["verdict"] for row in data["judges"]] == [verdict, "fails"]


def test_a_card_has_peoples_labels_as_truth(tmp_path):
    words = project(tmp_path, "good")
    done = CliRunner().invoke(
        app,
        ["judge", "audit", *words, "--num-pairs", "0", "--json", "--out", str(tmp_path / "card.html")],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert (card["accuracy"]["value"], card["accuracy"]["n"], card["pairs"]) == (1.0, PAIRS, PAIRS)
    assert card["accuracy"]["by_principle"]["all"]["n"] == PAIRS
    assert card["accuracy"]["by_principle"]["no-rude"]["n"] == 0
    assert card["calibration"]["n"] == PAIRS
    assert (card["people"]["annotators"], card["people"]["decided"]) == (3, PAIRS)
    assert "what most of 3 people say" in (tmp_path / "card.html").read_text()


def test_people_who_label_by_principle_are_the_truth_under_each(tmp_path):
    project(tmp_path, "good")
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    for row in rows:
        del row["id"]
        row["principle_id"] = "no-rude"
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = Constitution.load(tmp_path / "c.yaml")
    found = labelled_cases([tmp_path / "labels.jsonl"], rules, 0, 0)
    assert len(found.cases) == PAIRS
    assert {case.truth["no-rude"] == case.truth["all"] for case in found.cases} == {True}
    assert not any("no-sad" in case.truth for case in found.cases)
    assert from_examples(rules, 0) == []


def test_a_pair_stored_both_ways_round_is_one(tmp_path):
    project(tmp_path, "good")
    pairs = [json.loads(line) for line in (tmp_path / "comparisons.jsonl").read_text().splitlines()]
    labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    turned = Comparison(prompt_id=pairs[0]["prompt_id"], a=pairs[0]["b"], b=pairs[0]["a"])
    person = Annotator(kind="human", id="dan")
    more = Label(comparison_id=turned.id, annotator=person, verdict="a", p_a=1.0)
    (tmp_path / "comparisons.jsonl").open("a").write(turned.to_json() + "\n")
    (tmp_path / "labels.jsonl").open("a").write(more.to_json() + "\n")
    rules = Constitution.load(tmp_path / "c.yaml")
    found = labelled_cases([tmp_path / "labels.jsonl"], rules, 0, 0)
    assert len(found.cases) == PAIRS
    assert found.left_out["the same pair again"] == 1
    assert found.facts["annotators"] == 4
    own = next(case for case in found.cases if case.question.prompt.id == pairs[0]["prompt_id"])
    verdicts = [row["verdict"] for row in labels if row["comparison_id"] == pairs[0]["id"]]
    assert own.truth["all"] == verdicts[0]  # three for it, one, told of the turned pair, against


def test_the_truth_of_pandalm_is_its_annotators_majority(test_data):
    path = test_data / "pandalm" / "testset-v1.json"
    rules = Constitution.model_validate({"name": "one", "principles": [{"id": "x", "text": "Be good."}]})
    found = labelled_cases([path], rules, 0, 0)
    truths: dict[tuple[str, ...], str | None] = {}
    for row in json.loads(path.read_text()):
        votes = Counter(row[f"annotator{n}"] for n in (1, 2, 3)).most_common()
        first = votes[0][0] if len(votes) == 1 or votes[0][1] > votes[1][1] else None
        texts = (row["cmp_key"], row["input"] or row["instruction"], row["response1"], row["response2"])
        truths[tuple(map(str, texts))] = {None: None, 0: "tie", 1: "a", 2: "b"}[first]
    assert len(found.cases) == len(truths)
    sides, own = Counter(truths.values()), Counter(case.truth.get("all") for case in found.cases)
    assert own == sides
    assert found.facts["decided"] == sides["a"] + sides["b"]
    assert (found.facts["ties"], found.facts["no_majority"]) == (sides["tie"], sides[None])
    by_texts: dict[tuple[str, str], set[str | None]] = {}
    for (*_, a, b), said in truths.items():
        by_texts.setdefault((a.strip(), b.strip()), set()).add(said)
    for case in found.cases:
        assert case.truth.get("all") in by_texts[case.question.a.strip(), case.question.b.strip()]


def test_the_page_is_whole_in_a_browser(tmp_path, chromium):  # noqa: F811
    words = project(tmp_path, "good", "contrary", "refusing")
    done = CliRunner().invoke(
        app, ["judge", "compare", *words, "--bar", "0.7", "--out", str(tmp_path / "page.html"), "--json"]
    )
    data = json.loads(done.stdout)
    for scheme in ("light", "dark"):
        page = opened(chromium, (tmp_path / "page.html").as_uri(), scheme)
        assert page.errors == []
        assert page.inner_text("h1").startswith("good.yaml is right most often: in 1.000")
        table = page.locator("table").first.inner_text()
        for row in data["judges"]:
            assert row["name"] in table
            assert f"{row['accuracy']['value']:.3f}" in table
        assert page.locator(".card").count() == len(data["disagreements"]) > 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.context.close()


def test_hostile_texts_are_shown_as_texts(tmp_path):
    words = project(tmp_path, "good", "contrary")
    path = tmp_path / "responses.jsonl"
    evil = "<script>alert(1)</script> {{ 7 * 7 }} \\u001b[31m"
    path.write_text(path.read_text().replace("a rude day", f"{evil} rude day"))
    done = CliRunner().invoke(app, ["judge", "compare", *words, "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }} \\x1b[31m" in text
    assert "\x1b" not in done.stdout


def test_the_commands_of_the_page_are_what_the_program_takes(monkeypatch, tmp_path):
    page = (ROOT / "docs" / "judge-compare.md").read_text()
    commands = re.findall(r"```sh\n(.*?)```", page, re.S)[0].replace("\\\n", " ").splitlines()
    monkeypatch.chdir(tmp_path)

    def parsed(*_: object, **__: object) -> None:
        raise UserError("parsed")

    monkeypatch.setattr("rlaif.workbench.judge_comparison.compare_judges", parsed)
    monkeypatch.setattr("rlaif.workbench.people_truth.card_on_labels", parsed)
    assert len(commands) == 4
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert (type(done.exception), str(done.exception)) == (UserError, "parsed"), (command, done.output)
