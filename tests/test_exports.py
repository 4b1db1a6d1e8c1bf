"""What an export writes can be read back, in every kind of file, and what it cannot hold is said."""

import json

import pytest

from rlaif.errors import UserError
from rlaif.human.exporters import export_file
from rlaif.human.formats import FORMATS
from rlaif.human.importers import import_file
from rlaif.records import Label
from rlaif.report.cards import data_card
from rlaif.runs.rows import read_rows
from tests.test_formats_chosen import ROWS, lines, said, user

TABLE = {"prompt": "q", "first": "x", "second": "y", "verdict": "1", "annotator": "ann"}
TURNS = [user("q"), said("w"), user("r")]


def folder(tmp_path, *rows, format="table"):
    import_file(format, lines(tmp_path / "in.jsonl", list(rows)), tmp_path / "rows")
    return tmp_path / "rows"


WRITABLE = [name for name, format in FORMATS.items() if format.write or format.write_row]


@pytest.mark.parametrize("name", WRITABLE)
def test_every_kind_of_file_is_read_back_alike_or_refused(tmp_path, name):
    """Prompts of one turn and of several, of which some formats hold the first alone."""
    several = json.dumps(TURNS)
    rows = folder(tmp_path, TABLE, {**TABLE, "prompt": "r", "verdict": "2"}, {**TABLE, "prompt": several})
    found = {}
    for suffix in (".jsonl", ".json", ".csv", ".parquet", ""):
        out = tmp_path / f"made{suffix}"
        lists = suffix == ".csv" and name not in ("hh", "rewardbench", "icai", "alpaca", "table")
        if lists or (FORMATS[name].whole and suffix not in (".json", ".jsonl")):
            with pytest.raises(UserError, match=r"hold lists|is one JSON document"):
                export_file(rows, name, out)
            assert not out.exists()
            assert not out.with_name(out.name + ".partial").exists()
            continue
        counts = export_file(rows, name, out)
        import_file(name, out, tmp_path / f"back{suffix}")
        labels = (tmp_path / f"back{suffix}" / "comparisons.jsonl").read_text()
        grades = tmp_path / f"back{suffix}" / "grades.jsonl"
        found[suffix] = (counts, labels, grades.exists() and grades.read_text())
    assert len(set(map(str, found.values()))) == 1
    assert all(counts["kept"] >= 2 for counts, *_ in found.values())


@pytest.mark.parametrize("name", ["trl-unpaired", "sharegpt-kto"])
def test_pairs_of_a_ranking_are_good_and_bad_responses(tmp_path, name):
    rows = folder(tmp_path, *ROWS["ranking"], format="ranking")
    counts = export_file(rows, name, tmp_path / "made.jsonl")
    assert (counts["in"], counts["kept"], counts["written"]) == (3, 2, 4)
    back = import_file(name, tmp_path / "made.jsonl", tmp_path / "back")
    assert back["format"] == name


def test_an_export_of_nothing_is_refused(tmp_path):
    rows = folder(tmp_path, {**TABLE, "verdict": "tie"})
    for name, out in (("trl", "made"), ("hh", "made.jsonl")):
        with pytest.raises(UserError, match=r"holds nothing to export \(1 × no winner\)"):
            export_file(rows, name, tmp_path / out)
        assert not (tmp_path / out).exists()


def test_the_card_says_how_many_rows_the_file_has(tmp_path):
    rows = folder(tmp_path, TABLE, {**TABLE, "annotator": "bob"}, {**TABLE, "prompt": "r"})
    counts = export_file(rows, "table", tmp_path / "made.jsonl")
    assert counts["written"] == len((tmp_path / "made.jsonl").read_text().splitlines()) == 3
    assert "\n2 of 2 rows (written as 3), in the format" in data_card(rows, "table", counts)
    counts = export_file(rows, "hh", tmp_path / "hh.jsonl")
    assert "\n2 of 2 rows, in the format" in data_card(rows, "hh", counts)


def test_a_subset_is_the_same_after_a_round_trip(tmp_path):
    rows = folder(tmp_path, *ROWS["rewardbench"], format="rewardbench")
    export_file(rows, "rewardbench", tmp_path / "made.jsonl")
    import_file("rewardbench", tmp_path / "made.jsonl", tmp_path / "back")
    for name in ("prompts", "labels"):
        assert (tmp_path / "back" / f"{name}.jsonl").read_text() == (rows / f"{name}.jsonl").read_text()


def test_labels_beside_rankings_are_counted_where_only_rankings_are_exported(tmp_path):
    rows = folder(tmp_path, *ROWS["ranking"], format="ranking")
    (tmp_path / "other").mkdir()
    other = folder(tmp_path / "other", {**TABLE, "prompt": "other"})
    for name in ("prompts", "responses", "comparisons", "labels"):
        with (rows / f"{name}.jsonl").open("a") as file:
            file.write((other / f"{name}.jsonl").read_text())
    counts = export_file(rows, "ranking", tmp_path / "made.jsonl")
    assert counts["left_out"] == {"comparison with labels that no ranking or graded response holds": 1}


def test_annotated_pairs_turn_no_person_into_a_model_and_no_tie_into_a_win(tmp_path):
    judge = {**TABLE, "annotator": "zed", "kind": "ai"}
    both = [{**judge, "prompt": "orders"}, {**judge, "prompt": "orders", "swapped": True}]
    one_name = [{**TABLE, "annotator": "zed"}, {**judge, "verdict": "2"}]
    ruled = [{**TABLE, "prompt": "p", "principle": "kind"}, {**judge, "prompt": "p", "principle": "kind"}]
    played = {**TABLE, "prompt": "s", "kind": "simulated"}
    rows = folder(tmp_path, *both, *one_name, *ruled, played)
    counts = export_file(rows, "annotated-pairs", tmp_path / "made.json")
    assert list(counts["left_out"].values()) == [2]  # one of both orders, and the person's under a principle
    import_file(None, tmp_path / "made.json", tmp_path / "back")
    found = [
        (label.annotator.kind, label.annotator.id, label.principle_id, label.verdict)
        for label in read_rows(tmp_path / "back" / "labels.jsonl", Label)
    ]
    assert sorted(found, key=str) == [
        ("ai", "principles", "kind", "a"),
        ("ai", "zed", None, "b"),
        ("ai", "zed", None, "tie"),
        ("human", "zed", None, "a"),
        ("simulated", "ann", None, "a"),
    ]
