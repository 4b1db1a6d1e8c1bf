"""The command line as a user meets it: exit codes, messages without tracebacks, results on stdout."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rlaif import DISTRIBUTION, __version__
from rlaif.cli import app
from rlaif.preflight.provenance import other_owners
from rlaif.runs.storage import read_json, write_json
from tests.fake_run import fake_run
from tests.launching import parse_command

ROOT = Path(__file__).parent.parent


def rlaif(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlaif.cli", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_no_arguments_prints_grouped_help():
    result = rlaif()
    assert "The loop" in result.stdout + result.stderr
    assert "Material" in result.stdout + result.stderr


def test_run_prints_the_report_last_and_progress_on_stderr(project):
    result = rlaif("run", project / "config.yaml", "--out", project / "run")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(project / "run" / "report.html")
    assert "05_label: done" in result.stderr
    shown = json.loads(rlaif("show", project / "run", "--json").stdout)
    assert shown["status"] == "done"
    assert shown["labels"]["agreement_with_gold"] == 1.0
    assert [s["name"] for s in shown["stages"]] == ["sample", "critique", "sample", "pair", "label"]
    printed = rlaif("show", project / "run")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout.startswith("small: done\n")
    assert f"agreement_with_gold 1, gold_decided {shown['labels']['gold_decided']}" in " ".join(
        printed.stdout.split()
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_printing_command_prints_in_any_encoding(project, tmp_path, encoding):
    def printed(*words: object) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "rlaif.cli", *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )
        assert result.returncode in (0, 1, 2), result.stderr
        assert b"Traceback" not in result.stderr
        return result.stdout.decode(encoding)

    run = fake_run(tmp_path / "run", say="→ \U0001f600 é …")
    assert json.loads(printed("show", run, "--json"))["status"] == "done"
    row = json.loads((run / "01_sample/responses.jsonl").read_text().splitlines()[0])
    assert "→ \U0001f600 é …" in row["text"]
    rows = json.loads(printed("show", run, row["id"], "--json"))
    assert row["text"] in json.dumps(rows, ensure_ascii=False)
    assert row["id"] in printed("show", run, row["id"])
    assert "run: done" in printed("show", run)
    assert "labels:" in printed("compare", run, run, "--out", tmp_path / "c.html", "--trust")
    constitution = tmp_path / "c.yaml"
    constitution.write_text(
        "name: x\nprinciples:\n  - {id: a, text: Be kind → always}\n  - {id: b, text: Be kind → always!}\n"
    )
    assert "warning:" in printed("constitution", "lint", constitution)
    assert json.loads(printed("constitution", "schema"))
    assert printed("playground", "sample", "-n", 1)
    assert json.loads(printed("run", project / "config.yaml", "--dry-run", "--json"))
    printed("run", tmp_path / "→.yaml")


def test_the_version(project):
    assert rlaif("--version").stdout == f"rlaif {__version__}\n"


def installed(site: Path, name: str, module: str, command: str) -> None:
    """A distribution in a site folder, as an installer leaves it."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"{module}/__init__.py,,\n{info.name}/METADATA,,\n")
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{command} = {module}.cli:main\n")


def test_check_names_other_packages_called_rlaif(tmp_path, monkeypatch):
    installed(tmp_path, DISTRIBUTION, "rlaif", "rlaif")
    installed(tmp_path, "innocent", "innocent", "innocent")
    with monkeypatch.context() as here:
        here.setattr(sys, "path", [str(tmp_path)])
        assert other_owners() == {}
    installed(tmp_path, "same-module", "rlaif", "innocent")
    installed(tmp_path, "same-command", "innocent", "rlaif")
    found = rlaif("check", "--json", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    conflicts = json.loads(found.stdout)["conflicts"]
    assert {name for name in conflicts if name.endswith(" 1.0")} == {"same-module 1.0", "same-command 1.0"}
    assert "pip uninstall same-module" in conflicts["same-module 1.0"]


def test_the_distribution_has_one_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    assert set(project["scripts"]) == {"rlaif"}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "rlaif").rglob("*.py")]
    assert not [page for page in pages if re.search(r"\brlaif\[\w", page.read_text())], "an extra of rlaif"


