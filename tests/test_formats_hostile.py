"""Ratings, probabilities, times and names that are none: each field of each format in turn holds one."""

import json
import math

import pytest

from rlaif.errors import UserError
from rlaif.human.agree import agree
from rlaif.human.annotated import read_annotated
from rlaif.human.exporters import export_file
from rlaif.human.formats import FORMATS
from rlaif.human.importers import import_file
from rlaif.human.linting import lint
from rlaif.records import Grade, Label, Ranking
from rlaif.runs.rows import read_rows
from tests.test_formats_any import places, replaced
from tests.test_formats_chosen import ROWS, lines, said, user

NAN, INFINITY = float("nan"), float("inf")
VALUES = [NAN, None, True, -1, 1e308, 10**400, "\ud800"]


@pytest.mark.parametrize("name", ROWS)
def test_no_field_of_a_row_ends_an_import_or_makes_a_figure_that_is_none(tmp_path, name):
    row, out = ROWS[name][0], tmp_path / "out"
    rows = [row, *(replaced(row, path, value) for path in places(row) for value in VALUES)]
    counts = import_file(name, lines(tmp_path / "x.jsonl", rows), out)
    assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())
    for kind, record in (("labels", Label), ("rankings", Ranking), ("grades", Grade)):
        for made in read_rows(out / f"{kind}.jsonl", record) if counts["rows"].get(kind) else ():
            assert_sound(made)


def assert_sound(row):
    if isinstance(row, Grade):
        assert all(map(math.isfinite, row.scores.values()))
        return
    assert row.seconds is None or 0 <= row.seconds < 1e8
    assert row.annotator.id not in ("nan", "inf", "None")
    if isinstance(row, Label) and row.verdict in ("a", "b"):
        assert (row.p_a or 0) >= 0.5 if row.verdict == "a" else (row.p_a or 0) <= 0.5


def imported(tmp_path, name, *rows):
    """(the labels of an import, what it left out, what it dropped)"""
    counts = import_file(name, lines(tmp_path / "x.jsonl", list(rows)), tmp_path / "out")
    return read_rows(tmp_path / "out" / "labels.jsonl", Label), counts["left_out"], counts["dropped"]


TABLE = {"prompt": "q", "first": "x", "second": "y", "verdict": "1"}


def test_the_probability_of_a_row_shown_the_other_way_round_is_told_about_first(tmp_path):
    row = {**TABLE, "verdict": "2", "p_first": 0.75, "swapped": True, "annotator": "judge", "kind": "AI"}
    (label,), left_out, _ = imported(tmp_path, "table", row)
    assert (label.verdict, label.p_a, label.order, label.annotator.kind) == ("a", 0.75, "ba", "ai")
    assert left_out == {}
    export_file(tmp_path / "out", "table", tmp_path / "back.csv")
    import_file("table", tmp_path / "back.csv", tmp_path / "again")
    assert read_rows(tmp_path / "again" / "labels.jsonl", Label) == [label]


@pytest.mark.parametrize("p", [0.25, NAN, INFINITY, 1.5, "high", True])
def test_a_probability_that_says_nothing_of_the_verdict_is_left_out_and_counted(tmp_path, p):
    trl = {"prompt": [user("q")], "chosen": [said("x")], "rejected": [said("y")], "p_chosen": p}
    for name, row in (("trl", trl), ("table", {**TABLE, "p_first": p})):
        (tmp_path / name).mkdir()
        (label,), left_out, _ = imported(tmp_path / name, name, row)
        assert label.p_a in (0.0, 1.0)
        assert left_out == {"probability that is none, or not on the verdict's side": 1}


def test_a_time_that_is_none_is_left_out_and_counted(tmp_path):
    rows = [{**TABLE, "annotator": str(n), "seconds": s} for n, s in enumerate((-1, NAN, 1e300, "soon", 2.5))]
    labels, left_out, _ = imported(tmp_path, "table", *rows)
    assert [label.seconds for label in labels] == [None, None, None, None, 2.5]
    assert left_out == {"time that is none": 4}
    (tmp_path / "tool").mkdir()
    task = ROWS["label-studio"][0]
    labels, left_out, _ = imported(tmp_path / "tool", "label-studio", replaced(task, TIME, -3.5))
    assert labels[0].seconds is None
    assert left_out["time that is none"] == 1


TIME = ("annotations", 0, "lead_time")


@pytest.mark.parametrize("zero", [0, 0.0, "0"])
def test_a_time_of_zero_is_a_time(tmp_path, zero):
    task = replaced(ROWS["label-studio"][0], TIME, zero)
    rows = {"table": {**TABLE, "seconds": zero}, "ranking": ROWS["ranking"][0] | {"seconds": zero}}
    for name, row in (rows | {"label-studio": task}).items():
        folder = tmp_path / name
        folder.mkdir()
        labels, left_out, _ = imported(folder, name, row)
        assert {label.seconds for label in labels if label.annotator == labels[0].annotator} == {0.0}
        assert "time that is none" not in left_out
        export_file(folder / "out", name, folder / "back.jsonl")
        import_file(name, folder / "back.jsonl", folder / "again")
        assert (folder / "again" / "labels.jsonl").read_text() == (
            folder / "out" / "labels.jsonl"
        ).read_text()
    found = agree(read_annotated([tmp_path / "ranking" / "out" / "rankings.jsonl"]))
    assert found["annotators"][0]["seconds"]["n"] > 0


