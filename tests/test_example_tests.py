"""`rlaif constitution test`: what passes, fails and cannot be read, and how that is told."""

import json
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rlaif.audit.card import JudgeSetting
from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.engines import Scripted
from rlaif.errors import UserError
from rlaif.prompting.templates import Templates
from rlaif.workbench.example_report import last_failed
from rlaif.workbench.example_tests import chosen, collect, run_tests, without
from rlaif.workbench.selection import selector
from tests import scripts

ROOT = Path(__file__).parent.parent
FILE = """name: words
principles:
  - id: no-rude
    text: Never say rude.
    tags: [style]
    paraphrases: [Never say wrong.]
    examples:
      - {prompt: Hi?, better: nice day, worse: rude day}
      - {prompt: Hi?, better: nice day wrong, worse: rude day}
  - id: no-sun
    text: Never say sun.
    examples:
      - {prompt: Sky?, better: sun, worse: rain}
  - id: none
    text: Never say rain.
"""


@pytest.fixture
def file(project):
    path = project / "mine.yaml"
    path.write_text(FILE)
    return path


def run(file, *words, judge="config.yaml"):
    command = ["constitution", "test", str(file), "--judge", str(file.parent / judge), *words]
    return CliRunner().invoke(app, command)


def results(file, *words):
    done = run(file, "--json", *words)
    return done.exit_code, json.loads(done.stdout)


def test_each_example_is_asked_under_each_wording(file):
    code, said = results(file)
    assert code == 1
    assert said["summary"] == {"passed": 2, "failed": 3, "error": 0, "left_out": 0}
    assert said["untested"] == ["none"]
    found = {row["id"]: row for row in said["tests"]}
    assert list(found) == [
        "no-rude::example-1",
        "no-rude::example-1::wording-1",
        "no-rude::example-2",
        "no-rude::example-2::wording-1",
        "no-sun::example-1",
    ]
    good = found["no-rude::example-1"]
    assert (good["outcome"], good["why"], good["line"]) == ("passed", "", 8)
    assert [good[key] for key in ("better_first", "better_second", "both", "margin")] == pytest.approx(
        [0.9, 0.9, 0.9, 0.4]
    )
    other = found["no-rude::example-1::wording-1"]  # no side says "wrong": a tie
    assert (other["wording"], other["both"]) == ("Never say wrong.", pytest.approx(0.5))
    assert "does the judge understand the wording?" in other["why"]
    assert "prefers the worse response (0.10 for the better" in found["no-sun::example-1"]["why"]
    assert found["no-sun::example-1"]["line"] == 13


def test_the_text_is_like_pytests(file):
    done = run(file)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].endswith("tests: 5, principles: 3, judge: " + str(file.parent / "config.yaml"))
    assert lines[1].split() == ["..FFF", "[100%]"]  # the principles' own wordings are asked first
    assert any(line.startswith(f"FAILED {file}:13 no-sun::example-1 - prefers the worse") for line in lines)
    assert "    better   nice day wrong" in lines
    assert "UNTESTED none - it has no example" in lines
    assert "3 failed, 2 passed, principles without an example: 1 in " in lines[-1]


def test_the_exit_code_is_0_where_all_pass(file):
    done = run(file, "-k", "style and not wording")
    assert done.exit_code == 0
    assert "2 passed, 3 left out by -k" in done.stdout


def test_a_flip_and_a_small_lead_are_told_apart(file):
    first = Scripted(on_score=lambda messages, suffix, choices: [0.9, 0.1], name="first")
    constitution, lines = Constitution.load_with_lines(file)
    tests = collect(constitution, lines)[:1]
    (result,) = run_tests(tests, constitution, JudgeSetting(first, Templates.load("brief")))
    assert result.why == (
        "the verdict flips with the order (0.50 for the better response: 0.90 shown first, 0.10 shown second)"
    )

    def leaning(messages, suffix, choices):
        return [0.99, 0.01] if "A: nice" in messages[-1]["content"] else [0.6, 0.4]

    setting = JudgeSetting(Scripted(on_score=leaning, name="leaning"), Templates.load("brief"))
    (result,) = run_tests(tests, constitution, setting)  # 0.89 both together, and yet
    assert result.why.startswith("the verdict flips with the order (0.89 ")

    def weak(messages, suffix, choices):
        return [0.7, 0.3] if "A: nice" in messages[-1]["content"] else [0.3, 0.7]

    setting = JudgeSetting(Scripted(on_score=weak, name="weak"), Templates.load("brief"))
    assert [r.outcome for r in run_tests(tests, constitution, setting)] == ["passed"]
    (result,) = run_tests(tests, constitution, setting, margin=0.25)
    assert result.why.startswith("hardly decides")
    (result,) = run_tests(tests, constitution, setting, margin=0.0)
    assert result.outcome == "passed"


