"""`rlaif constitution lint`: what it prints, its exit codes, JSON, SARIF, and the hook."""

import json
import re
import shlex
import shutil

import jsonschema
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.constitution import Constitution
from rlaif.errors import UserError
from rlaif.workbench.lint import RULES
from rlaif.workbench.lint.files import UNREADABLE
from tests.test_lint import GENERAL, GOOD, JUDGE, ROOT, written


def ran(*words: object):
    return CliRunner().invoke(app, ["constitution", "lint", *map(str, words)])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 1),
        (("--fail-on", "error"), 0),
        (("--fail-on", "never"), 0),
        (("--fail-on", "note"), 1),
        (("--ignore", "duplicate"), 0),
        (("--ignore", "duplicate", "--fail-on", "note"), 1),
        (("--select", "no-example"), 0),
        (("--select", "no-example", "--fail-on", "note"), 1),
        (("--select", "opposed", "--fail-on", "note"), 0),
    ],
)
def test_the_exit_code_is_1_from_the_chosen_level_on(tmp_path, words, code):
    path = written(tmp_path, "text: Be kind.", "text: Be kind!")
    assert ran(path, *words).exit_code == code


def test_text_names_place_rule_reason_and_silencer_of_every_file(tmp_path):
    path = written(tmp_path, "text: Be kind.\n" + GOOD.strip(), "text: Be kind!\n" + GOOD.strip())
    result = ran(path, GENERAL)
    assert result.output.splitlines() == [
        f'{path}:7:5: warning: "p1" has the same text as "p0" [duplicate]',
        "    the same rule then counts twice, and is paid for twice. To silence it, at the end of line 6: "
        "# lint: ignore=duplicate",
        f'{path}:8:17: warning: an example of "p1" stands in "p0" already ("Hi") [repeated-example]',
        "    it is tested twice and shown twice, and says nothing new. To silence it, at the end of line 6: "
        "# lint: ignore=repeated-example",
        f"{path}: 2 principles, hash {Constitution.load(path).hash}",
        f"{GENERAL}: 24 principles, hash {Constitution.load(GENERAL).hash}",
    ]


def test_an_unreadable_file_is_a_finding_of_the_log_and_exit_code_2(tmp_path):
    bad, good = tmp_path / "bad.yaml", written(tmp_path, "text: Be kind.")
    bad.write_text("nmae: x\nprinciples:\n  - {id: a, text: Be kind., wieght: 2}\n")
    result = ran(bad, good, "--json")
    assert result.exit_code == 2 or isinstance(result.exception, UserError)
    rows = json.loads(result.stdout)
    assert [(row["line"], row["rule"]) for row in rows if row["path"] == str(bad)] == [
        (1, UNREADABLE),
        (3, UNREADABLE),
        (1, UNREADABLE),
    ]
    assert {row["rule"] for row in rows if row["path"] == str(good)} == {"no-example"}


def test_json_has_every_part_of_a_finding(tmp_path):
    path = written(tmp_path, "text: Be kind.")
    assert json.loads(ran(path, "--json").stdout) == [
        {
            "path": str(path),
            "line": 3,
            "column": 5,
            "rule": "no-example",
            "level": "note",
            "message": '"p0" has no example',
            "why": RULES["no-example"].why,
            "silence": "at the end of line 3: # lint: ignore=no-example",
            "principle": "p0",
        }
    ]


# What SARIF 2.1.0 requires of a log, its runs, rules and results, as far as this log has them.
def _required(*names: str, **properties) -> dict:
    return {"type": "object", "required": list(names), "properties": properties}


TEXT = _required("text", text={"type": "string", "minLength": 1})
LEVEL = {"enum": ["none", "note", "warning", "error"]}
REGION = _required(
    "startLine",
    startLine={"type": "integer", "minimum": 1},
    startColumn={"type": "integer", "minimum": 1},
)
SARIF = _required(
    "version",
    "runs",
    version={"const": "2.1.0"},
    runs={
        "type": "array",
        "items": _required(
            "tool",
            "results",
            tool=_required(
                "driver",
                driver=_required(
                    "name",
                    "rules",
                    rules={
                        "type": "array",
                        "uniqueItems": True,
                        "items": _required(
                            "id",
                            shortDescription=TEXT,
                            fullDescription=TEXT,
                            defaultConfiguration=_required("level", level=LEVEL),
                        ),
                    },
                ),
            ),
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            results={
                "type": "array",
                "items": _required(
                    "message",
                    "ruleId",
                    "locations",
                    message=TEXT,
                    level=LEVEL,
                    ruleIndex={"type": "integer", "minimum": 0},
                    locations={
                        "type": "array",
                        "minItems": 1,
                        "items": _required(
                            "physicalLocation",
                            physicalLocation=_required(
                                "artifactLocation",
                                artifactLocation=_required(
                                    "uri", uri={"type": "string", "pattern": "^[^ ]+$"}
                                ),
                                region=REGION,
                            ),
                        ),
                    },
                ),
            },
        ),
    },
)


