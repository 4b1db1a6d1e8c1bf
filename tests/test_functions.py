"""Functions of the user's own: found beside the config, and tried before anything runs."""

import importlib
import os
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from rlaif import pipeline
from rlaif.errors import UserError
from rlaif.plugin import load_function
from rlaif.runs.storage import read_json, write_json
from tests.test_cli import refused, rlaif

PAGE = Path(__file__).parent.parent / "docs" / "functions.md"
REWARDED = "stages=[{stage: best_of_n, n: 2, rewards: [{source: 'mine:score'}]}]"
LABELLED = "label.human={annotator: 'mine:annotate', options: {noise: 0.5}}"


@pytest.fixture
def mine(project, monkeypatch):
    """The project with the page's module beside its config, and another working directory."""
    code = re.search(r"```python mine.py\n(.*?)```", PAGE.read_text(), re.S)
    assert code
    (project / "mine.py").write_text(code[1])
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    return project


def test_the_functions_of_the_page_are_found_beside_the_config_and_run(mine):
    run = pipeline.run(mine / "config.yaml", mine / "run", ["gold=mine:truth", LABELLED])
    config = read_json(run.path / "config.json")
    assert config["gold"] == f"{mine / 'mine.py'}:truth"  # so that the run continues from anywhere
    assert pipeline.dry_run(mine / "config.yaml", [REWARDED])["stages"][0]["stage"] == "best_of_n"
    labels = run.dataset("labels")
    assert {annotator["id"] for annotator in labels["annotator"]} >= {"annotate"}


def test_a_file_of_the_working_directory_is_found(mine, monkeypatch):
    shutil.move(mine / "mine.py", mine / "elsewhere" / "mine.py")
    (mine / "elsewhere" / "json.py").write_text("raise RuntimeError")  # no other import may find it
    found = pipeline.dry_run(mine / "config.yaml", ["gold=mine:truth"])["config"]["gold"]
    assert found == f"{mine / 'elsewhere' / 'mine.py'}:truth"


def test_a_function_of_the_notebooks_folder_is_found_from_elsewhere(mine, monkeypatch):
    (mine / "notebook_functions.py").write_text((mine / "mine.py").read_text())
    with monkeypatch.context() as notebook:
        notebook.chdir(mine)
        notebook.syspath_prepend(mine)
        module = importlib.import_module("notebook_functions")
        config = YAML(typ="safe").load((mine / "config.yaml").read_text()) | {"gold": module.truth}
        config["stages"] = [*config["stages"][:1], {"stage": "evaluate", "num_prompts": 4}]
        run = pipeline.run(config, mine / "run", until="sample")
    assert load_function(run.config.gold, "gold") is module.truth  # the module is not run twice
    resumed = rlaif("resume", run.path)
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize("kept", ["__main__:truth", "mine:<lambda>#7"])
def test_a_function_of_another_process_is_said_to_be_one(mine, kept):
    with pytest.raises(UserError, match=r"gold: .*no other process has"):
        load_function(kept, "gold")


def test_a_run_whose_module_is_not_found_is_told_where_to_name_it(mine):
    run = pipeline.run(mine / "config.yaml", mine / "run", until="sample[0]")
    config = read_json(run.path / "config.json")
    write_json(run.path / "config.json", {**config, "gold": "mine:truth"})  # as earlier versions kept it
    message = refused(rlaif("resume", run.path))
    assert "PYTHONPATH" in message
    assert "beside the config" not in message  # where it is, and is not looked for
    resumed = rlaif(
        "resume", run.path, PYTHONPATH=os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(mine)])
    )
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize(
    ("code", "option", "message"),
    [
        ("def truth(messages): return {}", "gold=mine:truth", r"gold: .*the function takes \(messages\)"),
        ("def truth(messages, response, principles): return True", "gold=mine:truth", "gold: .* failed"),
        ("truth = 3", "gold=mine:truth", 'has no function "truth"'),
        ("1 / 0", "gold=mine:truth", "ZeroDivisionError"),
        ("", "gold=other:truth", 'gold: cannot import "other".*beside the config'),
        ("", "gold=../mine:truth", "gold: cannot import"),
        ("def score(responses): return []", REWARDED, r"rewards: .*takes \(responses\).*docs/functions.md"),
        ("def score(prompts, responses): return [1]", REWARDED, "gave 1 scores for 2 responses"),
        ("def score(prompts, responses): return 1", REWARDED, "failed when it was tried"),
        ("def score(prompts, responses): return ['x', 'y']", REWARDED, "failed when it was tried"),
        ("def annotate(m, r, p, seed): return [1, 2]", LABELLED, "annotator: .*unexpected keyword.*noise"),
        ("def annotate(m, r, p, seed, noise): return [1]", LABELLED, r"returned \[1\] for 2 responses"),
        ("def annotate(m, r, p, seed, noise): 1 / 0", LABELLED, "annotate failed"),
    ],
)
def test_a_wrong_function_is_refused_before_anything_is_written(mine, code, option, message):
    (mine / "mine.py").write_text(code)
    with pytest.raises(UserError, match=f"(?s){message}"):
        pipeline.run(mine / "config.yaml", mine / "run", [option])
    assert not (mine / "run").exists()
