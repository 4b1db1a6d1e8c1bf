"""What a user's function, a value or the file system refuses is told in words, with exit code 2."""

import shutil
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.config import ASSETS, load_config
from rlaif.errors import UserError
from rlaif.human.rankings import load_human_labels
from rlaif.plugin import load_function
from rlaif.prompting.templates import Templates, user
from rlaif.runs.storage import os_errors_as_user_errors
from rlaif.training.raw_text import read_texts
from tests.test_cli import refused, rlaif


def raising_annotator(messages, responses, principles, seed):
    raise RuntimeError("no opinion today")


def test_an_annotator_that_raises_is_told(project):
    config = project / "config.yaml"
    human = "human: {annotator: 'tests.test_refused_by_the_system:raising_annotator', share: 1.0}"
    config.write_text(config.read_text().replace("{stage: label}", f"{{stage: label, {human}}}"))
    with pytest.raises(UserError, match=r"raising_annotator failed \(RuntimeError: no opinion today\)"):
        pipeline.run(config, project / "run")


@pytest.mark.parametrize(
    "spec", [":x", "x:", "x", ".:x", "..a:x", ".a:x", "nowhere:x", "tests.scripts:nothing", ""]
)
def test_a_function_that_cannot_be_loaded_is_told(spec):
    with pytest.raises(UserError):
        load_function(spec, "gold")


def test_a_module_that_fails_while_it_is_imported_is_told(tmp_path, monkeypatch):
    (tmp_path / "failing_truth.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_function("failing_truth:score", "gold")


@pytest.mark.parametrize("number", ["9" * 5000, "²", "-1", "10000"])
def test_the_number_of_a_stage_is_a_number(project, number):
    with pytest.raises(UserError):
        load_config(project / "config.yaml", [f"sample[{number}].k=2"])
    with pytest.raises(UserError):
        pipeline.last_stage(load_config(project / "config.yaml"), f"sample[{number}]")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(30, "Read-only file system", "x"),
        RuntimeError("PytorchStreamWriter failed writing file"),
        PermissionError(13, "Permission denied", "x"),
        NotADirectoryError(20, "Not a directory", "x"),
    ],
)
def test_what_the_file_system_refuses_is_a_users_error(error):
    with pytest.raises(UserError), os_errors_as_user_errors():
        raise error


def test_other_errors_stay_what_they_are():
    for error in (ValueError("x"), ConnectionResetError(104, "reset"), KeyError("a")):
        with pytest.raises(type(error)), os_errors_as_user_errors():
            raise error


def test_places_that_cannot_be_written_are_told_by_every_command(project, tmp_path):
    (project / "file").write_text("")
    pairs = project / "pairs.jsonl"
    pairs.write_text(
        '{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: a", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: b"}\n'
    )
    refused(rlaif("run", project / "config.yaml", "--out", project / "file"))
    refused(rlaif("data", "import", "hh", pairs, "--out", project / "file"))
    refused(rlaif("data", "import", "hh", pairs, "--out", project / "file" / "below"))
    assert rlaif("data", "import", "hh", pairs, "--out", project / "x", "--limit", -1).returncode == 2
    for page in (project / "file" / "page.html", project):
        refused(rlaif("judge", "audit", project / "config.yaml", "--out", page))


def test_json_nested_without_end_is_told(tmp_path):
    nested = '{"x": ' + "[" * 5000 + "\n"
    for name in ("people.jsonl", "text.jsonl"):
        (tmp_path / name).write_text(nested)
    with pytest.raises(UserError):
        load_human_labels(tmp_path / "people.jsonl", [])
    with pytest.raises(UserError):
        read_texts(tmp_path / "text.jsonl", "ppo.ptx.texts")


def test_a_set_without_an_optional_template_says_so_when_it_is_asked_for(tmp_path):
    folder = Path(shutil.copytree(ASSETS / "prompts" / "templates" / "brief", tmp_path / "set"))
    (folder / "best.j2").unlink()
    with pytest.raises(UserError, match=r"no best\.j2"):
        Templates.load(str(folder)).best([user("Hi")], {"A": "x"})