def test_counts_are_printed_in_full(tmp_path):
    run = fake_run(tmp_path / "run")
    path = next(run.glob("*_label/stage.json"))
    data = read_json(path)
    write_json(path, data | {"metrics": data["metrics"] | {"verdicts": 32520, "mass": 0.123456}})
    said = " ".join(rlaif("show", run).stdout.split())
    assert "verdicts 32,520" in said
    assert "mass 0.1235" in said


def test_show_a_row_with_everything_that_led_to_it(project):
    rlaif("run", project / "config.yaml", "--out", project / "run")
    step = json.loads((project / "run" / "02_critique" / "revisions.jsonl").read_text().splitlines()[0])
    rows = json.loads(rlaif("show", project / "run", step["id"], "--json").stdout)
    assert rows[0]["critique"] == step["critique"]
    assert {step["from_id"], step["prompt_id"]} <= {row["id"] for row in rows}


def test_nothing_a_terminal_would_obey_is_printed(project):
    evil = "\x1b]0;owned\x07 \x9b2J \u202e"
    prompts = project / "prompts.jsonl"
    prompts.write_text(prompts.read_text().replace("Question", json.dumps(evil)[1:-1]))
    assert (
        rlaif("run", project / "config.yaml", "--out", project / "run", "--until", "critique").returncode == 0
    )
    stage = project / "run" / "02_critique" / "stage.json"
    write_json(stage, read_json(stage) | {"dropped": {f"[bold]{evil}": 3}})
    step = json.loads((project / "run" / "02_critique" / "revisions.jsonl").read_text().splitlines()[0])
    summary, data, row, story = (
        rlaif("show", project / "run", *words, COLUMNS="300").stdout
        for words in ((), ("--json",), (step["id"], "--json"), (step["id"],))
    )
    assert not set("\x1b\x07\x9b\u202e") & set(summary + data + row + story)
    assert r"\x1b]0;owned\x07 \x9b2J \u202e" in story
    assert r"3 × [bold]\x1b]0;owned\x07 \x9b2J \u202e" in " ".join(summary.replace("│", " ").split())
    assert list(json.loads(data)["stages"][1]["dropped"]) == [f"[bold]{evil}"]
    assert any(evil in m["content"] for found in json.loads(row) for m in found.get("messages", ()))
    named = f"name: {json.dumps('s' + evil)}"
    (project / "evil.yaml").write_text((project / "config.yaml").read_text().replace("name: small", named))
    assert r"found: 's\x1b]0;owned" in refused(rlaif("run", project / "evil.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("prompts: prompts.jsonl", "prompts: nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("heldout: 0.25", "heldowt: 0.25", 'config.yaml:4: unknown key "heldowt" — did you mean "heldout"?'),
        ("rounds: 2", "rounds: two", "config.yaml:11: rounds:"),
        ("templates: brief", "templates: breif", 'did you mean "brief"?'),
        ("tests.scripts:gold", "tests.scripts:glod", 'has no function "glod"'),
        ("stage: pair", "stage: pear", 'unknown stage "pear" — did you mean "pair"?'),
        ("name: small", "name: [", "config.yaml:"),
    ],
)
def test_mistakes_in_the_config_are_named_with_line_and_neighbour(project, old, new, expected):
    config = project / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new, 1))
    assert expected in refused(rlaif("run", config, "--out", project / "run"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("text: Never say rude.", "text: ''", "constitution.yaml:3: text: a principle needs a text"),
        ("text: Never say rude., ", "", 'constitution.yaml:3: "text" is missing'),
        ("id: no-wrong", "id: no-rude", 'constitution.yaml:4: the principle id "no-rude" stands twice'),
        ("weight: 1.0", "wieght: 1.0", 'unknown key "wieght" — did you mean "weight"?'),
    ],
)
def test_mistakes_in_the_constitution_are_named_with_line(project, old, new, expected):
    path = project / "constitution.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    assert expected in refused(rlaif("run", project / "config.yaml", "--out", project / "run"))
    assert expected in refused(rlaif("constitution", "lint", path))


def test_a_bad_prompt_row_is_named_with_its_line(project):
    path = project / "prompts.jsonl"
    path.write_text(path.read_text() + '{"messages": []}\n')
    assert "prompts.jsonl:61: messages" in refused(
        rlaif("run", project / "config.yaml", "--out", project / "run")
    )


