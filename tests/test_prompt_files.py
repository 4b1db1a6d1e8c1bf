"""Prompt files: what is refused, what is merged; and rows read as a data set, with every column."""

import json

import pytest

from rlaif.errors import UserError
from rlaif.prompting.prompt_files import load_prompts, read_prompts
from rlaif.records import ROWS, Evaluation
from rlaif.runs.folder import Run
from rlaif.runs.rows import scalar_types
from tests.fake_run import fake_run


def said(*turns: tuple[str, str], **more) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def write(path, *rows: dict):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_repeated_messages_are_merged_with_all_their_tags_and_counted(tmp_path):
    rows = [
        said(("user", "a"), tags=["x"]),
        said(("user", "b")),
        said(("user", "a"), tags=["y", "x"], group="g"),
    ]
    found = read_prompts(write(tmp_path / "p.jsonl", *rows))
    assert [(p.messages[0].content, p.tags, p.group) for p in found.prompts] == [
        ("a", ("x", "y"), "g"),
        ("b", (), ""),
    ]
    assert found.repeated == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([said(("user", "a"), id="1"), said(("user", "b"), id="1")], r':2: the id "1" stands in line 1'),
        (
            [said(("user", "a")), said(("user", "q"), ("assistant", "b"))],
            ":2: the conversation ends with the assistant",
        ),
        ([said(("user", "  "))], ":1: a user's turn is empty"),
        ([said(("user", "a"), v=99)], ":1: .*version 99 was written by a newer rlaif"),
        (
            [said(("user", "a"), group="g"), said(("user", "a"), group="h")],
            ':2: the group "h", but "g" in line 1',
        ),
    ],
)
def test_what_nobody_can_answer_or_tell_apart_is_refused_with_its_line(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        load_prompts(write(tmp_path / "p.jsonl", *rows))


def test_a_data_set_has_the_columns_of_all_rows(tmp_path):
    run = Run.load(fake_run(tmp_path / "run"))
    table = run.dataset("evaluation")
    assert "p_win" in table.column_names  # the first row is the base policy's, which has none
    assert sum(value is not None for value in table["p_win"]) == len(table) * 2 / 3
    sparse = [{"a": 1}, {"b": {"x": 0.5}}, {"a": 2.5, "b": {"y": 1.0}, "c": "text"}]
    write(run.stages[0].dir / "sparse.jsonl", *sparse)
    rows = run.dataset("sparse").to_list()
    assert [row["a"] for row in rows] == [1.0, None, 2.5]
    assert [row["c"] for row in rows] == [None, None, "text"]
    assert rows[1]["b"] == {"x": 0.5, "y": None}


def test_a_column_without_a_value_is_of_its_annotations_type(tmp_path):
    from datasets import List, Value

    run = Run.load(fake_run(tmp_path / "run"))
    row = {
        "policy": "base",
        "prompt_id": "p",
        "response_id": "r",
    }  # as written without gold and without a judge
    path = run.stages[0].dir / "evaluation.jsonl"
    for stage in run.stages:
        (stage.dir / "evaluation.jsonl").unlink(missing_ok=True)
    write(path, Evaluation.model_validate(row).model_dump(exclude_none=True) | {"kl": None}, row)
    features = run.dataset("evaluation").features
    assert features["p_win"] == features["kl"] == Value("float64")
    assert features["flips"] == List(Value("int64"))
    assert (features["split"], features["refusal"]) == (Value("string"), Value("bool"))
    write(
        run.stages[0].dir / "labels.jsonl",
        {"comparison_id": "c", "annotator": {"kind": "ai", "id": "x"}, "verdict": "invalid"},
    )
    for stage in run.stages[1:]:
        (stage.dir / "labels.jsonl").unlink(missing_ok=True)
    features = run.dataset("labels").features
    assert features["reason"] == features["rationale"] == features["principle_id"] == Value("string")
    assert features["p_a"] == features["answer_mass"] == features["seconds"] == Value("float64")


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_field_of_a_record_but_mappings_has_a_type(name):
    mappings = {"messages", "annotator", "sampling", "judge", "votes", "scores", "gold", "compliance"}
    assert set(ROWS[name].model_fields) - set(scalar_types(ROWS[name])) <= mappings


def test_a_dataset_of_rows_of_before_has_the_names_of_now(tmp_path):
    run = fake_run(tmp_path / "run")
    (file,) = run.glob("*/labels.jsonl")
    file.write_text(file.read_text().replace('"answer_mass":', '"mass":'))
    table = Run.load(run).dataset("labels")
    assert "mass" not in table.column_names
    assert set(table["answer_mass"]) == {0.9}