def test_sarif_has_what_the_standard_requires(tmp_path, monkeypatch):
    folder = tmp_path / "my rules"
    folder.mkdir()
    written(folder, "text: Be kind.", "text: Be kind!")
    (folder / "bad.yaml").write_text("name: x\n")
    monkeypatch.chdir(tmp_path)
    log = json.loads(ran("my rules/c.yaml", "my rules/bad.yaml", "--sarif").stdout)
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rules[result["ruleIndex"]]["id"] for result in run["results"]] == [
        r["ruleId"] for r in run["results"]
    ]
    places = [result["locations"][0]["physicalLocation"] for result in run["results"]]
    assert {place["artifactLocation"]["uri"] for place in places} == {
        "my%20rules/c.yaml",
        "my%20rules/bad.yaml",
    }
    assert [r["ruleId"] for r in run["results"]] == ["no-example", "no-example", "duplicate", UNREADABLE]
    assert places[2]["region"] == {"startLine": 6, "startColumn": 5}


def test_what_a_constitution_says_is_no_link_of_the_sarif_log(tmp_path):
    """SARIF reads [text](target) in a message as a link, and the file is another person's."""
    (tmp_path / "c.yaml").write_text(
        'name: x\nprinciples:\n  - id: a\n    text: Be kind.\n    "[fix](http://evil)": 1\n'
    )
    log = json.loads(ran(tmp_path / "c.yaml", "--sarif").stdout)
    (said,) = [result["message"]["text"] for result in log["runs"][0]["results"]]
    assert 'unknown key "[fix] (http://evil)"' in said


def test_unknown_names_and_missing_files_are_the_users_mistake(tmp_path):
    path = written(tmp_path, "text: Be kind.")
    for words, text in (
        ((path, "--select", "dublicate"), 'did you mean "duplicate"'),
        ((path, "--ignore", "x"), "--ignore x: no such rule"),
        ((), "no constitution file"),
        ((tmp_path / "none.yaml",), "cannot be read"),
        ((path, "--judge", tmp_path), "not a model folder"),
    ):
        result = ran(*words)
        assert isinstance(result.exception, UserError), words
        assert text in str(result.exception)


def test_a_config_names_constitution_prompts_templates_and_judge(tmp_path):
    shutil.copy(ROOT / "constitutions/playground.yaml", tmp_path / "own.yaml")
    text = (tmp_path / "own.yaml").read_text()
    long = "The reply must be polite and never insult the user. " * 40
    (tmp_path / "own.yaml").write_text(
        text.replace("The reply must be polite and never insult the user.", long)
    )
    config = tmp_path / "config.yaml"
    config.write_text(f"extends: {ROOT}/configs/quickstart.yaml\nconstitution: own.yaml\ngold: null\n")
    rows = json.loads(ran("--config", config, "--json").stdout)
    assert json.loads(ran("--judge", config, "--json").stdout) == rows
    assert {row["rule"] for row in rows} == {"long-text", "many-demands", "over-context"}
    assert {row["path"] for row in rows} == {str(tmp_path / "own.yaml")}
    (long_one,) = [row for row in rows if row["rule"] == "over-context"]
    assert "two responses of 48 tokens (the config)" in long_one["message"]


def test_a_judges_folder_and_a_template_set_do_without_a_config(tmp_path):
    path = written(tmp_path, f"text: {'The reply must be polite. ' * 80}", "text: Be kind.\nrevise: Do.")
    found = json.loads(ran(path, "--judge", JUDGE, "--select", "over-context", "--json").stdout)
    assert [(row["principle"], row["line"]) for row in found] == [("p0", 4)]
    assert "two responses of 0 tokens (the examples)" in found[0]["message"]
    shutil.copytree(ROOT / "prompts/templates/brief", tmp_path / "mine")
    (tmp_path / "mine/revision.j2").write_text("{{ principle.text }} {{ respnse }}")
    words = ("--templates", tmp_path / "mine", "--select", "unused-text", "--select", "undefined-variable")
    rows = json.loads(ran(path, *words, "--json").stdout)
    assert [(row["rule"], row["line"]) for row in rows] == [("undefined-variable", 1), ("unused-text", 7)]


def test_rules_are_listed():
    listed = json.loads(ran("--rules", "--json").stdout)
    assert [row["name"] for row in listed] == list(RULES)
    printed = ran("--rules").output
    assert all(f"{name} ({rule.level})" in printed for name, rule in RULES.items())


def test_the_hook_runs_the_command_on_constitutions(tmp_path, monkeypatch):
    (hook,) = YAML(typ="safe", pure=True).load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {"id", "name", "entry", "language", "files"} <= set(hook)
    assert re.search(hook["files"], "constitutions/general.yaml")
    assert re.search(hook["files"], "constitution.yaml")
    assert not re.search(hook["files"], "configs/quickstart.yaml")
    first, *words = shlex.split(hook["entry"])
    assert first == "rlaif"
    path = written(tmp_path, "text: Be kind.", "text: Be kind!")
    assert CliRunner().invoke(app, [*words, str(path)]).exit_code == 1
    assert CliRunner().invoke(app, [*words, str(GENERAL)]).exit_code == 0
