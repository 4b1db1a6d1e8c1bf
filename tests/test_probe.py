"""A probe set under a constitution that is being edited: what is asked, what turned, what a save does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Queue

import pytest
from typer.testing import CliRunner

import rlaif
import rlaif.engines
from rlaif.audit.card import JudgeSetting
from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.prompting.templates import Templates
from rlaif.records import Message, Prompt
from rlaif.workbench.judges import Named, PairSource, pairs_of, probe_pairs
from rlaif.workbench.probe import Cell, Effect, Probe, ProbePair
from rlaif.workbench.trying_text import _decided_by, saved_in_words
from rlaif.workbench.watching import Watch, read_at_rest
from tests import scripts

ROOT = Path(__file__).parent.parent
TEXTS = [("rude day", "nice day"), ("nice day", "nice sun"), ("wrong sun", "rain"), ("sun", "rude rain")]


def pairs(tags=("fact",)):
    prompt = [Prompt(messages=(Message(role="user", content=f"Question {n}?"),), tags=tags) for n in range(4)]
    return [ProbePair(prompt[n], a, b) for n, (a, b) in enumerate(TEXTS)]


def probe(few_shot=0):
    return Probe(JudgeSetting(scripts.feedback(), Templates.load("brief"), few_shot), pairs())


@pytest.fixture
def file(project):
    return project / "constitution.yaml"


def edited(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return Constitution.load(file)


def test_the_verdicts_are_those_of_rlaif_judge(file):
    constitution = Constitution.load(file)
    found = probe().verdicts(constitution)
    given = [{"prompt": f"Question {n}?", "a": a, "b": b, "tags": ["fact"]} for n, (a, b) in enumerate(TEXTS)]
    judged = rlaif.judge(given, constitution, scripts.feedback(), templates="brief")
    for number, judgement in enumerate(judged):
        both, deciding = found.preferences[number]
        assert (both.p_a, deciding) == (judgement.p_a, judgement.deciding_principle)
        for principle, p in judgement.by_principle.items():
            cell = found.cells[number, principle]
            assert cell.p_a == p
            shown = {label.order: label.p_a for label in judgement.labels if label.principle_id == principle}
            assert cell.shown == shown


def test_only_what_an_edit_changes_is_asked(file):
    watched = probe()
    calls = watched.setting.engine.usage
    assert watched.verdicts(Constitution.load(file)).asked == 4 * 2 * 2
    assert watched.verdicts(edited(file, "Never say rude.", "Never say sun.")).asked == 4 * 2
    assert calls.calls == 4 * 2 * 3
    assert watched.verdicts(edited(file, "Never say sun.", "Never say rude.")).asked == 0  # taken back
    assert watched.verdicts(edited(file, "weight: 2.0", "weight: 0.5")).asked == 0
    assert watched.verdicts(edited(file, "weight: 1.0", "weight: 1.0, critique: Look hard.")).asked == 0
    assert watched.verdicts(edited(file, "[fact]", "[talk]")).asked == 0
    added = file.read_text() + "  - {id: no-day, text: Never say day.}\n"
    file.write_text(added)
    assert watched.verdicts(Constitution.load(file)).asked == 4 * 2
    assert calls.calls == 4 * 2 * 4


def test_an_effect_has_exactly_the_verdicts_that_turned(file):
    watched = probe()
    before = watched.verdicts(Constitution.load(file))
    after = watched.verdicts(edited(file, "Never say rude.", "Never say sun."))
    effect = Effect.of(before, after)
    turned = {(one.pair, one.principle, one.before.verdict, one.after.verdict) for one in effect.turned}
    assert turned == {
        (0, "no-rude", "b", "tie"),
        (1, "no-rude", "tie", "a"),
        (2, "no-rude", "tie", "b"),
        (3, "no-rude", "a", "b"),
    }
    assert {(one.pair, one.before.verdict, one.after.verdict) for one in effect.preferences} == {
        (0, "b", "tie"),
        (1, "tie", "a"),
        (3, "a", "b"),
    }
    assert (effect.compared, effect.pairs, effect.asked) == (8, 4, 8)
    assert [edit.id for edit in effect.edits] == ["no-rude"]
    narrower = Effect.of(after, watched.verdicts(edited(file, "[fact]", "[talk]")))
    assert (narrower.turned, narrower.compared) == ((), 4)  # what applies no longer has not turned
    assert [one.pair for one in narrower.preferences] == []


def test_moved_counts_what_moved_without_turning(file):
    class Softer:
        def __init__(self, p):
            self.p = p

        def __call__(self, messages, suffix, choices):
            return [self.p, 1 - self.p] if "A: rude" not in messages[-1]["content"] else [1 - self.p, self.p]

    found = []
    for p in (0.95, 0.7):
        engine = rlaif.engines.Scripted(on_score=Softer(p), name=str(p))
        one = Probe(JudgeSetting(engine, Templates.load("brief")), pairs()[:1])
        found.append(one.verdicts(Constitution.load(file)))
    effect = Effect.of(*found)
    assert (len(effect.turned), effect.moved) == (0, 2)


def test_with_few_shot_turns_an_edited_example_makes_all_stale(file):
    file.write_text(
        file.read_text()
        + "  - {id: x, text: Never say day., examples: [{prompt: p, better: q, worse: day}]}\n"
    )
    watched = probe(few_shot=1)
    assert watched.verdicts(Constitution.load(file)).asked == 4 * 2 * 3
    assert watched.verdicts(edited(file, "better: q", "better: r")).asked == 4 * 2 * 3


def test_a_judge_that_refuses_everything_is_the_users_to_change(file):
    refusing = rlaif.engines.Scripted(
        on_score=lambda messages, suffix, choices: [0.001, 0.001], name="refusing"
    )
    one = Probe(JudgeSetting(refusing, Templates.load("brief")), pairs())
    with pytest.raises(UserError, match=r"gave no verdict that can be read \(16 × refused\)"):
        one.verdicts(Constitution.load(file))


class Watching:
    """A watch whose saves a thread collects."""

    def __init__(self, file):
        self.watch, self.found, self.stop = Watch(file, probe()), Queue(), threading.Event()
        self.watch.start()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        for saved in self.watch.saves(self.stop):
            self.found.put(saved)

    def next(self):
        return self.found.get(timeout=20)

    def end(self):
        self.stop.set()
        self.thread.join(20)
        assert self.found.empty()


@pytest.fixture
def watching(file):
    made = Watching(file)
    yield made
    made.end()


def test_each_save_is_told_once(file, watching):
    edited(file, "Never say rude.", "Never say sun.")
    saved = watching.next()
    assert (saved.number, saved.error, len(saved.effect.turned)) == (1, "", 4)
    os.utime(file)  # touched, not changed
    replaced = file.with_name("new")  # as most editors save: another file takes its place
    replaced.write_text(file.read_text().replace("Never say sun.", "Never say rude."))
    replaced.replace(file)
    saved = watching.next()
    assert (saved.number, saved.effect.asked, len(saved.effect.turned)) == (2, 0, 4)


def test_no_principle_decides_a_tie():
    assert _decided_by(Cell(p_a=0.49, shown={}), "no-rude") == ""
    assert _decided_by(Cell(p_a=0.39, shown={}), "no-rude") == ", decided by no-rude"


def test_a_save_that_cannot_be_loaded_is_told_with_its_line(file, watching):
    good = file.read_text()
    file.write_text(good.replace("text: Never say rude.", "txt: Never say rude."))
    saved = watching.next()
    assert 'constitution.yaml:3: unknown key "txt"' in saved.error
    told = saved_in_words(saved, watching.watch.probe.pairs)[0]
    assert told.startswith("save 1: ")
    assert told.endswith("and save it again")
    file.unlink()
    assert "no such file" in watching.next().error.lower()
    file.write_text(good.replace("Never say rude.", "Never say sun."))
    saved = watching.next()  # against the last one that could be judged
    assert (saved.error, len(saved.effect.turned)) == ("", 4)


def test_a_file_that_is_back_as_it_was_is_told(file, watching):
    same = file.read_bytes()
    for number in (1, 3):
        file.unlink()
        assert "no such file" in watching.next().error.lower()
        file.write_bytes(same)
        saved = watching.next()
        assert (saved.number, saved.error, len(saved.effect.turned)) == (number + 1, "", 0)


def test_a_file_that_is_written_all_the_time_is_not_half_read(file):
    stop = threading.Event()

    def write():
        while not stop.is_set():
            file.write_text(file.read_text() + "# more\n")
            time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with pytest.raises(UserError, match="is written all the time"):
            read_at_rest(file, tries=5)
    finally:
        stop.set()
        thread.join()
    assert read_at_rest(file)[0] == file.read_bytes()


def test_pairs_come_from_a_file_the_policy_or_the_examples(project, file):
    constitution = Constitution.load(file)
    named = Named.of(str(project / "config.yaml"), [], file, "brief")

    def probed(constitution=constitution, **source) -> list[ProbePair]:
        return probe_pairs(named, constitution, PairSource(**source))[0]

    found = probed(policy=named.policy, number=10)
    assert len(found) == 10
    assert found == probed(policy=named.policy, number=10)
    assert found != probed(policy=named.policy, number=10, seed=1)
    rows = [
        {"prompt": "Hi?", "a": "x", "b": "y", "tags": ["t"]},
        {"prompt": "Ho?", "chosen": "x", "rejected": "z"},
    ]
    (project / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = probed(file=project / "pairs.jsonl")
    assert [(p.prompt.messages[-1].content, p.a, p.b, p.prompt.tags) for p in found] == [
        ("Hi?", "x", "y", ("t",)),
        ("Ho?", "x", "z", ()),
    ]
    with pytest.raises(UserError, match="no pair of responses"):
        probed()
    (project / "pairs.jsonl").write_text(
        '{"prompt": "Hi?", "a": "x", "b": "y"}\n{"prompt": "Hi?", "a": "x"}\n'
    )
    with pytest.raises(UserError, match=r"pairs\.jsonl:2: no b"):
        pairs_of(project / "pairs.jsonl", constitution)
    text = (
        file.read_text()
        + "  - {id: x, text: Never say day., examples: [{prompt: p, better: q, worse: day}]}\n"
    )
    file.write_text(text)
    (one,) = probed(Constitution.load(file))
    assert {one.a, one.b} == {"q", "day"}


def command(project, *words):
    return [
        "constitution",
        "try",
        str(project / "constitution.yaml"),
        "--judge",
        str(project / "config.yaml"),
        *words,
    ]


def tried(project, typed, *words):
    return CliRunner().invoke(app, command(project, *words), input=typed)


def test_a_typed_prompt_is_answered_criticised_and_judged(project, file):
    done = tried(project, "Hello there\n", "--seed", "3")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    a, b = lines[lines.index("a") + 1].strip(), lines[lines.index("b") + 1].strip()
    assert len(a.split()) == len(b.split()) == 5
    assert "  no-rude" in lines
    assert "    critique:" in lines
    assert "no-wrong" not in done.stdout  # it applies to facts alone
    table = lines[lines.index(next(line for line in lines if line.startswith("P(a is better)"))) :]
    expected = {(0, 0): "tie", (1, 1): "tie", (1, 0): "b", (0, 1): "a"}["rude" in a, "rude" in b]
    assert table[1].split()[0] == "no-rude"
    assert table[1].split()[-1] == expected
    assert tried(project, "Hello there\n", "--seed", "3").stdout == done.stdout
    assert tried(project, "Hello there\n", "--seed", "4").stdout != done.stdout


def test_a_prompt_is_picked_and_the_file_is_read_anew(project, file):
    done = tried(project, "/pick question 1?\n/pick 1\n")
    assert done.stdout.splitlines()[0] == "  1  Question 1?  [fact]"
    assert "no-wrong" in done.stdout
    many = tried(project, "/pick\n")
    assert len(many.stdout.splitlines()) == 11
    assert "50 more" in many.stdout
    assert "No prompt has" in tried(project, "/pick nowhere\n").stderr


def test_critiques_are_limited_to_principles_that_exist(project):
    done = tried(project, "/only no-rud\n/only no-rude\n/pick Question 1?\n/pick 1\n/only\n/bad\n")
    assert done.exit_code == 0
    assert 'no principle "no-rud"' in done.stderr
    assert "did you mean" in done.stderr
    before, after = done.stdout.split("P(a is better)")
    assert "  no-rude" in before
    assert "  no-wrong" not in before
    assert "  no-wrong" in after


def test_a_model_as_the_judge_needs_a_policy(project, file):
    words = ["constitution", "try", str(file), "--judge", str(ROOT / "rlaif/playground/weights/feedback")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError)
    assert "no policy" in str(done.exception)


@pytest.mark.parametrize("words", [["--json"], ["--pairs", "pairs.jsonl"]])
def test_what_is_of_use_to_a_watch_alone_is_refused_without_one(project, words):
    done = tried(project, "Hello there\n", *words)
    assert isinstance(done.exception, UserError)
    assert done.exception.found.startswith(f"{words[0]} without --watch")


@pytest.mark.parametrize(
    "words",
    [
        ["constitution", "test", "constitution.yaml", "--judge", "config.yaml", "--templates", "brief"],
        ["constitution", "try", "constitution.yaml", "--judge", "config.yaml", "--templates", "brief"],
        ["constitution", "open", "constitution.yaml", "--judge", "config.yaml", "--templates", "brief"],
        ["constitution", "induce", "labels.jsonl", "--judge", "config.yaml", "--templates", "brief"],
        ["constitution", "executors", "constitution.yaml", "--judge", "config.yaml", "--templates", "brief"],
        ["judge", "audit", "config.yaml", "--templates", "brief"],
        ["judge", "audit", "config.yaml", "--constitution", "constitution.yaml"],
        ["judge", "fit", "config.yaml", "--out", "fit", "--constitution", "constitution.yaml"],
    ],
)
def test_what_a_config_says_itself_is_no_option_beside_it(project, monkeypatch, words):
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError), done.output
    assert done.exception.found == f"{words[-2]} {words[-1]}: config.yaml is a config, which names its own."
    assert done.exception.next == f"-s {words[-2].strip('-')}={words[-1]}"


@pytest.mark.parametrize("command", ["try", "open"])
@pytest.mark.parametrize(("given", "lacks"), [("--prompts", "policy"), ("--policy", "prompts")])
def test_a_judges_model_is_no_policy_and_prompts_and_policy_belong_together(
    project, file, command, given, lacks
):
    """Its model never wrote the responses that are watched: with prompts and no policy it once did."""
    model = str(ROOT / "rlaif/playground/weights/feedback")
    (project / "some.jsonl").write_text('{"prompt": "Hi?"}\n')
    value = str(project / "some.jsonl") if given == "--prompts" else model
    words = ["constitution", command, str(file), "--judge", model, given, value]
    done = CliRunner().invoke(app, [*words, *(["--watch"] if command == "try" else [])])
    assert isinstance(done.exception, UserError)
    assert f" and no {lacks}: the pairs to watch" in done.exception.found
    named = Named.of(model, [], file, "brief").with_prompts(project / "some.jsonl")
    assert named.policy is None


def test_hostile_text_does_no_harm_in_the_terminal(project, file):
    watched = probe()
    hostile = "\x1b[31m<script>{{ 7*7 }}\u202e rude"
    watched.pairs[0] = ProbePair(watched.pairs[0].prompt, hostile, "nice")
    before = watched.verdicts(Constitution.load(file))
    after = watched.verdicts(edited(file, "Never say rude.", '"Never say nice. \\e[31m"'))
    assert after.cells[0, "no-rude"].verdict != before.cells[0, "no-rude"].verdict
    done = tried(project, f"{hostile}\n")
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output


@pytest.mark.slow
def test_the_page_s_command_works_on_the_playground():
    page = (ROOT / "docs/test-and-try.md").read_text()
    (line,) = [
        line for line in page.splitlines() if line.startswith("rlaif constitution try") and "--max" in line
    ]
    done = subprocess.run(
        [sys.executable, "-m", *line.replace("rlaif", "rlaif.cli", 1).split()],
        input="/pick forge a passport\n/pick 1\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "    critique:" in done.stdout
    assert "  all together" in done.stdout
    words = line.partition(" --max")[0].replace("rlaif", "rlaif.cli", 1).split()
    process = subprocess.Popen(
        [sys.executable, "-m", *words, "--watch", "--num-pairs", "4"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    said = iter(process.stderr.readline, "")
    assert any("4 pairs, 28 verdicts, 56 questions asked" in one for one in said)
    process.terminate()
    assert process.wait(30) == 143


def test_watch_prints_a_line_of_json_a_save_and_ends_in_order(project, file):
    words = [sys.executable, "-m", "rlaif.cli", *command(project, "--watch", "--json", "--num-pairs", "12")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while "Save the file" not in (line := process.stderr.readline()):
        assert line, "it has ended"
    edited(file, "Never say rude.", "Never say sun.")
    said = json.loads(process.stdout.readline())
    assert (said["number"], said["error"], said["edits"][0]["id"]) == (1, "", "no-rude")
    assert said["asked"] == 24
    assert said["turned"]
    assert {one["principle"] for one in said["turned"]} == {"no-rude"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert "Traceback" not in process.stderr.read()