def test_a_few_shot_example_is_left_out_of_its_own_tests(file):
    asked = []

    def score(messages, suffix, choices):
        asked.append((suffix, [m["content"] for m in messages]))
        return scripts.judge(messages, suffix, choices)

    setting = JudgeSetting(Scripted(on_score=score, name="told"), Templates.load("brief"), few_shot=2)
    constitution, lines = Constitution.load_with_lines(file)
    shots = setting.judge(constitution).shots
    assert "nice day" in shots[0]["content"]  # the first example of no-rude
    assert "rain" in shots[2]["content"]  # that of no-sun
    list(run_tests(collect(constitution, lines), constitution, setting))
    for _, (*turns, last) in asked:
        better = [words for words in ("nice day wrong", "nice day", "sun") if f": {words}\n" in last + "\n"]
        assert better
        assert not [turn for turn in turns if f": {better[0]}\n" in turn + "\n"]
        assert len(turns) == 4  # another one has taken its place


def test_without_leaves_out_one_example(file):
    constitution = Constitution.load(file)
    left = without(constitution, constitution.principles[0].examples[0])
    assert [len(p.examples) for p in left.principles] == [1, 1, 0]


def test_failed_first_asks_what_failed_before(file):
    run(file)
    assert last_failed(file) == [
        "no-rude::example-1::wording-1",
        "no-rude::example-2::wording-1",
        "no-sun::example-1",
    ]
    constitution, lines = Constitution.load_with_lines(file)
    setting = JudgeSetting(scripts.feedback(), Templates.load("brief"))
    tests = collect(constitution, lines)
    order = [r.test.id for r in run_tests(tests, constitution, setting, first=last_failed(file))]
    assert set(order[:3]) == set(last_failed(file))
    assert "FF" in run(file, "--failed-first").stdout.splitlines()[1][:3]
    file.write_text(FILE.replace("better: sun, worse: rain", "better: rain, worse: sun"))
    run(file, "-k", "no-sun")  # what is not run stays as it was
    assert last_failed(file) == ["no-rude::example-1::wording-1", "no-rude::example-2::wording-1"]


def test_last_failed_asks_what_failed_before_and_nothing_else(file):
    assert run(file, "--lf").stderr.startswith(
        "--last-failed: none of the file's tests is known not to have passed last time; all are asked\n"
    )
    failed = last_failed(file)
    assert len(failed) == 3
    done = run(file, "--last-failed")
    assert "--last-failed: 3 did not pass last time and are asked again; 2 left out" in done.stderr
    assert done.stdout.splitlines()[:2] == [
        f"{file}: tests: 3, principles: 3, judge: {file.parent / 'config.yaml'}",
        "FFF" + " " * 57 + "  [100%]",
    ]
    assert "3 failed, 2 left out by --last-failed in" in done.stdout
    code, said = results(file, "--lf", "-k", "no-sun or example-1")  # what both choose
    assert (code, [row["id"] for row in said["tests"]]) == (1, [failed[0], failed[2]])
    assert said["summary"] == {"passed": 0, "failed": 2, "error": 0, "left_out": 3}
    file.write_text(FILE.replace("better: sun, worse: rain", "better: rain, worse: sun"))
    results(file, "--lf")  # the mended one passes, and is left out of the next
    assert [row["id"] for row in results(file, "--lf")[1]["tests"]] == failed[:2]


def test_last_failed_with_nothing_failed_among_the_named_asks_these(file):
    run(file)
    done = run(file, "--lf", "-k", "example-1 and not wording and not sun")
    assert "none of the tests that -k names is known not to have passed last time" in done.stderr
    assert "1 passed, 4 left out by -k in" in done.stdout


def test_junit_has_a_case_a_test(file, tmp_path):
    assert run(file, "--junit", str(tmp_path / "new" / "t.xml")).exit_code == 1
    (suite,) = ElementTree.parse(tmp_path / "new" / "t.xml").getroot()
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["6", "3", "0", "1"]
    failed = [case for case in suite if case.find("failure") is not None]
    assert {(case.get("classname"), case.get("name"), case.get("line")) for case in failed} >= {
        ("no-sun", "example-1", "13")
    }
    assert suite[-1].find("skipped") is not None
    assert run(file, "--junit", str(tmp_path)).exit_code != 0


