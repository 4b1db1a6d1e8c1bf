"""Cells as real files spell them: whole numbers of data frames, both bad, a system prompt of its own, packed
files."""

import pytest

from rlaif.errors import UserError
from rlaif.human.formats import FORMATS
from rlaif.human.importers import import_file
from rlaif.records import Label
from rlaif.runs.rows import read_rows
from tests.test_formats_chosen import ROWS, lines, parse, said, user


def test_whole_numbers_as_data_frames_write_them_are_the_same_verdicts(tmp_path):
    (tmp_path / "x.csv").write_text("prompt,first,second,verdict\nq,x,y,1.0\nr,x,y,2.0\ns,x,y,0.0\nt,x,y,\n")
    import_file(None, tmp_path / "x.csv", tmp_path / "out")
    labels = read_rows(tmp_path / "out" / "labels.jsonl", Label)
    assert [label.verdict for label in labels] == ["a", "b", "tie", "abstain"]
    item = parse("pandalm", instruction="q", response1="x", response2="y", annotator1="2.0", annotator2=1.0)
    assert [vote.verdict for vote in item.votes] == ["b", "a"]
    sides = {"prompt": "q", "response_a": "x", "response_b": "y"}
    won = {"winner_model_a": "0.0", "winner_model_b": "1.0", "winner_tie": "0.0"}
    assert parse("arena", **sides, **won).votes[0].verdict == "b"
    assert parse("trl-unpaired", prompt="q", completion="x", label="0.0").grades == ({"label": 0.0},)
    row = {"instruction": "q", "output_1": "x", "output_2": "y", "preference": 1, "annotator": 2.0}
    assert parse("alpaca", **row).votes[0].annotator.id == "2"


@pytest.mark.parametrize("spelt", [float, str, lambda rank: f"{rank}.0"])
def test_ranks_that_are_no_integers_of_json(spelt):
    two = [{"rank": spelt(rank), "completion": [said(text)]} for text, rank in (("x", 1), ("y", 0))]
    assert parse("nemo-rl", context="q", completions=two).rankings[0].ranks == (2, 1)
    row = {"prompt": "q", "responses": ["x", "y", "z"]}
    ranks = [spelt(2), spelt(1), float("nan")]
    assert parse("ranking", **row, ranks=ranks).rankings[0].ranks == (2, 1, None)
    assert parse("ranking", **row, ordering=[spelt(2), spelt(0)]).rankings[0].ranks == (2, None, 1)
    assert parse("ranking", **row, ranks=[1, 2, 1.5]) == "no rank for each response"


def test_a_cell_that_does_not_say_whether_the_sides_were_swapped_turns_no_winner():
    row = {"prompt": "q", "first": "x", "second": "y", "verdict": "1"}
    assert parse("table", **row, swapped="1.0").votes[0].verdict == "b"
    assert parse("table", **row, swapped=float("nan")).votes[0].verdict == "a"
    assert parse("table", **row, swapped="yes") == "swapped is neither true nor false"


@pytest.mark.parametrize("winner", ["both_bad", "tie (both bad)", "tie (bothbad)", "Both Bad"])
def test_both_bad_is_a_tie(winner):
    row = {"prompt": "q", "response_a": "x", "response_b": "y", "winner": winner}
    assert parse("arena", **row).votes[0].verdict == "tie"


def test_a_system_prompt_in_a_column_of_its_own_is_part_of_the_prompt():
    turns = (("system", "s"), ("user", "q"))
    pair = {"system": "s", "chosen": "x", "rejected": "y"}
    assert parse("trl", prompt="q", **pair).messages == turns
    whole = {"chosen": [user("q"), said("x")], "rejected": [user("q"), said("y")]}
    for row in ({"prompt": "q"}, {"prompt": [user("q")]}, {}):
        found = parse("trl", system="s", **row, **whole)
        assert (found.messages, found.responses) == (turns, ("x", "y"))
    assert parse("trl-unpaired", system="s", prompt="q", completion="x", label=True).messages == turns


@pytest.mark.parametrize("name", ["question", "instruction"])
def test_a_prompt_under_another_name_is_not_guessed_from_the_responses(name):
    found = parse("trl", **{name: "2 + 3?"}, chosen="The answer is 5", rejected="The answer is 6")
    assert found == f"no prompt, but a column {name}: rename it to prompt"


def test_ratings_by_a_model_without_a_name():
    row = {"instruction": "q", "generations": ["x", "y"], "ratings": [1, 2], "model_name": ""}
    assert parse("ultrafeedback", **row).rankings[0].annotator.id == "ultrafeedback"


def test_a_verdict_that_was_invalid_gets_no_reason_on_its_way_through_a_table():
    row = {"prompt": "q", "first": "x", "second": "y"}
    assert FORMATS["table"].parse({**row, "verdict": "invalid"}).votes[0].rationale is None


@pytest.mark.parametrize(
    ("first", "tool"),
    [(b"\x28\xb5\x2f\xfd\0\x58", "zstd -d"), (b"PK\3\4\x14\0", "unzip"), (b"\xfd7zXZ\0", "xz -d")],
)
def test_a_file_packed_with_another_program_says_how_to_unpack_it(tmp_path, first, tool):
    (tmp_path / "x.jsonl.zst").write_bytes(first + b"\0\x93more")
    with pytest.raises(UserError, match=f"packed, and not with gzip(?s:.*){tool}"):
        import_file(None, tmp_path / "x.jsonl.zst", tmp_path / "out")


def test_a_class_is_read_by_its_name_and_not_by_its_number(tmp_path):
    """As numbers, 1 and 2 are the first and the second response, and 0 is a tie."""
    import datasets

    names = ["model_a", "model_b", "tie"]
    rows = [{"prompt": f"q{n}", "response_a": "x", "response_b": "y", "winner": n} for n in (0, 1, 2, -1)]
    table = datasets.Dataset.from_list(rows).cast_column("winner", datasets.ClassLabel(names=names))
    table.save_to_disk(str(tmp_path / "saved"))
    table.to_parquet(str(tmp_path / "x.parquet"))
    for name in ("saved", "x.parquet"):
        import_file("arena", tmp_path / name, tmp_path / f"out-{name}")
        labels = read_rows(tmp_path / f"out-{name}" / "labels.jsonl", Label)
        assert [label.verdict for label in labels] == ["a", "b", "tie", "invalid"]


def test_no_file_of_a_folder_is_passed_over_for_the_case_of_its_ending(tmp_path):
    for name, prompt in (("a.jsonl", "q"), ("B.JSONL", "r"), ("c.ndjson", "s")):
        lines(tmp_path / name, [{"prompt": prompt, "chosen": "x", "rejected": "y"}])
    assert import_file(None, tmp_path, tmp_path / "out")["in"] == 3


def test_what_is_no_persons_ranking_of_a_label_studio_task_is_counted():
    task, empty = ROWS["label-studio"][0], {"completed_by": 8, "result": []}
    found = FORMATS["label-studio"].parse(
        {**task, "annotations": [*task["annotations"], empty], "predictions": [{"model_version": "m"}]}
    )
    assert len(found.rankings) == 1
    assert found.lost == ("annotation without a ranking", "a model's prediction")
