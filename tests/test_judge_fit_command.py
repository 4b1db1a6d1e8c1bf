"""`rlaif judge fit`: whose labels it reads, and the command."""

import gzip
import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from rlaif.audit import fit_readings
from rlaif.audit.page import in_words
from rlaif.cli import app
from rlaif.config import Config, ModelConfig
from rlaif.engines import Scripted, open_engine
from rlaif.errors import UserError
from rlaif.feedback.labelled import LabelledPair
from rlaif.records import Annotator, Label, Response
from rlaif.runs.rows import read_rows
from rlaif.workbench import judge_fitting
from rlaif.workbench.judge_fitting import people_labels
from tests.test_judge_fit import RULES, a_fit, biased, some_pairs

ROOT = Path(__file__).parent.parent


def labels_folder(path, pairs):
    path.mkdir()
    rows = {"prompts": [], "responses": [], "comparisons": [], "labels": []}
    for p in pairs:
        rows["prompts"].append(p.prompt)
        rows["responses"] += [Response(prompt_id=p.prompt.id, text=text) for text in (p.a, p.b)]
        rows["comparisons"].append(p.comparison)
        rows["labels"] += p.labels
    for name, own in rows.items():
        (path / f"{name}.jsonl").write_text("".join(row.to_json() + "\n" for row in own))
    return path


def test_labels_of_people_alone_are_read(tmp_path):
    pairs = some_pairs(4)
    ai = pairs[0].labels[0].model_copy(update={"annotator": Annotator(kind="ai", id="x")})
    odd = pairs[1].labels[0].model_copy(update={"principle_id": "unknown"})
    folder = labels_folder(tmp_path / "people", [LabelledPair(*vars(pairs[0]).values())])
    with (folder / "labels.jsonl").open("a") as file:
        file.write(ai.to_json() + "\n")
    dropped: Counter = Counter()
    read = people_labels([folder], RULES, dropped)
    assert [(p.a, p.b, p.opinions()) for p in read] == [(pairs[0].a, pairs[0].b, pairs[0].opinions())]
    assert dropped["label by a judge"] == 1
    (folder / "labels.jsonl").write_text(odd.to_json() + "\n")
    with pytest.raises(UserError, match="no label can be used"):
        people_labels([folder], RULES, Counter())
    with pytest.raises(UserError, match="no such file"):
        people_labels([tmp_path / "none"], RULES, Counter())