def test_hostile_texts_do_no_harm(file, tmp_path):
    hostile = "<script>alert(1)</script> {{ 7*7 }} \\e[31m \\uFFFF ]]> & \\u202e"
    file.write_text(FILE.replace("better: sun", f'better: "sun {hostile}"'))
    done = run(file, "--junit", str(tmp_path / "t.xml"))
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout
    assert "\\x1b[31m" in done.stdout
    assert "{{ 7*7 }}" in done.stdout
    ElementTree.parse(tmp_path / "t.xml")
    assert "<script>" not in (tmp_path / "t.xml").read_text()


def refusing():
    return Scripted(on_score=lambda messages, suffix, choices: [0.001, 0.001], name="refusing")


def test_a_judge_that_refuses_is_the_users_to_change(file):
    constitution, lines = Constitution.load_with_lines(file)
    setting = JudgeSetting(refusing(), Templates.load("brief"))
    with pytest.raises(UserError, match=r"gave no verdict that can be read \(5 × refused\)"):
        list(run_tests(collect(constitution, lines), constitution, setting))

    def half(messages, suffix, choices):
        return [0.001, 0.001] if "rain" in messages[-1]["content"] else [0.9, 0.1]

    setting = JudgeSetting(Scripted(on_score=half, name="half"), Templates.load("brief"))
    found = {r.test.id: r for r in run_tests(collect(constitution, lines), constitution, setting)}
    assert found["no-sun::example-1"].outcome == "error"
    assert found["no-sun::example-1"].why == "no verdict could be read (refused)"


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (
            lambda f: f.write_text("name: x\nprinciples: [{id: a, text: b}]\n"),
            (),
            "no principle has an example",
        ),
        (lambda f: None, ("-k", "no-such"), "names none of the 5 tests"),
        (lambda f: None, ("-k", "a and"), "cannot be read"),
        (
            lambda f: f.write_text("name: x\nprinciples: [{id: a, txt: b}]\n"),
            (),
            'mine.yaml:2: unknown key "txt"',
        ),
        (lambda f: f.unlink(), (), "cannot be read"),
        (lambda f: (f.parent / "config.yaml").unlink(), (), "no such file"),
    ],
)
def test_what_the_user_can_fix_is_said(file, change, words, said):
    change(file)
    done = run(file, *words)
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("b", {"b", "b c"}),
        ("B and c", {"b c"}),
        ("a or c", {"a", "b c"}),
        ("not b", {"a"}),
        ("not (a or c)", {"b"}),
        ("a or b and c", {"a", "b c"}),
        ("(a or b) and not c", {"a", "b"}),
    ],
)
def test_selection_reads_expressions(words, names):
    select = selector(words)
    assert {name for name in ("a", "b", "b c") if select(name)} == names


@given(st.text(alphabet="ab()orndt ", max_size=40))
def test_selection_reads_or_refuses(words):
    with suppress(UserError):
        assert selector(words)("ab") in (True, False)


def test_the_choice_is_by_ids_and_tags(file):
    constitution, lines = Constitution.load_with_lines(file)
    tests = collect(constitution, lines)
    assert [t.id for t in chosen(tests, "style and example-2", file)] == [
        "no-rude::example-2",
        "no-rude::example-2::wording-1",
    ]


def test_on_the_playground_it_finds_the_wording_that_the_judge_does_not_understand(tmp_path):
    shipped = (ROOT / "constitutions/playground.yaml").read_text()
    reworded = shipped.replace(
        "text: The reply must be polite and never insult the user.", "text: Treat people with kindness."
    )
    assert reworded != shipped
    (tmp_path / "c.yaml").write_text(reworded)
    command = [
        "constitution",
        "test",
        str(tmp_path / "c.yaml"),
        "--judge",
        str(ROOT / "configs/quickstart.yaml"),
    ]
    done = CliRunner().invoke(app, [*command, "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert found["summary"] == {"passed": 27, "failed": 1, "error": 0, "left_out": 0}
    (failed,) = [row for row in found["tests"] if row["outcome"] != "passed"]
    assert failed["id"] == "polite::example-1"
    assert "does the judge understand the wording?" in failed["why"]
