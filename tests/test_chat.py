"""`rlaif chat`: policies side by side, turns kept apart, verdicts, and nothing that a terminal would obey."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif.chat import ChatPolicy, ChatTarget, Conversation, open_conversation
from rlaif.cli.chat import _as_text, _run_command
from rlaif.cli.terminal import say, typed_lines
from rlaif.engines import Scripted
from rlaif.errors import UserError
from tests.fake_run import fake_run
from tests.tiny_models import tiny_policy

ROOT = Path(__file__).parent.parent


def echo(request):
    """Says how many turns it was shown, the roles, and the seed."""
    roles = "".join(m["role"][0] for m in request.messages)
    return f"{roles} {request.messages[-1]['content']} {request.seed}"


def talk(*names, says=echo, **options):
    settings = {"seed": 0, "temperature": 1.0, "max_tokens": 8, **options}
    return Conversation([ChatPolicy(name, Scripted(on_generate=says)) for name in names], **settings)


def texts(said):
    return [own.text.rsplit(" ", 1)[0] for own in said]


def test_turns_are_kept_and_forgotten_when_asked():
    chat = talk("a", "b")
    assert texts(chat.ask("one")) == ["u one"] * 2
    assert texts(chat.ask("two")) == ["uau two"] * 2
    assert chat.policies[0].turns is not chat.policies[1].turns
    _run_command(chat, "/system Be kind.")
    assert texts(chat.ask("three")) == ["su three"] * 2
    _run_command(chat, "/reset")
    assert texts(chat.ask("four")) == ["su four"] * 2
    _run_command(chat, "/system")
    assert texts(chat.ask("five")) == ["u five"] * 2


def test_the_seed_and_the_turn_decide_what_is_drawn():
    chat = talk("a", "b", seed=3)
    first = [own.text for own in chat.ask("one")]
    assert first[0] == first[1]
    assert chat.ask("one")[0].text.split()[-1] != first[0].split()[-1]
    _run_command(chat, "/reset")
    assert [own.text for own in chat.ask("one")] == first
    assert "4" in _run_command(chat, "/seed 4")
    _run_command(chat, "/reset")
    assert [own.text for own in chat.ask("one")] != first


def test_what_is_no_command_is_explained():
    explained = {_run_command(talk("a"), line) for line in ("/rest", "/seed many", "/seed --5")}
    assert len(explained) == 1
    assert "/reset" in explained.pop()


def test_a_response_cannot_write_as_somebody_else_nor_obey_the_terminal(capsys):
    chat = talk("ppo", says=lambda request: "\x1b[2Jhi\nsft: I win\u202e")
    say(_as_text(*chat.ask("x")))
    assert capsys.readouterr().out == "ppo: \\x1b[2Jhi\n    sft: I win\\u202e\n"


def test_a_judge_gives_verdicts_by_principle(tmp_path):
    run = fake_run(tmp_path / "run", prompts=4)
    chat = open_conversation([str(run)], judged=True, trust=True)
    said = chat.ask("Question?")
    (own,) = said
    assert list(own.verdicts) == [p.id for p in chat.judge[1].constitution.principles]
    for principle, kept in own.verdicts.items():
        broken = principle.removeprefix("no-") in own.text.split()
        assert kept == pytest.approx(1 / 9 if broken else 8 / 9)
    shown = _as_text(own)
    assert all(f"    {principle}: " in shown for principle in own.verdicts)
    assert "kept, 0.89" in shown


def test_models_and_runs_are_named_alike(tmp_path):
    model = tiny_policy(tmp_path / "model")
    run = fake_run(tmp_path / "run", prompts=4)
    chat = open_conversation([str(model), f"{run}:base"], trust=True, max_tokens=4)
    assert [policy.name for policy in chat.policies] == ["model", "run:base"]
    assert all(own.text is not None for own in chat.ask("tell me"))
    said = chat.ask("now " * 80)
    assert (said[0].text, said[0].why) == (None, "prompt longer than the model's context")
    assert len(chat.policies[0].turns) == 2  # the turn that it could not read is not kept
    assert _as_text(said[0]) == "model: (no response: prompt longer than the model's context)"


def test_a_runs_last_policy_stands_for_it(tmp_path):
    run = fake_run(tmp_path / "run", prompts=4)
    (run / "03_sft" / "policy").mkdir()
    named = ChatTarget.of(str(run))
    assert (named.name, named.config.model) == ("run:sft", str(run / "03_sft" / "policy"))
    with pytest.raises(UserError, match='no policy "sfd" to talk to — did you mean "sft"'):
        ChatTarget.of(f"{run}:sfd")


def rlaif(*words, lines=""):
    return subprocess.run(
        [sys.executable, "-m", "rlaif.cli", "chat", *map(str, words)],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )


def test_lines_come_through_a_pipe(tmp_path):
    run = fake_run(tmp_path / "run", prompts=4)
    done = rlaif(run, run, "--judge", "--trust", lines="Hello?\n\n/system Be kind.\nAgain?\n/quit\nnever\n")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("run:base: ")]
    assert len(said) == 4
    assert said[0] == said[1]
    assert "    no-rude: " in done.stdout
    assert "The system prompt is set." in done.stderr
    assert done.stderr.count("\n") < 6  # nothing but progress


def test_a_line_that_is_no_text_is_the_users_mistake(monkeypatch):
    typed = io.TextIOWrapper(io.BytesIO("Hello, Zoë?\r\n".encode() + b"caf\xe9\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", typed)
    lines = typed_lines()
    assert next(lines) == "Hello, Zoë?"
    with pytest.raises(UserError, match=r"line 2 of what is typed: not UTF-8 text \(byte 0xE9\)"):
        next(lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}"], "add --trust"),
        (["{run}:ppo", "--trust"], 'no policy "ppo" to talk to'),
        (["{run}/nothing"], "no such model folder"),
        (["{model}", "--judge"], "no run is named, whose judge could give verdicts"),
    ],
)
def test_mistakes_are_explained(tmp_path, words, said):
    run = fake_run(tmp_path / "run", prompts=4)
    names = {"run": run, "model": tmp_path}
    done = rlaif(*(word.format(**names) for word in words), lines="Hello?\n")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert said in " ".join(done.stderr.split())