def test_other_projects_files_are_read(tmp_path):
    rows = [
        {
            "chosen": f"\n\nHuman: question {n}\n\nAssistant: good {n}",
            "rejected": f"\n\nHuman: question {n}\n\nAssistant: bad {n}",
        }
        for n in range(30)
    ]
    (tmp_path / "hh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = people_labels([tmp_path / "hh.jsonl"], RULES, Counter())
    assert len(read) == 30
    assert {p.opinions()[None] for p in read} == {0.0, 1.0}  # the better one is a in some, b in others


def engine() -> Scripted:
    """For configs: the module's biased judge."""
    return Scripted(on_score=biased, on_generate=lambda request: "worth 1.0")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES.model_dump(mode="json", exclude_defaults=True)))
    judge = {"engine": "scripted", "model": "tests.test_judge_fit_command:engine"}
    given = {
        "name": "x",
        "constitution": "rules.yaml",
        "prompts": "prompts/starter.jsonl",
        "policy": judge,
        "feedback": judge,
        "stages": [{"stage": "sample"}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    return tmp_path / "config.yaml"


def writes(request) -> str:
    return f"worth {Random(request.seed).gauss(0, 1):.3f}"


def policy() -> Scripted:
    """For configs: its responses differ in what they are worth."""
    return Scripted(on_generate=writes, name="writer")


def test_the_commands_of_the_page_run_one_after_another(tmp_path, monkeypatch, config):
    """As they stand there: on a scripted judge, MODEL is the playground's."""
    given = yaml.safe_load(config.read_text()) | {"constitution": "../rules.yaml"}
    given["policy"] = given["policy"] | {"model": "tests.test_judge_fit_command:policy"}
    given["stages"] = [{"stage": "sample", "k": 2}, {"stage": "pair"}, {"stage": "label"}]
    (tmp_path / "configs").mkdir()
    for name in ("quickstart", "mine"):
        (tmp_path / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(given | {"name": name}))
    folder = labels_folder(tmp_path / "people", some_pairs(80))
    for rows in folder.iterdir():
        rows.rename(tmp_path / {"labels.jsonl": "people.jsonl"}.get(rows.name, rows.name))
    said = [pair for pair in some_pairs(60, seed=1) if pair.a != pair.b]
    with gzip.open(tmp_path / "hh.jsonl.gz", "wt") as file:
        for pair in said:
            better, worse = (pair.a, pair.b) if pair.labels[0].p_a else (pair.b, pair.a)
            asked = f"\n\nHuman: {pair.prompt.chat[0]['content']}\n\nAssistant: "
            file.write(json.dumps({"chosen": asked + better, "rejected": asked + worse}) + "\n")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "judge-fit.md").read_text()
    commands = re.findall(r"```sh\n(.*?)```", page, re.S)[0].splitlines()
    assert len(commands) == 5
    model = str(ROOT / "rlaif/playground/weights/feedback")
    for command in commands:
        words = [{"MODEL": model}.get(word, word) for word in shlex.split(command, comments=True)[1:]]
        done = CliRunner().invoke(app, words)
        if "hh.jsonl.gz" in words:  # the playground's judge knows nothing of these pairs, and is not fitted
            assert "nothing is written" in str(done.exception), done.output
        else:
            assert done.exit_code == 0, (command, done.output, done.exception)
    for name in ("order", "people"):
        assert (tmp_path / "fits" / name / "judge_fit.safetensors").is_file()
    (made,) = (tmp_path / "runs").iterdir()
    assert all("+fit@" in row.judge["model"] for row in read_rows(made / "03_label" / "labels.jsonl", Label))


def test_the_command_writes_a_fit_that_a_config_names(tmp_path, config):
    folder, out = labels_folder(tmp_path / "people", some_pairs(80)), tmp_path / "fit"
    words = ["judge", "fit", str(config), "--labels", str(folder), "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["taken"]
    assert report["labels"] == 80
    opened = open_engine(
        ModelConfig(engine="scripted", model="tests.test_judge_fit_command:engine", fit=str(out))
    )
    assert opened.fingerprint.endswith("+fit@" + report["fit"])
    assert not (tmp_path / "fit.readings").exists()
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, UserError)
    assert "is there already" in str(again.exception)


def test_a_command_killed_while_it_wrote_the_fit_can_be_given_again(tmp_path, config):
    folder, out = labels_folder(tmp_path / "people", some_pairs(80)), tmp_path / "fit"
    words = ["judge", "fit", str(config), "--labels", str(folder), "--out", str(out)]
    out.mkdir()
    (out / "judge_fit.safetensors.partial").write_bytes(b"half")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert [path.name for path in out.iterdir()] == ["judge_fit.safetensors"]


def test_a_command_killed_once_the_fit_was_written_is_ended_by_the_same_one(tmp_path, config, monkeypatch):
    folder, out = labels_folder(tmp_path / "people", some_pairs(80)), tmp_path / "fit"
    words = ["judge", "fit", str(config), "--labels", str(folder), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(judge_fitting, "shutil", SimpleNamespace(rmtree=killed))
        assert isinstance(CliRunner().invoke(app, words).exception, Killed)
    before, asked = (out / "judge_fit.safetensors").read_bytes(), []
    monkeypatch.setattr(fit_readings, "_ask", lambda *_: asked.append(1))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "use it with" in done.stdout
    assert not asked
    assert (out / "judge_fit.safetensors").read_bytes() == before
    assert not (tmp_path / "fit.readings").exists()


def test_another_fit_is_not_replaced_where_readings_are_left(tmp_path, config):
    folder, out = labels_folder(tmp_path / "people", some_pairs(80)), tmp_path / "fit"
    (tmp_path / "fit.readings").mkdir()
    a_fit().save(out)
    before = (out / "judge_fit.safetensors").read_bytes()
    done = CliRunner().invoke(app, ["judge", "fit", str(config), "--labels", str(folder), "--out", str(out)])
    assert "is there already" in str(done.exception)
    assert (out / "judge_fit.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("labels", "more", "said"),
    [
        ("people", ["--seed", "7"], "seed 0, here 7"),
        ("fewer", [], "labels 80, here 60"),
        (None, [], "labels 80, here 0; kind temperature, here prior"),
        ("people", ["--train"], "setting .*, here a LoRA adapter .*; kind temperature, here adapter"),
    ],
)
def test_another_fit_than_the_one_that_is_there_is_refused_before_anything_is_asked(
    tmp_path, config, monkeypatch, labels, more, said
):
    for name, count in (("people", 80), ("fewer", 60)):
        labels_folder(tmp_path / name, some_pairs(count))
    words = ["judge", "fit", str(config), "--out", str(tmp_path / "fit")]
    with monkeypatch.context() as patch:
        patch.setattr(judge_fitting, "shutil", SimpleNamespace(rmtree=killed))
        first = CliRunner().invoke(app, [*words, "--labels", str(tmp_path / "people")])
        assert isinstance(first.exception, Killed)
    for way in ("from_labels", "from_orders", "from_training"):
        monkeypatch.setattr(judge_fitting.Fitting, way, killed)
    monkeypatch.setattr(judge_fitting, "_require_trainable", lambda *_: None)
    given = ["--labels", str(tmp_path / labels)] if labels else []
    done = CliRunner().invoke(app, [*words, *given, *more])
    assert isinstance(done.exception, UserError), done.exception
    assert re.search(rf"fit: is there already, and another fit \(.*{said}\)", str(done.exception))
    assert (tmp_path / "fit.readings").is_dir()


class Killed(Exception):
    pass


def killed(*_):
    raise Killed


def test_a_fit_in_the_folder_that_one_stands_in(tmp_path, config, monkeypatch):
    folder = labels_folder(tmp_path / "people", some_pairs(80))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = CliRunner().invoke(app, ["judge", "fit", str(config), "--labels", str(folder), "--out", "."])
    assert done.exit_code == 0, (done.output, done.exception)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["judge_fit.safetensors"]
    assert not (tmp_path / "here.readings").exists()
    shutil.rmtree(folder)
    labels_folder(folder, some_pairs(80, wrong=0.5))
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    refused = CliRunner().invoke(app, ["judge", "fit", str(config), "--labels", str(folder), "--out", "."])
    assert f"readings stay in {tmp_path / 'there'}.readings" in str(refused.exception)
    assert (tmp_path / "there.readings").is_dir()


def test_the_card_says_what_the_judge_was_without_its_fit(tmp_path, config):
    a_fit().save(tmp_path / "fit")
    rules = yaml.safe_load((tmp_path / "rules.yaml").read_text())
    rules["principles"][0]["examples"] = [
        {"prompt": f"question {n}", "better": f"worth {n % 3}.4", "worse": "worth 0.1"} for n in range(24)
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    out = str(tmp_path / "card.html")
    words = ["judge", "audit", str(config), "--num-pairs", "12", "--out", out, "--json"]
    plain = json.loads(CliRunner().invoke(app, words).stdout)
    done = CliRunner().invoke(app, [*words, "-s", f"feedback.fit={tmp_path / 'fit'}"])
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert "before" not in plain
    assert card["before"]["order"] == {k: plain["order"][k] for k in card["before"]["order"]}
    assert card["before"]["accuracy"]["value"] == plain["accuracy"]["value"]
    assert card["before"]["model"] == plain["judge"]["model"]
    assert card["judge"]["model"].startswith(plain["judge"]["model"] + "+fit@")
    said = f"Without its fit: right in {plain['accuracy']['value']:.2f}"
    assert [said in sentence for sentence in in_words(card)].count(True) == 1


def test_a_refused_fit_leaves_nothing_and_says_the_figures(tmp_path, config):
    folder, out = labels_folder(tmp_path / "people", some_pairs(80, wrong=0.5)), tmp_path / "fit"
    done = CliRunner().invoke(app, ["judge", "fit", str(config), "--labels", str(folder), "--out", str(out)])
    assert isinstance(done.exception, UserError)
    assert done.exception.code == 2
    assert "nothing is written" in str(done.exception)
    assert "accuracy" in done.stdout
    assert not out.exists()


def test_a_fit_is_of_the_feedback_model_alone():
    judge = {"engine": "scripted", "model": "x:y"}
    given = {
        "name": "x",
        "constitution": "c",
        "prompts": "p",
        "feedback": judge,
        "policy": judge | {"fit": "f"},
        "stages": [{"stage": "sample"}],
    }
    with pytest.raises(ValueError, match="name it under feedback"):
        Config.model_validate(given)
