"""`rlaif init`: what it writes can be run, and nothing is overwritten."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif import pipeline
from rlaif.cli import app, init
from rlaif.config import load_config
from rlaif.errors import UserError
from rlaif.preflight.starting import Wanted, write_project
from rlaif.prompting.prompt_files import load_prompts
from rlaif.workbench.lint import lint

FILES = ["config.yaml", "constitution.yaml", "prompts.txt"]


def test_what_is_written_without_any_flag_passes_the_dry_run(tmp_path):
    folder = tmp_path / "my project"
    done = CliRunner().invoke(app, ["init", str(folder)])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert all(str(folder / name) in done.output for name in FILES)
    plan = pipeline.dry_run(folder / "config.yaml")
    assert plan["config"]["name"] == "my-project"
    assert plan["principles"] == 3
    prompts = load_prompts(folder / "prompts.txt")
    assert plan["prompt_rows"]["kept"] == len(prompts) == 24
    assert min(plan["prompts"]["train"], plan["prompts"]["heldout"]) >= 3
    assert list(lint(folder / "constitution.yaml", prompts)) == []
    assert {"ppo", "evaluate"} <= {stage["stage"] for stage in plan["stages"]}


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten_and_nothing_else_written(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"there is a {name} already"):
        write_project(tmp_path, Wanted())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("pairs", [False, True])
def test_the_same_call_finishes_one_that_was_killed_anywhere(tmp_path, monkeypatch, pairs):
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    wanted = Wanted(from_data=data if pairs else None)
    write_project(tmp_path / "whole", wanted)
    whole = contents(tmp_path / "whole")
    for kill_at in range(len(FILES)):
        folder = tmp_path / f"{kill_at}" / "whole"
        left = [kill_at]

        def replace(partial, final, left=left, real=os.replace):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(partial, final)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                write_project(folder, wanted)
        made = {name: text for name, text in contents(folder).items() if ".partial" not in name}
        assert made.items() < whole.items()
        assert "config.yaml" not in made
        write_project(folder, wanted)
        assert contents(folder) == whole


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_empty_file_of_an_interrupted_start_is_told_of_and_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_project(Path("whole"), Wanted())
    whole = contents(Path("whole"))
    Path("whole/config.yaml").write_text("")
    for command in (pipeline.run, pipeline.check):
        with pytest.raises(UserError, match=r"config\.yaml: an empty file(?s:.*)Next: rlaif init whole "):
            command("whole/config.yaml")
    write_project(Path("whole"), Wanted())
    assert contents(Path("whole")) == whole


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl", "my prompts.txt"])
def test_prompts_given_as_a_config_lead_to_the_command_that_takes_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("prompt\nHow do I bake?\n")
    with pytest.raises(UserError) as refused:
        pipeline.run(name)
    assert f"Next: rlaif init --prompts {shlex.quote(name)} writes one" in str(refused.value)


def test_pairs_that_differ_are_not_overwritten(tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    (tmp_path / "p" / "pairs").mkdir(parents=True)
    (tmp_path / "p" / "pairs" / "labels.jsonl").write_text("mine")
    with pytest.raises(UserError, match="there is a pairs already"):
        write_project(tmp_path / "p", Wanted(from_data=data))
    assert contents(tmp_path / "p") == {"pairs/labels.jsonl": b"mine"}


def test_models_and_hardware_choose_what_is_extended(tmp_path):
    (tmp_path / "small").mkdir()
    for n, (wanted, base, model) in enumerate(
        [
            (Wanted(policy="owner/small", judge="owner/judge"), "hf_local", "owner/judge"),
            (Wanted(policy="owner/small", judge="owner/judge", hardware="gpu"), "one_gpu", "owner/judge"),
            (Wanted(policy=str(tmp_path / "small"), judge="owner/judge"), "hf_local", "owner/judge"),
        ]
    ):
        write_project(tmp_path / f"p{n}", wanted)
        config = load_config(tmp_path / f"p{n}" / "config.yaml")
        assert f"extends: configs/{base}.yaml" in (tmp_path / f"p{n}" / "config.yaml").read_text()
        assert (config.policy.model, config.feedback.model) == (wanted.policy, model)
        assert config.feedback.engine == "transformers"
        assert config.feedback.base_url is None


def test_an_endpoint_needs_the_name_of_its_model(tmp_path):
    url = "http://localhost:8000/v1"
    with pytest.raises(UserError, match="--judge-name"):
        write_project(tmp_path / "p", Wanted(judge=url))
    assert not (tmp_path / "p").exists()
    write_project(tmp_path / "p", Wanted(policy="owner/small", judge=url, judge_name="big: 7b"))
    role = load_config(tmp_path / "p" / "config.yaml").feedback
    assert (role.engine, role.base_url, role.model) == ("openai", url, "big: 7b")


def test_files_of_ones_own_are_named_and_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.csv").write_text("question,topic\nHow are you?,a\nWho are you?,b\nWhy?,c\nWhen?,d\n")
    write_project(tmp_path / "one", Wanted())
    with pytest.raises(UserError, match="which column holds the prompt"):
        write_project(tmp_path / "two", Wanted(prompts="q.csv"))
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        write_project(tmp_path / "two", Wanted(constitution="none.yaml"))
    assert not (tmp_path / "two").exists()
    mine = str(tmp_path / "one" / "constitution.yaml")
    write_project(tmp_path / "two", Wanted(prompts="q.csv", column="question", constitution=mine))
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["config.yaml"]
    config = load_config(tmp_path / "two" / "config.yaml")
    assert (config.prompts.column, config.constitution) == ("question", mine)
    assert pipeline.dry_run(tmp_path / "two" / "config.yaml")["prompt_rows"]["kept"] == 4


def test_peoples_pairs_are_imported_and_label(tmp_path):
    rows = [
        {
            "chosen": f"\n\nHuman: Question {n}?\n\nAssistant: good",
            "rejected": f"\n\nHuman: Question {n}?\n\nAssistant: bad",
        }
        for n in range(20)
    ]
    (tmp_path / "hh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(app, ["init", str(tmp_path / "p"), "--from-data", str(tmp_path / "hh.jsonl")])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "config.yaml",
        "constitution.yaml",
        "pairs",
    ]
    plan = pipeline.dry_run(tmp_path / "p" / "config.yaml")
    assert plan["prompt_rows"]["kept"] == 20
    stages = {stage["stage"]: stage for stage in plan["config"]["stages"]}
    assert stages["pair"]["imported"] == str(tmp_path / "p" / "pairs")
    assert stages["label"]["human"]["file"] == str(tmp_path / "p" / "pairs" / "labels.jsonl")


def test_on_a_terminal_what_is_missing_is_asked_for(monkeypatch):
    said = {"Policy": "owner/small", "Judge": "https://h/v1", "Model": "m", "Hardware": "gpu"}
    shown = []

    def prompt(question, default):
        shown.append(question)
        return next((text for start, text in said.items() if question.startswith(start)), default)

    monkeypatch.setattr(init.typer, "prompt", prompt)
    names = ("policy", "judge", "judge_name", "prompts", "constitution", "hardware", "from_data", "column")
    found = init._asked(dict.fromkeys(names) | {"constitution": "mine.yaml"})
    assert found == dict.fromkeys(names) | {
        "policy": "owner/small",
        "judge": "https://h/v1",
        "judge_name": "m",
        "hardware": "gpu",
        "constitution": "mine.yaml",
    }
    assert len(shown) == 5  # not for what was given


@pytest.mark.parametrize("name", ["null", "true", "1e5", "a b", "'q' #x: *&", "a\nb", "日本語", "no"])
def test_a_folder_may_have_any_name(tmp_path, name):
    done = CliRunner().invoke(app, ["init", str(tmp_path / name)])
    assert done.exit_code == 0
    assert load_config(tmp_path / name / "config.yaml").name
    command = shlex.split(done.stdout.partition("Next: ")[2].partition(" --dry-run")[0])
    assert command == ["rlaif", "run", str(tmp_path / name / "config.yaml")]


def test_a_folder_whose_name_begins_with_a_dash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "rlaif run ./-x/config.yaml" in CliRunner().invoke(app, ["init", "--", "-x"]).stdout


@pytest.mark.parametrize("name", ["true", "1e5", "null", "a: b # c"])
def test_a_judge_may_have_any_name(tmp_path, name):
    write_project(tmp_path, Wanted(policy="owner/small", judge="https://h/v1", judge_name=name))
    assert load_config(tmp_path / "config.yaml").feedback.model == name


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"column": "x"}, "--column x: of no file"),
        ({"judge_name": "x"}, "--judge-name x: playground is no endpoint"),
        ({"judge": "ftp://x"}, "--judge ftp://x: no model"),
        ({"policy": "http://x"}, "--policy http://x: no model"),
        ({"policy": "file.txt"}, "--policy file.txt: a file"),
        ({"constitution": "file.txt"}, "file.txt"),
        ({"constitution": "folder"}, "folder: cannot be read"),
        ({"from_data": Path("file.txt")}, "file.txt"),
        ({"from_data": Path("nothing.jsonl")}, "nothing.jsonl"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_written(tmp_path, monkeypatch, wanted, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("only text\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=said):
        write_project(Path("p"), Wanted(**wanted))
    assert not Path("p").exists()
    Path("p").mkdir()
    with pytest.raises(UserError, match=said):
        write_project(Path("p"), Wanted(**wanted))
    assert list(Path("p").iterdir()) == []


def test_unknown_hardware_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["init", str(tmp_path / "p"), "--hardware", "tpu"])
    assert isinstance(done.exception, UserError)
    assert not (tmp_path / "p").exists()


def test_the_commands_of_its_page_work(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "starting.md").read_text()
    commands = re.findall(r"^rlaif (.*)$", page, re.M)
    assert [line.split()[0] for line in commands] == ["init", "constitution", "run", "run"]
    monkeypatch.chdir(tmp_path)
    for line in commands[:2]:  # dry run and run: other tests of this file
        done = CliRunner().invoke(app, line.split())
        assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_what_is_written_runs_through_with_the_models_that_come_with_rlaif(tmp_path):
    write_project(tmp_path / "p", Wanted())
    small = ["ppo.updates=2", "ppo.batch_size=16", "critique.rounds=1", "evaluate.max_tokens=16"]
    run = pipeline.run(tmp_path / "p" / "config.yaml", tmp_path / "run", small)
    assert all(stage.is_done for stage in run.stages)
    assert (run.path / "report.html").exists()
