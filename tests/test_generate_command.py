"""`rlaif prompts generate` as a command: kills, signals, budgets, locks, and its page."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.engines import GenerateRequest, Scripted
from rlaif.prompting.prompt_files import load_prompts
from rlaif.runs.locking import locked_file
from rlaif.runs.spending import BudgetReached
from rlaif.workbench.generate_prompts import KINDS
from tests.test_generate_prompts import RULES

ROOT = Path(__file__).parent.parent


@pytest.fixture
def rules(tmp_path) -> Constitution:
    (tmp_path / "rules.yaml").write_text(RULES)
    return Constitution.load(tmp_path / "rules.yaml")


CONFIG = """name: small
constitution: rules.yaml
prompts: prompts.jsonl
policy: {engine: scripted, model: "tests.scripts:policy"}
feedback: {engine: scripted, model: "tests.test_generate_command:killed_writer"}
stages: [{stage: sample}]
"""


def killed_writer() -> Scripted:
    """A model that is killed at the call that the environment names."""
    left = [int(os.environ.get("KILLED_AT", 10**6))]

    def write(request: GenerateRequest) -> str:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), 9)
        with open("asked.txt", "a") as log:
            log.write(f"{request.seed}\n")
        return "" if request.seed % 3 == 0 else f"What is {request.seed}, please?"

    return Scripted(write)


def test_killed_and_run_again_it_goes_on_without_repeating(tmp_path, rules):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    words = [
        "prompts",
        "generate",
        "rules.yaml",
        "--model",
        "config.yaml",
        "-n",
        "2",
        "--out",
        "p.jsonl",
        "--json",
    ]

    def start(**environment: str) -> subprocess.CompletedProcess:
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        command = [sys.executable, "-m", "rlaif", *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert start(KILLED_AT="9").returncode == -9
    rows = (tmp_path / "p.jsonl").read_text()
    assert rows
    (tmp_path / "p.jsonl").write_text(rows + '{"v": 1, "torn')
    done = start()
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["kept"], said["missing"], set(said["dropped"])) == (24, {}, {"empty"})
    assert (tmp_path / "p.jsonl").read_text().startswith(rows)
    asked = (tmp_path / "asked.txt").read_text().split()
    assert len(asked) == len(set(asked)) == 24 + said["dropped"]["empty"]
    assert len(load_prompts(tmp_path / "p.jsonl")) == 24
    assert start().returncode == 0
    assert len((tmp_path / "asked.txt").read_text().split()) == len(asked)


def interrupted_writer() -> Scripted:
    """A model at whose fifth call the process is asked to end, as by Ctrl-C (which a shell may ignore)."""
    calls = iter(range(10**6))

    def write(request: GenerateRequest) -> str:
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return f"What is {request.seed}, please?"

    return Scripted(write)


def command(folder: Path, *words: str):
    """The command in this process, in the project of `CONFIG`, whose model writes five-token texts."""
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    start = ["prompts", "generate", "rules.yaml", "--model", "config.yaml", "--out", "p.jsonl", *words]
    return CliRunner().invoke(app, start)


def test_two_processes_do_not_write_one_file(tmp_path, rules, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with locked_file(tmp_path / "p.jsonl"):
        done = command(tmp_path)
    assert "p.jsonl: another process is writing it" in str(done.exception)
    assert (tmp_path / "p.jsonl").read_text() == ""


def test_a_budget_holds_over_all_starts_and_s_reaches_the_config(tmp_path, rules, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        done = command(tmp_path, "-s", "budget.calls=5")
        assert isinstance(done.exception, BudgetReached)
        assert "5 of 5 calls spent" in str(done.exception)
    asked = (tmp_path / "asked.txt").read_text().split()
    assert len(asked) == 5
    assert sum(json.loads(line)["calls"] for line in (tmp_path / "p.spending.jsonl").open()) == 5
    assert len(load_prompts(tmp_path / "p.jsonl")) == sum(int(seed) % 3 > 0 for seed in asked)
    done = command(tmp_path, "-n", "1", "-s", "budget.calls=500", "--json")
    assert done.exit_code == 0, done.output
    assert len(set((tmp_path / "asked.txt").read_text().split())) > 5


def test_asked_to_end_it_keeps_what_was_written_and_says_how_to_go_on(tmp_path, rules):
    (tmp_path / "config.yaml").write_text(CONFIG.replace("killed_writer", "interrupted_writer"))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    command = [sys.executable, "-m", "rlaif", "prompts", "generate", "rules.yaml", "--model", "config.yaml"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 143
    assert "Run the same command again to continue" in done.stderr
    assert len(load_prompts(tmp_path / "generated.jsonl")) == 4


def test_the_page_has_the_kinds_the_reasons_and_a_command_that_parses(tmp_path, monkeypatch, rules):
    page = (ROOT / "docs" / "prompts-generate.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []
    source = (ROOT / "rlaif/workbench/prompt_faults.py").read_text()
    reasons = set(re.findall(r'return "([a-z ]+)"', source)) | {"nearly repeats another"}
    told = " ".join(page.split())
    assert len(reasons) > 6
    assert [reason for reason in reasons if reason not in told] == []
    (command,) = re.findall(r"^rlaif (prompts generate .*)$", page, re.MULTILINE)
    (tmp_path / "model.yaml").write_text(CONFIG)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    monkeypatch.chdir(tmp_path)
    words = (
        command.replace("constitutions/general.yaml", "rules.yaml").replace("my-model", "model.yaml").split()
    )
    done = CliRunner().invoke(app, words)
    assert done.exception is None, done.output
    assert "generated.jsonl: 60 of 60 prompts" in done.stdout
