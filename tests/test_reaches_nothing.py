"""What a whole run does outside its folder: no address, no program but git, no unpickled class.

Python's audit events are recorded in a process of its own, where no code can take the hook away again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WATCHED = """
import json, sys
events = []
kept = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system", "os.exec",
        "os.posix_spawn", "pickle.find_class")
def hook(name, arguments):
    if name in kept:
        events.append((name, [str(argument)[:200] for argument in arguments]))
sys.addaudithook(hook)
from rlaif.cli import main
try:
    main()
finally:
    print("EVENTS " + json.dumps(events), file=sys.stderr)
"""
FEW = [
    "threads=1",
    "sample[0].num_prompts=16",
    "sample[1].num_prompts=16",
    "reward.epochs=1",
    "ppo.updates=2",
    "ppo.batch_size=8",
    "evaluate.num_prompts=8",
    "evaluate.num_judged_prompts=4",
    "judge_card.num_pairs=4",
    "judge_card.enforce=false",
]


def events_of(*words: object) -> tuple[subprocess.CompletedProcess[str], list[tuple[str, list[str]]]]:
    """A command's result, and the audit events of its process."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("EVENTS ")]
    return done, [(name, arguments) for name, arguments in json.loads(said[-1].removeprefix("EVENTS "))]


def unexpected(events: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """The events other than git, which is asked for the revision of the config's folder."""
    return [(name, given) for name, given in events if (name, given[0]) != ("subprocess.Popen", "git")]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[tuple[str, list[str]]]]:
    out = tmp_path_factory.mktemp("runs") / "few"
    settings = [word for override in FEW for word in ("-s", override)]
    done, events = events_of("run", "configs/quickstart.yaml", "--out", out, *settings)
    assert done.returncode == 0, done.stderr[-2000:]
    return out, events


def test_the_hook_sees_what_it_should(tmp_path):
    code = WATCHED.replace(
        "from rlaif.cli import main", "import socket\ndef main(): socket.getaddrinfo('localhost', 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "socket.getaddrinfo" in done.stderr


def test_a_whole_run_reaches_nothing(run):
    assert unexpected(run[1]) == []


@pytest.mark.parametrize("words", [("show", "RUN"), ("compare", "RUN", "RUN", "--out", "PAGE")])
def test_reading_a_run_reaches_nothing(run, tmp_path, words):
    places = {"RUN": run[0], "PAGE": tmp_path / "page.html"}
    done, events = events_of(*(places.get(word, word) for word in words))
    assert done.returncode == 0, done.stderr[-2000:]
    assert unexpected(events) == []