@pytest.mark.parametrize(("verdict", "lost"), [("", 0), ("skip", 0), ("what", 0), ("1", 1), ("tie", 0)])
def test_a_probability_is_counted_as_none_only_beside_a_verdict(tmp_path, verdict, lost):
    rows = [{**TABLE, "annotator": "ann"}, {**TABLE, "verdict": verdict, "p_first": 0.25}]
    labels, left_out, _ = imported(tmp_path, "table", *rows)
    assert len(labels) == 2
    assert sum(left_out.values()) == lost


def test_a_missing_name_is_no_annotator_called_nan(tmp_path):
    rows = [{**TABLE, "annotator": NAN, "principle": NAN, "rationale": NAN, "model_first": NAN}]
    (label,), _, _ = imported(tmp_path, "table", *rows)
    assert (label.annotator.kind, label.annotator.id) == ("human", "table")
    assert (label.principle_id, label.rationale) == (None, None)
    alpaca = FORMATS["alpaca"].parse({**ROWS["alpaca"][0], "annotator": NAN})
    assert (alpaca.votes[0].annotator.kind, alpaca.votes[0].annotator.id) == ("human", "people")
    argilla = ROWS["argilla"][0] | {"ranking.responses.users": [None]}
    assert FORMATS["argilla"].parse(argilla).rankings[0].annotator is None


def test_a_judge_is_not_counted_among_people(tmp_path):
    rows = [{**TABLE, "kind": kind, "annotator": "x"} for kind in ("ai", "robot", "Simulated")]
    labels, _, dropped = imported(tmp_path, "table", *rows, {**TABLE, "kind": "ai"})
    kinds = [(label.annotator.kind, label.annotator.id) for label in labels]
    assert kinds == [("ai", "x"), ("simulated", "x"), ("ai", "table")]
    assert dropped == {"a kind of annotator that is none of human, ai, simulated": 1}
    ranking = ROWS["ranking"][0]
    assert str(FORMATS["ranking"].parse(ranking | {"annotator": {"kind": "robot", "id": "x"}})) in dropped
    (unnamed,) = FORMATS["ranking"].parse(ranking | {"annotator": {"kind": "ai"}}).rankings
    assert (unnamed.annotator.kind, unnamed.annotator.id) == ("ai", "ranking")


def test_text_that_cannot_be_written_drops_its_row_alone(tmp_path):
    rows = [{**TABLE, "rationale": "\ud800"}, {**TABLE, "annotator": "bob"}]
    labels, _, dropped = imported(tmp_path, "table", *rows)
    assert [label.annotator.id for label in labels] == ["bob"]
    assert dropped == {"not valid Unicode text": 1}


def own_rows(tmp_path, **values):
    """A folder of two people's labels, the first with these values; values that are bytes stand as they
    are."""
    rows = [{**TABLE, "annotator": who, "seconds": 3} for who in ("ann", "bob")]
    imported(tmp_path, "table", *rows)
    path = tmp_path / "out" / "labels.jsonl"
    first, *rest = path.read_text().splitlines()
    text = json.dumps(json.loads(first) | {key: f"@{key}" for key in values})
    for key, value in values.items():
        text = text.replace(f'"@{key}"', value.decode() if isinstance(value, bytes) else json.dumps(value))
    path.write_text("\n".join([text, *rest]) + "\n")
    return tmp_path / "out"


@pytest.mark.parametrize("seconds", [b"NaN", b"1e999", -1, 1e308])
def test_a_time_that_is_none_is_in_no_sum(tmp_path, seconds):
    found = agree(read_annotated([own_rows(tmp_path, seconds=seconds)]))
    assert [row["seconds"]["n"] for row in found["annotators"]] == [0, 1]
    assert found["annotators"][1]["seconds"]["total"] == 3.0


@pytest.mark.parametrize(
    "values", [{"p_a": 0.1}, {"verdict": "b", "p_a": 0.9}, {"verdict": "invalid"}, {"verdict": "abstain"}]
)
def test_a_label_that_contradicts_itself_is_named_wherever_it_is_read(tmp_path, values):
    folder = own_rows(tmp_path, **values)
    for path in (folder, folder / "labels.jsonl"):
        with pytest.raises(UserError, match=r"labels.jsonl:1: the verdict is .* but p_a is"):
            read_annotated([path])
    with pytest.raises(UserError, match=r"labels.jsonl:1: the verdict is .* but p_a is"):
        lint([folder])
