"""`rlaif compare` on run folders that hold what no run wrote: one message with file and what was found."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.errors import UserError
from rlaif.records import Evaluation, Response
from rlaif.report.compare import compare
from rlaif.report.report import write_report
from rlaif.report.summary import summarise
from rlaif.runs.storage import (
    CHECKSUM,
    os_errors_as_user_errors,
    read_json,
    sync_and_digest,
    write_json,
)
from tests.fake_run import fake_run

ROWS, STAGE = "09_evaluate/evaluation.jsonl", "06_label/stage.json"


@pytest.fixture
def runs(tmp_path):
    return [fake_run(tmp_path / name, seed, prompts=60) for seed, name in enumerate("ab")]


def change_row(path: Path, **values) -> None:
    """The last row of a file with these values; a value that is bytes stands there as it is."""
    *lines, last = path.read_bytes().splitlines()
    row = json.loads(last)
    for key, value in values.items():
        row[key] = "@" if isinstance(value, bytes) else value
        last = json.dumps(row).encode().replace(b'"@"', value if isinstance(value, bytes) else b'"@"')
    path.write_bytes(b"\n".join([*lines, last]) + b"\n")


def change_json(path: Path, **values) -> None:
    """A JSON file with these values and without a checksum."""
    path.write_text(json.dumps({k: v for k, v in read_json(path).items() if k != CHECKSUM} | values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tokens": b"9" * 400}, r"tokens: .* \(found 9999"),
        ({"tokens": -1}, r"tokens: .* \(found -1\)"),
        ({"p_win": b"NaN"}, r"p_win: .* \(found nan\)"),
        ({"p_win": 1.5}, r"p_win: .* \(found 1.5\)"),
        ({"p_win": b"1e999"}, r"p_win: .* \(found inf\)"),
        ({"compliance": {"no-rude": 2}}, r"compliance: .*not all are probabilities \(found {'no-rude': 2}"),
        ({"compliance": {"no-rude": "x\x1b[31m"}}, r"compliance.no-rude: .*x\\x1b\[31m"),
        ({"gold": []}, r"gold: .* \(found \[\]\)"),
        ({"v": 99}, "version 99 was written by a newer rlaif"),
    ],
)
def test_a_row_that_no_run_writes_is_named_with_its_line_and_value(runs, values, said):
    change_row(runs[0] / ROWS, **values)
    line = len((runs[0] / ROWS).read_bytes().splitlines())
    with pytest.raises(UserError, match=rf"a/{ROWS}:{line}: damaged row \(.*{said}"):
        compare(runs)


def test_a_row_that_is_looked_up_is_named_alike(runs):
    change_row(runs[0] / "09_evaluate/responses.jsonl", tokens=-3)
    with pytest.raises(UserError, match=r"responses.jsonl:\d+: damaged row \(tokens: .* \(found -3\)"):
        compare(runs)


def test_two_rows_on_one_response_that_say_different_things_are_refused(runs):
    path = runs[0] / ROWS
    last = path.read_bytes().splitlines(keepends=True)[-1]
    before = compare(runs)
    path.write_bytes(path.read_bytes() + last)  # as two that say the same are not
    assert compare(runs) == before
    path.write_bytes(path.read_bytes() + last.replace(b'"tokens":', b'"tokens":1'))
    with pytest.raises(UserError, match=r"evaluation.jsonl: two rows of ppo on the prompt \w+ that say"):
        compare(runs)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"policy": "mine"}, 'policy "mine", which the run does not have.\nNeeded: one of base, sft, ppo\n'),
        ({"prompt_id": "no prompt"}, 'prompt "no prompt", which the run does not have'),
        ({"response_id": "no response"}, 'response "no response", which the run does not have'),
    ],
)
def test_a_row_of_what_the_run_does_not_have_is_named_with_its_line(runs, values, said):
    path = runs[0] / ROWS
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
    change_row(path, **values)
    line = len(path.read_bytes().splitlines())
    for reads in (lambda: compare(runs), lambda: write_report(runs[0])):
        with pytest.raises(UserError, match=f"{ROWS}:{line}: a row of the {said}"):
            reads()


def test_a_divergence_that_is_not_finite_is_one_that_is_not_known(runs):
    assert Evaluation(policy="x", prompt_id="p", response_id="r", kl=float("nan")).kl is None
    change_row(runs[0] / ROWS, kl=b"Infinity")
    found = compare(runs)
    assert found["runs"]["A"]["kl_left_out"] == 1
    assert found["kl"]["A"] == 1.5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"usage": {"calls": [1]}}, "usage is {'calls': \\[1\\]}"),
        ({"usage": {"calls": float("nan")}}, "usage is {'calls': nan}"),
        ({"dropped": {"x": "many"}}, "dropped is {'x': 'many'}"),
        ({"seconds": -1}, "seconds is -1"),
        ({"in": 10**400}, "in is 1000"),
        ({"notes": [1]}, "notes is \\[1\\]"),
    ],
)
def test_a_summary_of_wrong_types_is_named_with_what_it_holds(runs, values, said):
    change_json(runs[0] / STAGE, **values)
    for reads in (lambda: compare(runs), lambda: write_report(runs[0])):
        with pytest.raises(UserError, match=f"a/{STAGE}.*{said}"):
            reads()


def test_what_cannot_be_understood_is_laid_to_files_that_are_not_sealed_alone(runs):
    path = runs[0] / "08_ppo/stage.json"
    change_json(path, metrics={"unread": {"judge": "often"}})
    page = runs[0].with_name("x.html")
    for reads in (lambda both: compare(both, out=page), lambda both: write_report(both[0])):
        with pytest.raises(UserError, match=r"a/08_ppo/stage.json.* not what rlaif writes \(TypeError"):
            reads(runs)
    for run in runs:
        for file in [run / "manifest.json", *run.glob("*/stage.json")]:
            write_json(file, {**read_json(file), "files": sync_and_digest(file.parent, ("stage.json",))})
        write_json(run / "manifest.json", {**read_json(run / "manifest.json"), "files": {}})
    with pytest.raises(TypeError):
        compare(runs, out=page)


@pytest.mark.parametrize("status", ["running", "failed", "stopped", "interrupted", "paused"])
def test_a_fault_of_our_own_is_not_laid_to_the_stage_that_is_not_done(tmp_path, monkeypatch, status):
    run = fake_run(tmp_path / "run", until=7, prompts=60)
    for file in run.glob("*/stage.json"):
        write_json(file, {**read_json(file), "files": sync_and_digest(file.parent, ("stage.json",))})
    write_json(run / "manifest.json", {**read_json(run / "manifest.json"), "files": {}})
    last = run / "07_reward/stage.json"
    data = {key: value for key, value in read_json(last).items() if key != "files"}
    write_json(last, {**data, "status": status})
    for module in ("report", "summary"):
        monkeypatch.setattr(f"rlaif.report.{module}.RunReader.metrics", broken)
    for reads in (write_report, summarise):
        with pytest.raises(KeyError, match="a fault of our own"):
            reads(run)
    change_json(last)
    for reads in (write_report, summarise):
        with pytest.raises(UserError, match=r"run/07_reward/stage.json.* not what rlaif writes \(KeyError"):
            reads(run)


def broken(*_):
    raise KeyError("a fault of our own")


def test_null_is_missing(runs):
    names = ("metrics", "dropped", "usage", "notes")
    change_json(runs[0] / "08_ppo/stage.json", **dict.fromkeys(names))
    compare(runs)
    write_report(runs[0])
    assert summarise(runs[0])["stages"][7]["dropped"] == {}


def test_text_that_is_no_unicode_is_damage(runs):
    path = runs[0] / "constitution.json"
    rules = read_json(path)
    rules["principles"][0]["text"] = "\ud800"
    path.write_text(json.dumps(rules))
    with pytest.raises(UserError, match=r"constitution.json: damaged"):
        compare(runs)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name", ["config.json", "manifest.json", "prompts.jsonl", ROWS, STAGE, "08_ppo/metrics.jsonl"]
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(runs, name):
    (runs[0] / name).unlink()
    os.mkfifo(runs[0] / name)
    with pytest.raises(UserError, match=rf"a/{name}: (a pipe|no file)"):
        compare(runs, out=runs[0].with_name("x.html"))


def test_what_the_system_refuses_is_not_laid_to_another_run(runs):
    loop = runs[0].with_name("loop")
    loop.symlink_to("loop")
    with pytest.raises(UserError, match=r"loop/config\.json: Too many levels"), os_errors_as_user_errors():
        compare([runs[0], loop])


def test_the_command_ends_with_one_message(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change_row(runs[1] / ROWS, tokens=b"null")
    done = CliRunner().invoke(app, ["compare", "--trust", *map(str, runs)])
    assert isinstance(done.exception, UserError)
    assert done.exception.code == 2
    assert not Path("compare.html").exists()


def test_a_length_in_tokens_is_a_count():
    assert Response(prompt_id="p", text="x", tokens=3).tokens == 3
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Response(prompt_id="p", text="x", tokens=-1)
