"""Rows found on disk: every row of a key, from several files, whatever stands between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.errors import UserError
from rlaif.records import Annotator, Label, Prompt
from rlaif.runs.lookup import Lookup
from rlaif.runs.rows import RowFile

AI = Annotator(kind="ai", id="judge")


def label(pair: str, n: int) -> Label:
    return Label(comparison_id=pair, annotator=AI, principle_id=f"é\u2028{n}", verdict="tie", p_a=0.5)


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=12), max_size=3))
def test_all_rows_of_a_key_come_in_the_order_of_the_files(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("lookup")
    paths, want = [], []
    for name, keys in enumerate(files):
        paths.append(folder / f"{name}.jsonl")
        rows = [label(key, 100 * name + n) for n, key in enumerate(keys)]
        RowFile(paths[-1], Label).write(rows)
        want += rows
    found = Lookup(paths, Label, "comparison_id")
    for key in "abcde":
        assert found.all(key) == [row for row in want if row.comparison_id == key]
        assert (key in found) == any(row.comparison_id == key for row in want)
        assert found.get(key) == next((row for row in want if row.comparison_id == key), None)


def test_a_missing_key_is_said_and_a_torn_line_is_not_there(tmp_path):
    path = tmp_path / "labels.jsonl"
    RowFile(path, Label).write([label("a", 1), label("b", 2)])
    path.write_bytes(path.read_bytes()[:-5])
    found = Lookup([path, tmp_path / "none.jsonl"], Label, "comparison_id")
    assert found["a"].principle_id == "é\u20281"
    with pytest.raises(UserError, match=f'{tmp_path}: no label "b", which another row names'):
        found["b"]


def test_damaged_rows_are_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "x", "messages": []}\nhalf a row\n')
    with pytest.raises(UserError, match=r"prompts\.jsonl:2: damaged row"):
        Lookup([path], Prompt)
    path.write_text('{"id": "x", "messages": []}\n')
    with pytest.raises(
        UserError, match=r"prompts\.jsonl:1: damaged row .messages: Tuple should have at least 1 item"
    ):
        Lookup([path], Prompt).get("x")