def test_missing_files_and_folders_are_the_users_mistake(tmp_path):
    assert "no such file" in refused(rlaif("run", tmp_path / "no.yaml"))
    assert "not a run folder" in refused(rlaif("show", tmp_path, "--json"))
    assert "cannot be read" in refused(rlaif("constitution", "lint", tmp_path / "no.yaml"))


def test_interrupted_says_how_to_go_on_and_exits_130(project):
    slow = {"PYTHONPATH": str(ROOT), "SLOW": "0.05"}
    command = [
        sys.executable,
        "-m",
        "rlaif.cli",
        "run",
        str(project / "config.yaml"),
        "--out",
        str(project / "run"),
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **slow},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored by what a shell runs in the background
    )
    file = project / "run" / "01_sample" / "responses.jsonl"
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "same command" in stderr
    assert "Traceback" not in stderr
    assert rlaif("run", project / "config.yaml", "--out", project / "run").returncode == 0


def test_dry_run_prints_json(project):
    plan = json.loads(rlaif("run", project / "config.yaml", "--dry-run", "--json").stdout)
    assert plan["principles"] == 2
    assert plan["calls"] == sum(stage["calls"] for stage in plan["stages"])


def test_schema_describes_the_constitution_file():
    schema = json.loads(rlaif("constitution", "schema").stdout)
    assert {"name", "principles"} <= set(schema["properties"])


def commands_of_readme() -> list[str]:
    blocks = (ROOT / "README.md").read_text().split("```sh\n")[1:]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.split("```")[0].splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if "rlaif " in line]


@pytest.mark.parametrize("command", commands_of_readme())
def test_readme_commands_are_commands(command, tmp_path):
    """Configs named in the README pass a dry run; other commands have the arguments they are given."""
    words = shlex.split(command)[1:]
    if words[0] == "run":
        if "constitution=my.yaml" in words:
            words[words.index("constitution=my.yaml")] = "constitution=constitutions/playground.yaml"
        result = rlaif(*words, *("--no-check", *(() if "--dry-run" in words else ("--dry-run",))))
        assert result.returncode == 0, result.stderr
    else:
        parse_command(words)


def test_readme_constitution_is_valid(tmp_path):
    from rlaif.constitution import Constitution

    block = (ROOT / "docs" / "constitutions.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "c.yaml").write_text(block)
    assert Constitution.load(tmp_path / "c.yaml").ids == ["no-harm"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_passes_a_dry_run(path, tmp_path):
    changed = []
    if path.name == "pretrain.yaml":  # its text is written first, as it says
        rlaif("playground", "text", tmp_path, "--texts", 200, "--demonstrations", 50)
        texts = {"pretrain.text": "text", "sft[0].demonstrations": "demonstrations"}
        changed = [word for key, name in texts.items() for word in ("-s", f"{key}={tmp_path / name}.jsonl")]
    result = rlaif("run", path, "--dry-run", "--no-check", *changed)
    assert result.returncode == 0, result.stderr


def options_of(command: Any, name: str = "rlaif") -> Iterator[tuple[str, Any]]:
    """Every option of every command, with the command's name."""
    for word, inner in getattr(command, "commands", {}).items():
        yield from options_of(inner, f"{name} {word}")
    yield from ((name, option) for option in command.params if option.param_type_name == "option")


def test_neighbours_spell_and_explain_the_same_option_alike():
    told: defaultdict[str, set[str]] = defaultdict(set)
    switched_off = set()
    for name, option in options_of(get_command(app)):
        for spelling in option.opts:
            told[spelling].add(option.help)
        switched_off |= {(name, spelling) for spelling in option.secondary_opts}
        assert not re.search(r"repeatable|omitted:|; default", option.help or ""), (name, option.opts)
    assert switched_off == {("rlaif run", "--no-check"), ("rlaif resume", "--no-check")}
    for spelling in ("--trust", "--few-shot", "--keep", "--port"):
        assert len(told[spelling]) == 1, spelling
    meant = "a run's, a judge's, that of the model that writes prompts, and the budget of an edit's questions"
    assert len(told["--set"]) == 4, meant


def test_resume_offers_no_option_that_it_lacks():
    shown = CliRunner().invoke(app, ["resume", "--help"], env={"COLUMNS": "200"}).output
    assert "--check" in shown
    assert "--dry-run" not in shown
